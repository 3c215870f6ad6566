//! Where values come from: flags, environment variables, a file. Flags beat variables, variables
//! beat the file.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::table::{Place, Setting, TABLE};

/// Every variable of the bot's own.
const PREFIX: &str = "KEYWARD_BOT_";
const CONFIG_VARIABLE: &str = "KEYWARD_BOT_CONFIG";
/// The file that is read when none is named; it need not exist.
pub const DEFAULT_FILE: &str = "keyward-bot.toml";

/// What settings are gathered from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Values of flags by the setting's name.
    pub flags: Vec<(String, String)>,
    /// The file named by `--config`.
    pub config: Option<PathBuf>,
    /// All environment variables.
    pub environment: Vec<(OsString, OsString)>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File(PathBuf),
    Variable(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Values as text, by the setting's name.
pub(super) type Given = HashMap<&'static str, (String, Source)>;

/// The values that are given, the strongest source of each, and what is wrong with the sources.
pub(super) fn gather(inputs: Inputs) -> (Given, Vec<String>) {
    let mut errors = Vec::new();
    let (variables, named) = variables(&inputs.environment, &mut errors);
    let mut given = match inputs.config.or(named) {
        Some(path) => from_file(&path, true, &mut errors),
        None => from_file(Path::new(DEFAULT_FILE), false, &mut errors),
    };
    given.extend(variables);
    for (name, text) in inputs.flags {
        if let Some(setting) = TABLE.iter().find(|setting| setting.name == name) {
            given.insert(setting.name, (text, Source::Flag(setting.flag())));
        }
    }
    (given, errors)
}

fn variables(
    environment: &[(OsString, OsString)],
    errors: &mut Vec<String>,
) -> (Given, Option<PathBuf>) {
    let (mut given, mut file) = (Given::new(), None);
    for (name, value) in environment {
        let name = name.to_string_lossy();
        if name == CONFIG_VARIABLE {
            file = Some(PathBuf::from(value));
            continue;
        }
        match (TABLE.iter().find(|s| s.variable() == name), value.to_str()) {
            (Some(setting), Some(value)) => {
                let source = Source::Variable(setting.variable());
                given.insert(setting.name, (value.to_owned(), source));
            }
            (Some(_), None) => errors.push(format!("variable {name}: is not Unicode")),
            // What begins otherwise belongs to others.
            (None, _) if name.starts_with(PREFIX) => {
                let known = TABLE.iter().map(Setting::variable);
                let known = known
                    .chain([CONFIG_VARIABLE.to_owned()])
                    .collect::<Vec<_>>();
                errors.push(unknown(&format!("variable {name}"), &name, &known));
            }
            (None, _) => {}
        }
    }
    (given, file)
}

fn from_file(path: &Path, must_exist: bool, errors: &mut Vec<String>) -> Given {
    let mut given = Given::new();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            if must_exist || error.kind() != ErrorKind::NotFound {
                errors.push(format!("file {}: {error}", path.display()));
            }
            return given;
        }
    };
    let at = format!("file {}", path.display());
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            // Its own text repeats the line, and there may be a secret in it.
            let error: toml::de::Error = error;
            errors.push(format!("{at}: {}", error.message()));
            return given;
        }
    };
    let in_files = || TABLE.iter().filter(|s| s.place != Place::VariableOnly);
    for (name, value) in table {
        let Some(setting) = in_files().find(|setting| setting.name == name) else {
            if name == "telegram_token" {
                errors.push(format!(
                    "{at}: telegram_token may not stand in a file of settings; name a file of its \
                     own with telegram_token_file"
                ));
                continue;
            }
            let known: Vec<_> = in_files().map(|setting| setting.name.to_owned()).collect();
            errors.push(unknown(&format!("{at}: setting '{name}'"), &name, &known));
            continue;
        };
        match text_of(value) {
            Some(text) => {
                given.insert(setting.name, (text, Source::File(path.to_owned())));
            }
            None => errors.push(format!(
                "{at}: {name} takes one value, or an array of texts"
            )),
        }
    }
    given
}

/// A value as a variable would hold it.
fn text_of(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(is_on) => Some(is_on.to_string()),
        toml::Value::Array(all) => {
            let texts = all.into_iter().map(|one| match one {
                toml::Value::String(text) => Some(text),
                _ => None,
            });
            texts
                .collect::<Option<Vec<_>>>()
                .map(|texts| texts.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// What is said of an unknown name: the nearest known one.
fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= name.len() / 3);
    match nearest {
        Some((_, nearest)) => format!("{what} is unknown; did you mean {nearest}?"),
        None => format!("{what} is unknown; --help lists the settings"),
    }
}
