//! The `keyward-bot` binary: flags, exit codes, and the subcommand that reports the health of a
//! running bot.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Command};
use keyward_bot::settings::{Inputs, Values};
use keyward_bot::{app, health, settings};
use keyward_ops::OtherCrates;
use keyward_ops::settings::{Schema as _, flags, flags_of, given_flags};

/// It returns the memory of a crowd to the system once the crowd has gone.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// EX_USAGE: the command line or a setting is wrong.
const USAGE: u8 = 64;
const ABOUT: &str = "Telegram front end of Keyward: shows users their API key, and replaces it";
const AFTER: &str = "\
Each setting is a flag, a variable, or a key in the settings file (--hide-after is hide_after there). \
Flags override variables, variables override the file. The bot's token is not a flag: set \
KEYWARD_BOT_TELEGRAM_TOKEN, or name a file with --telegram-token-file.

Exit codes: 0 after SIGTERM or SIGINT, 64 for a wrong setting, 1 if the bot cannot start for another \
reason.";

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let is_wrong = error.use_stderr();
            // If the output is closed, the exit code is all that remains.
            let _ = error.print();
            return ExitCode::from(if is_wrong { USAGE } else { 0 });
        }
    };
    match matches.subcommand() {
        Some(("health", matches)) => ask_health(matches),
        _ => match settings::load(inputs(&matches)) {
            Ok(settings) => run(settings),
            Err(errors) => failed(USAGE, &errors.to_string()),
        },
    }
}

fn inputs(matches: &ArgMatches) -> Inputs {
    let (flags, config) = given_flags::<Values>(matches);
    Inputs {
        flags,
        config,
        environment: std::env::vars_os().collect(),
        default_file: PathBuf::from(Values::FILE),
    }
}

fn run(settings: settings::Settings) -> ExitCode {
    if let Err(error) = keyward_ops::process::forbid_core_dumps() {
        return failed(1, &format!("cannot protect the memory: {error}"));
    }
    // The URLs of the Bot API contain the token, and other crates log URLs.
    let others = OtherCrates::WarningsOnly;
    let telemetry = match keyward_ops::init(&settings.telemetry, "keyward-bot", others) {
        Ok(telemetry) => telemetry,
        Err(error) => return failed(USAGE, &error.to_string()),
    };
    // The text of a panic can contain what a user wrote, so the log has only its place.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place = place.unwrap_or_default(), "panicked");
    }));
    ended(on_runtime(app::run(settings, telemetry.metrics())))
}

fn on_runtime<T, E: ToString>(program: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime: {error}"))?;
    let result = runtime.block_on(program);
    // An abandoned task must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map_err(|error| error.to_string())
}

fn ended(result: Result<(), impl ToString>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error.to_string()),
    }
}

fn failed(code: u8, text: &str) -> ExitCode {
    for line in text.lines() {
        // If stderr is closed, the exit code is all that remains.
        let _ = writeln!(std::io::stderr().lock(), "keyward-bot: {line}");
    }
    ExitCode::from(code)
}

/// Succeeds if the bot with these settings serves users.
fn ask_health(matches: &ArgMatches) -> ExitCode {
    let side_port = match settings::side_port(inputs(matches)) {
        Ok(Some(side_port)) if side_port.port() != 0 => side_port,
        Ok(_) => return failed(USAGE, "http_listen names no port to ask"),
        Err(errors) => return failed(USAGE, &errors.to_string()),
    };
    let health = on_runtime(health::ask(side_port));
    // If the output is closed, the exit code is all that remains.
    ended(health.map(|text| drop(writeln!(std::io::stdout().lock(), "{text}"))))
}

fn command() -> Command {
    let health = Command::new("health")
        .about("Ask the bot with these settings on this host whether it serves users")
        .after_help(
            "Exit codes: 0 if it does, 1 if not or after 3 seconds, 64 for a wrong setting.",
        )
        .args(flags_of::<Values>(&["http_listen"]));
    Command::new("keyward-bot")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(AFTER)
        .args_conflicts_with_subcommands(true)
        .args(flags::<Values>())
        .subcommand(health)
}
