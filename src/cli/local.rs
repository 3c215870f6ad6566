//! The commands that this process executes itself instead of calling a service.

use keyward_ops::findings::Finding;

use super::args::LocalCommand;
use super::render::Report;
use super::{Failure, doctor};
use crate::config::{AgentSettings, Settings, Store};

/// Executes work of this process. Returns its result, or an error text that says what to do. Neither holds a
/// secret.
pub type Execute = dyn Fn(LocalWork) -> Result<LocalResult, String>;

/// What this process executes itself.
#[derive(Debug)]
pub enum LocalWork {
    /// A command with the settings of the service.
    Command(LocalCommand, Box<Settings>),
    /// An agent.
    Agent(Box<AgentSettings>),
}

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
    perform(LocalWork::Command(command, Box::new(settings)), execute)
}

/// Does the work. Returns the report.
pub(super) fn perform(work: LocalWork, execute: &Execute) -> Result<Report, Failure> {
    Ok(match execute(work).map_err(Failure::Failed)? {
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
