//! The commands that this process executes itself instead of calling a service.

use super::Failure;
use super::args::LocalCommand;
use crate::config::{Settings, Store};

/// Executes a command with these settings. Returns the text to print, without the last line end, or an
/// error text that says what to do. Neither holds a secret.
pub type Execute = dyn Fn(LocalCommand, Settings) -> Result<String, String>;

/// Executes the command. Returns the output.
pub(super) fn run(
    command: LocalCommand,
    settings: Settings,
    execute: &Execute,
) -> Result<String, Failure> {
    if let Store::Sqlite(_) = settings.store
        && let Some(reason) = needless_for_embedded(&command)
    {
        return Err(Failure::Usage(reason));
    }
    let mut text = execute(command, settings).map_err(Failure::Failed)?;
    if !text.is_empty() {
        text.push('\n');
    }
    Ok(text)
}

/// Why the embedded store does not need the command, if it does not.
fn needless_for_embedded(command: &LocalCommand) -> Option<String> {
    let (name, instead) = match command {
        LocalCommand::Migrate { .. } => ("migrate", "updates its schema at each start"),
        LocalCommand::Init { .. } => (
            "init",
            "creates its keyring and its first token at the first start",
        ),
        LocalCommand::Epoch(_) => ("epoch advance", "begins a new epoch at each start"),
        LocalCommand::Serve | LocalCommand::Clock(_) | LocalCommand::Keyring(_) => return None,
    };
    Some(format!(
        "the embedded store {instead}, so it does not need `keyward {name}`: for a Postgres store, \
         set `store`, such as --store postgres://USER@HOST/DATABASE"
    ))
}
