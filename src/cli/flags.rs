//! The settings as flags, made from their table.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, builder::ValueHint, value_parser};

use crate::config::{Setting, TABLE, Takes};

const HEADING: &str = "Settings";
/// The settings that say where the service is, and where its first token.
const FOR_CLIENTS: [&str; 2] = ["listen", "data_dir"];

/// Gives `command` a flag for every setting.
pub(super) fn all(command: Command) -> Command {
    command.arg(config()).args(TABLE.iter().map(flag))
}

/// Gives `command` the flags of the settings that a client looks at.
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
        .help("File of settings [env: KEYWARD_CONFIG] [default: ./keyward.toml, if it exists]")
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

/// The settings given as flags, also before the verb (those after it count for more), and the
/// file that is named.
pub(super) fn given(matches: &ArgMatches) -> (Vec<(String, String)>, Option<PathBuf>) {
    let (mut flags, mut config) = (Vec::new(), None);
    let mut level = Some(matches);
    while let Some(matches) = level {
        for setting in TABLE {
            // An error means that this verb has no such flag.
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
