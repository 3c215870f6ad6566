//! The flags for the settings, built from the table of settings.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, builder::ValueHint, value_parser};

use crate::config::{Setting, TABLE, Takes};

const HEADING: &str = "Settings";
/// The settings that tell a client where the service and its first token are.
const FOR_CLIENTS: [&str; 2] = ["listen", "data_dir"];

/// Adds a flag for every setting to `command`.
pub(super) fn all(command: Command) -> Command {
    command.arg(config()).args(TABLE.iter().map(flag))
}

/// Adds the flags of the settings that a client reads to `command`.
pub(super) fn for_clients(command: Command) -> Command {
    let settings = TABLE
        .iter()
        .filter(|setting| FOR_CLIENTS.contains(&setting.name));
    command.arg(config()).args(settings.map(flag))
}

fn config() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .value_parser(value_parser!(PathBuf))
        .help_heading(HEADING)
        .help("File with settings [env: KEYWARD_CONFIG] [default: ./keyward.toml, if it exists]")
}

fn flag(setting: &Setting) -> Arg {
    let help = format!(
        "{} [env: {}] [default: {}]",
        setting.help,
        setting.variable(),
        setting.documented_default()
    );
    let flag = Arg::new(setting.name)
        .long(setting.name.replace('_', "-"))
        .action(ArgAction::Set)
        .help_heading(HEADING)
        .help(help);
    match setting.takes {
        Takes::Value(name) | Takes::List(name) => flag.value_name(name),
        Takes::Switch => flag
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
    }
}

/// The settings that flags set, and the settings file. Flags may precede the verb; a flag after the
/// verb wins.
pub(super) fn given(matches: &ArgMatches) -> (Vec<(String, String)>, Option<PathBuf>) {
    let (mut flags, mut config) = (Vec::new(), None);
    let mut level = Some(matches);
    while let Some(matches) = level {
        for setting in TABLE {
            // An error means that this verb does not have the flag.
            if let Ok(Some(text)) = matches.try_get_one::<String>(setting.name)
                && matches.value_source(setting.name) == Some(ValueSource::CommandLine)
            {
                flags.push((setting.name.to_owned(), text.clone()));
            }
        }
        if let Ok(Some(path)) = matches.try_get_one::<PathBuf>("config") {
            config = Some(path.clone());
        }
        level = matches.subcommand().map(|(_, matches)| matches);
    }
    (flags, config)
}
