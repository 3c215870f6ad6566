//! The completions and the manual pages, made from the definition of the command line.

use std::path::Path;

use clap_complete::Shell;

use super::render::Report;
use super::{Console, Failure, args};

/// The name of the program.
const NAME: &str = "keyward";

/// Prints the completions for `shell`. They go out as they are: a report escapes control characters.
pub(super) fn completions(shell: Shell, console: &mut Console<'_>) -> Result<Report, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), NAME, &mut script);
    let written = console.out.write_all(&script);
    let failed = |error| Failure::Failed(format!("cannot write the completions: {error}"));
    written.map_err(failed)?;
    Ok(Report::default())
}

/// Writes `keyward.1`, `keyward-issue.1` and so on to the directory, which it creates if it is missing.
pub(super) fn pages(directory: &Path) -> Result<Report, Failure> {
    let command = args::command().disable_help_subcommand(true);
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(command, directory));
    match written {
        Ok(()) => Ok(Report::default()),
        Err(error) => Err(Failure::Failed(format!(
            "cannot write the manual to {}: {error}. Name a directory that this user may write",
            directory.display()
        ))),
    }
}
