//! The `keyward` binary: starts the service, or runs a command against it.

use std::process::ExitCode;

use keyward::cli::{
    AddedKind, ClockCommand, EpochCommand, ExpiredKeys, KeyringCommand, LocalCommand, LocalResult,
    LocalWork,
};
use keyward::config::Settings;
use keyward::{app, cli, system};
use keyward_crypto::KeyKind;

/// It returns the memory of a crowd to the system once the crowd has gone.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    system::choose_cryptography();
    cli::run(std::env::args_os(), std::env::vars_os(), &execute)
}

/// Executes work of this process.
fn execute(work: LocalWork) -> Result<LocalResult, String> {
    match work {
        LocalWork::Command(command, settings) => execute_command(command, *settings),
        LocalWork::Agent(settings) => app::serve_agent(&settings)
            .map(|()| LocalResult::Text(String::new()))
            .map_err(|error| error.to_string()),
    }
}

/// Executes a command that calls no service.
fn execute_command(command: LocalCommand, settings: Settings) -> Result<LocalResult, String> {
    let done = match command {
        LocalCommand::Serve => app::serve(settings).map(|()| String::new()),
        LocalCommand::Migrate { service_role } => app::migrate(&settings, service_role.as_deref()),
        LocalCommand::Init {
            service_role,
            token_file,
            if_new,
        } => app::init(
            &settings,
            service_role.as_deref(),
            token_file.as_deref(),
            if_new,
        ),
        LocalCommand::Epoch(EpochCommand::Advance { reason }) => {
            app::advance_epoch(&settings, &reason)
        }
        LocalCommand::Clock(ClockCommand::Lower { reason, expired }) => {
            let revoke_expired = expired.map(|decision| decision == ExpiredKeys::Revoke);
            app::lower_time(&settings, &reason, revoke_expired)
        }
        LocalCommand::Keyring(KeyringCommand::Add {
            kind,
            number,
            secret_file,
        }) => {
            let kind = match kind {
                AddedKind::Generation => KeyKind::Generation,
                AddedKind::Seal => KeyKind::Seal,
                AddedKind::Cache => KeyKind::Cache,
                AddedKind::Foreign => KeyKind::Foreign,
                AddedKind::Import => KeyKind::Import,
                AddedKind::Audit => KeyKind::Audit,
            };
            app::add_to_keyring(&settings, kind, number, secret_file.as_deref())
        }
        LocalCommand::Doctor => return Ok(LocalResult::Findings(app::doctor(&settings))),
    };
    done.map(LocalResult::Text)
        .map_err(|error| error.to_string())
}
