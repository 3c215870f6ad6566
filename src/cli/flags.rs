//! The settings as flags of the verbs.

use std::path::PathBuf;

use clap::{ArgMatches, Command};
use keyward_ops::settings::{flags, flags_of, given_flags};

use crate::config::Settings;

/// The settings that locate the service and its first token.
const FOR_CLIENTS: [&str; 2] = ["listen", "data_dir"];

/// Adds a flag for every setting to `command`.
pub(super) fn all(command: Command) -> Command {
    command.args(flags::<Settings>())
}

/// Gives `command` the flags of the settings that a client uses.
pub(super) fn for_clients(command: Command) -> Command {
    command.args(flags_of::<Settings>(&FOR_CLIENTS))
}

/// The settings given as flags, and the settings file that a flag names.
pub(super) fn given(matches: &ArgMatches) -> (Vec<(String, String)>, Option<PathBuf>) {
    given_flags::<Settings>(matches)
}
