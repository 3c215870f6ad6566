//! The commands that this process executes itself instead of calling a service.

use keyward_ops::findings::Finding;

use super::args::LocalCommand;
use super::render::Report;
use super::{Failure, doctor};
use crate::config::{Settings, Store};

/// Executes a command with these settings. Returns its result, or an error text that says what to do.
/// Neither holds a secret.
pub type Execute = dyn Fn(LocalCommand, Settings) -> Result<LocalResult, String>;

/// What a command returns.
#[derive(Debug)]
pub enum LocalResult {
    /// The text to print, without the last line end.
    Text(String),
    /// What [`LocalCommand::Doctor`] has found.
    Findings(Vec<Finding>),
}

/// Executes the command. Returns the report.
pub(super) fn run(
    command: LocalCommand,
    settings: Settings,
    execute: &Execute,
) -> Result<Report, Failure> {
    if let Store::Sqlite(_) = settings.store
        && let Some(reason) = needless_for_embedded(&command)
    {
        return Err(Failure::Usage(reason));
    }
    Ok(match execute(command, settings).map_err(Failure::Failed)? {
        LocalResult::Text(mut text) => {
            if !text.is_empty() {
                text.push('\n');
            }
            Report {
                done: Some("the command succeeded".to_owned()),
                ..Report::default().text(&text)
            }
        }
        LocalResult::Findings(findings) => doctor::report(&findings),
    })
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
        LocalCommand::Serve
        | LocalCommand::Clock(_)
        | LocalCommand::Keyring(_)
        | LocalCommand::Doctor => return None,
    };
    Some(format!(
        "the embedded store {instead}, so it does not need `keyward {name}`: for a Postgres store, \
         set `store`, such as --store postgres://USER@HOST/DATABASE"
    ))
}
