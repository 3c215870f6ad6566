//! The `keyward` binary: the service, and a client of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyward::cli::run(std::env::args_os(), std::env::vars_os(), |settings| {
        keyward::app::serve(settings).map_err(|error| error.to_string())
    })
}
