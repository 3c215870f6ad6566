//! The `keyward` binary: starts the service, or runs a command against it.

use std::path::Path;
use std::process::ExitCode;

use keyward::config::Settings;
use keyward::{app, cli, system};

/// It returns the memory of a crowd to the system once the crowd has gone.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    system::choose_cryptography();
    cli::run(std::env::args_os(), std::env::vars_os(), &App)
}

/// The commands that need no service, implemented by [`app`].
struct App;

impl cli::LocalCommands for App {
    fn serve(&self, settings: Settings) -> Result<(), String> {
        app::serve(settings).map_err(|error| error.to_string())
    }

    fn migrate(&self, settings: &Settings, service_role: Option<&str>) -> Result<String, String> {
        app::migrate(settings, service_role).map_err(|error| error.to_string())
    }

    fn init(
        &self,
        settings: &Settings,
        service_role: Option<&str>,
        token_file: Option<&Path>,
        if_new: bool,
    ) -> Result<String, String> {
        app::init(settings, service_role, token_file, if_new).map_err(|error| error.to_string())
    }

    fn advance_epoch(&self, settings: &Settings, reason: &str) -> Result<String, String> {
        app::advance_epoch(settings, reason).map_err(|error| error.to_string())
    }

    fn add_cache_key(&self, settings: &Settings) -> Result<String, String> {
        app::add_cache_key(settings).map_err(|error| error.to_string())
    }
}
