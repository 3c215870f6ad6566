//! The sources of settings: flags, environment variables, the settings file.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Schema, Setting, Takes};

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// No source gives a value.
    Default,
    /// The settings file at this path.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
    /// The flag of this name, with its dashes.
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

/// Everything that settings are loaded from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Values of flags by the setting's name; unknown names are ignored.
    pub flags: Vec<(String, String)>,
    /// The file that `--config` names.
    pub config: Option<PathBuf>,
    /// All environment variables. Variables without the prefix are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// The file to read if the operator names none. It need not exist.
    pub default_file: PathBuf,
}

/// Values as text, by the setting's name.
pub(super) type Given = HashMap<&'static str, (String, Source)>;

/// The value of each setting from its strongest source, and the errors of the sources.
pub(super) fn gather<S: Schema>(inputs: Inputs) -> (Given, Vec<String>) {
    let mut errors = Vec::new();
    let (variables, named) = from_variables::<S>(&inputs.environment, &mut errors);
    let mut given = match inputs.config.or(named) {
        Some(path) => from_file::<S>(&path, true, &mut errors),
        None => from_file::<S>(&inputs.default_file, false, &mut errors),
    };
    given.extend(variables);
    for (name, text) in inputs.flags {
        if let Some(setting) = find::<S>(&name) {
            given.insert(setting.name, (text, Source::Flag(setting.flag())));
        }
    }
    (given, errors)
}

fn find<S: Schema>(name: &str) -> Option<&'static Setting<S>> {
    S::TABLE.iter().find(|setting| setting.name == name)
}

/// The settings among the variables, and the settings file that a variable names.
fn from_variables<S: Schema>(
    environment: &[(OsString, OsString)],
    errors: &mut Vec<String>,
) -> (Given, Option<PathBuf>) {
    let (mut given, mut file) = (Given::new(), None);
    let config = format!("{}CONFIG", S::PREFIX);
    for (name, value) in environment {
        let name = name.to_string_lossy();
        // Templates leave a setting out by an empty variable.
        if value.to_str().is_some_and(|text| text.trim().is_empty()) {
            continue;
        }
        if name == config {
            file = Some(
                value
                    .to_str()
                    .map_or_else(|| value.into(), |text| text.trim().into()),
            );
            continue;
        }
        match S::TABLE.iter().find(|setting| setting.variable() == name) {
            Some(setting) => match value.to_str() {
                Some(text) => {
                    let source = Source::Variable(setting.variable());
                    given.insert(setting.name, (text.to_owned(), source));
                }
                None => errors.push(format!("variable {name} is not UTF-8")),
            },
            None if name.starts_with(S::PREFIX) && !is_foreign::<S>(&name, value) => {
                let known = S::TABLE.iter().map(Setting::variable);
                let known = known.chain([config.clone()]).chain(exact_names::<S>());
                let known = known.collect::<Vec<_>>();
                errors.push(unknown::<S>(&format!("variable {name}"), &name, &known));
            }
            None => {}
        }
    }
    (given, file)
}

/// The foreign variables that the schema lists with their full names.
fn exact_names<S: Schema>() -> impl Iterator<Item = String> {
    let names = S::FOREIGN.iter().filter(|name| !name.ends_with('*'));
    names.map(|name| (*name).to_owned())
}

/// Whether the variable belongs to another program, or Kubernetes injects it for a service whose
/// name starts like the prefix: `KEYWARD_PORT=tcp://...`, `KEYWARD_METRICS_SERVICE_HOST`.
fn is_foreign<S: Schema>(name: &str, value: &OsString) -> bool {
    let is_listed = |listed: &&str| match listed.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *listed,
    };
    let value = value.to_string_lossy();
    let begins = |schemes: &[&str]| schemes.iter().any(|scheme| value.starts_with(scheme));
    let contains = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let rest = name.strip_prefix(S::PREFIX).unwrap_or(name);
    S::FOREIGN.iter().any(is_listed)
        || rest == "PORT"
        || rest.starts_with("PORT_")
        || rest.starts_with("SERVICE_")
        || rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || contains(&["_SERVICE_PORT_", "_TCP_", "_UDP_", "_SCTP_"])
        || begins(&["tcp://", "udp://", "sctp://"])
}

fn from_file<S: Schema>(path: &Path, must_exist: bool, errors: &mut Vec<String>) -> Given {
    let mut given = Given::new();
    let at = path.display();
    let table = match read_table(path, must_exist) {
        Ok(table) => table,
        Err(error) => {
            errors.push(format!("{at}{error}"));
            return given;
        }
    };
    let source = Source::File(path.to_owned());
    for (key, value) in table {
        match find::<S>(&key) {
            Some(setting) if setting.is_variable_only => errors.push(format!(
                "{at}: {key} is a secret and cannot be set in a settings file; set the variable {}",
                setting.variable()
            )),
            Some(setting) => match text_of(&value, setting.takes, setting.tables) {
                Ok(text) => drop(given.insert(setting.name, (text, source.clone()))),
                Err(reason) => {
                    errors.push(setting.refusal(&value.to_string(), &source, &reason));
                }
            },
            None => {
                let known = S::TABLE.iter().filter(|setting| !setting.is_variable_only);
                let known: Vec<_> = known.map(|setting| setting.name.to_owned()).collect();
                let what = format!("{at}: key '{}'", key.escape_debug());
                errors.push(unknown::<S>(&what, &key, &known));
            }
        }
    }
    given
}

/// The keys of the file; none if it does not exist and need not. An error continues the path.
fn read_table(path: &Path, must_exist: bool) -> Result<toml::Table, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match must_exist {
                true => Err(": there is no such file".to_owned()),
                false => Ok(toml::Table::new()),
            };
        }
        Err(error) => return Err(format!(": cannot be read: {error}")),
    };
    text.parse().map_err(|error: toml::de::Error| {
        // The error's own text repeats the line, which can contain a secret.
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.unwrap_or_default().matches('\n').count() + 1;
        format!(", line {line}: {}", error.message())
    })
}

/// The text that a flag would need for the same value.
fn text_of(value: &toml::Value, takes: Takes, tables: &[&str]) -> Result<String, String> {
    let wrong = |takes: &str| Err(takes.to_owned());
    match (value, takes) {
        (toml::Value::String(text), _) => Ok(text.clone()),
        (toml::Value::Integer(number), Takes::Value(_)) => Ok(number.to_string()),
        (toml::Value::Boolean(on), Takes::Switch) => Ok(on.to_string()),
        (toml::Value::Array(values), Takes::List(_)) => {
            let texts = values.iter().map(|value| item_of(value, tables));
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        (toml::Value::Array(_), Takes::Tables) => Ok(value.to_string()),
        (_, Takes::Tables) => wrong("takes an array of tables"),
        (_, Takes::List(_)) if !tables.is_empty() => wrong("takes an array of strings and tables"),
        (_, Takes::List(_)) => wrong("takes an array of strings"),
        (_, Takes::Switch) => wrong("takes true or false"),
        (_, Takes::Value(_)) => wrong("takes a string or a number"),
    }
}

/// The text of one value of a list.
fn item_of(value: &toml::Value, keys: &[&str]) -> Result<String, String> {
    let part = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Table(table) if !keys.is_empty() => {
            let parts = keys.iter().map(|key| part(table.get(*key)?));
            let parts = parts.collect::<Option<Vec<_>>>();
            let parts = parts.filter(|parts| parts.len() == table.len());
            // A colon within a value would move the values behind it.
            let parts = parts.filter(|parts| parts.iter().all(|part| !part.contains([':', ','])));
            parts.map(|parts| parts.join(":")).ok_or_else(|| {
                let keys = keys.join(", ");
                format!(
                    "takes tables with the keys {keys}, whose values have no colon and no comma"
                )
            })
        }
        _ if keys.is_empty() => Err("takes an array of strings".to_owned()),
        _ => Err("takes an array of strings and tables".to_owned()),
    }
}

/// Reads each table of a `Takes::Tables` into a copy of `base`. A table may hold the settings
/// that `is_allowed` names.
///
/// # Errors
///
/// What is wrong, without the values.
pub fn tables<S: Schema + Clone>(
    text: &str,
    base: &S,
    is_allowed: fn(&str) -> bool,
) -> Result<Vec<S>, String> {
    let wrong = || "takes an array of tables".to_owned();
    let value = text.parse().ok();
    let Some(toml::Value::Array(tables)) = value else {
        return Err(wrong());
    };
    let read = |(number, table): (i32, toml::Value)| {
        let toml::Value::Table(mut table) = table else {
            return Err(wrong());
        };
        let mut values = base.clone();
        for setting in S::TABLE.iter().filter(|setting| is_allowed(setting.name)) {
            let Some(value) = table.remove(setting.name) else {
                continue;
            };
            let text = text_of(&value, setting.takes, setting.tables);
            let set = text.and_then(|text| (setting.set)(&mut values, text.trim()));
            set.map_err(|reason| format!("table {number}: {} {reason}", setting.name))?;
        }
        match table.keys().next() {
            Some(key) => {
                let key = key.escape_debug();
                Err(format!(
                    "table {number}: '{key}' is no setting of one table"
                ))
            }
            None => Ok(values),
        }
    };
    (1..).zip(tables).map(read).collect()
}

/// The error for an unknown name. Suggests the nearest known name, or lists all if none is near.
fn unknown<S: Schema>(what: &str, name: &str, known: &[String]) -> String {
    let stem = |name: &str| name.strip_prefix(S::PREFIX).unwrap_or(name).to_lowercase();
    let name = stem(name);
    let distance = |candidate: &&String| strsim::damerau_levenshtein(&name, &stem(candidate));
    match known.iter().min_by_key(distance) {
        Some(nearest) if distance(&nearest) <= 1 + name.chars().count() / 4 => {
            format!("{what} is unknown; did you mean {nearest}?")
        }
        _ => format!("{what} is unknown; known are {}", known.join(", ")),
    }
}
