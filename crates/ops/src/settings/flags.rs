//! The table of settings as flags of a command line.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, builder::ValueHint, value_parser};

use super::{Schema, Setting, Takes};

const HEADING: &str = "Settings";
const CONFIG: &str = "config";

/// `--config` and a flag for each setting that can be a flag.
pub fn flags<S: Schema>() -> Vec<Arg> {
    select::<S>(|_| true)
}

/// `--config` and the flags of the settings in `names`.
pub fn flags_of<S: Schema>(names: &[&str]) -> Vec<Arg> {
    select::<S>(|setting| names.contains(&setting.name))
}

fn select<S: Schema>(is_wanted: impl Fn(&Setting<S>) -> bool) -> Vec<Arg> {
    let flags = S::TABLE.iter().filter(|setting| !setting.is_variable_only);
    let flags = flags.filter(|setting| is_wanted(setting)).map(flag);
    std::iter::once(config::<S>()).chain(flags).collect()
}

fn config<S: Schema>() -> Arg {
    let help = format!(
        "Settings file [env: {}CONFIG] [default: ./{}, if it exists]",
        S::PREFIX,
        S::FILE
    );
    Arg::new(CONFIG)
        .long(CONFIG)
        .value_name("FILE")
        .value_hint(ValueHint::FilePath)
        .value_parser(value_parser!(PathBuf))
        .help_heading(HEADING)
        .help(help)
}

fn flag<S: Schema>(setting: &Setting<S>) -> Arg {
    let default = match setting.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let help = format!("{} [env: {}]{default}", setting.help, setting.variable());
    let flag = Arg::new(setting.name)
        .long(setting.name.replace('_', "-"))
        .action(ArgAction::Set)
        .help_heading(HEADING)
        .help(help);
    match setting.takes {
        Takes::Value(name) | Takes::List(name) => flag.value_name(name),
        Takes::Tables => flag.value_name("TOML"),
        Takes::Switch => flag
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
    }
}

/// The settings given as flags, and the file that `--config` names. Flags after the subcommand
/// override flags before it.
pub fn given_flags<S: Schema>(matches: &ArgMatches) -> (Vec<(String, String)>, Option<PathBuf>) {
    let (mut flags, mut config) = (Vec::new(), None);
    let mut level = Some(matches);
    while let Some(matches) = level {
        for setting in S::TABLE {
            // An error means that this subcommand has no such flag.
            if let Ok(Some(text)) = matches.try_get_one::<String>(setting.name)
                && matches.value_source(setting.name) == Some(ValueSource::CommandLine)
            {
                flags.push((setting.name.to_owned(), text.clone()));
            }
        }
        if let Ok(Some(path)) = matches.try_get_one::<PathBuf>(CONFIG) {
            config = Some(path.clone());
        }
        level = matches.subcommand().map(|(_, matches)| matches);
    }
    (flags, config)
}
