//! Where values come from: flags, environment variables, `keyward.toml`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Setting, TABLE, Takes, wrong};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing was given.
    Default,
    /// `keyward.toml`, by this path.
    File(PathBuf),
    /// An environment variable of this name.
    Variable(String),
    /// A flag of this name, with its dashes.
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

/// What settings are gathered from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Values of flags by the setting's name; names that are not in the table are ignored.
    pub flags: Vec<(String, String)>,
    /// The file named by `--config`.
    pub config: Option<PathBuf>,
    /// All environment variables; those that do not start with `KEYWARD_` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// The file that is read when none is named; it need not exist.
    pub default_file: PathBuf,
}

/// Values as text, by the setting's name.
pub(super) type Given = HashMap<&'static str, (String, Source)>;

const PREFIX: &str = "KEYWARD_";
const CONFIG_VARIABLE: &str = "KEYWARD_CONFIG";
/// Variables that are not settings of the service.
const OTHER_VARIABLES: [&str; 4] = [
    CONFIG_VARIABLE,
    "KEYWARD_ENDPOINT",
    "KEYWARD_TOKEN_FILE",
    "KEYWARD_CA_FILE",
];

/// The values that are given, the strongest source of each, and what is wrong with the sources.
pub(super) fn gather(inputs: Inputs) -> (Given, Vec<String>) {
    let mut errors = Vec::new();
    let (variables, named) = variables(&inputs.environment, &mut errors);
    let mut given = match inputs.config.or(named) {
        Some(path) => from_file(&path, true, &mut errors),
        None => from_file(&inputs.default_file, false, &mut errors),
    };
    given.extend(variables);
    for (name, text) in inputs.flags {
        if let Some(setting) = find(&name) {
            given.insert(setting.name, (text, Source::Flag(setting.flag())));
        }
    }
    (given, errors)
}

fn find(name: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.name == name)
}

/// The settings among the variables, and the file that `KEYWARD_CONFIG` names.
fn variables(
    environment: &[(OsString, OsString)],
    errors: &mut Vec<String>,
) -> (Given, Option<PathBuf>) {
    let mut given = Given::new();
    let mut file = None;
    for (name, value) in environment {
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) {
            continue;
        }
        if name == CONFIG_VARIABLE {
            file = Some(PathBuf::from(value));
            continue;
        }
        let Some(setting) = TABLE.iter().find(|setting| setting.variable() == name) else {
            let text = value.to_string_lossy();
            if !is_for_others(&name, &text) {
                let known = TABLE.iter().map(Setting::variable);
                let known = known
                    .chain(OTHER_VARIABLES.map(str::to_owned))
                    .collect::<Vec<_>>();
                errors.push(unknown(&format!("variable {name}"), &name, &known));
            }
            continue;
        };
        let source = Source::Variable(setting.variable());
        match value.to_str() {
            Some(text) => drop(given.insert(setting.name, (text.to_owned(), source))),
            None => errors.push(wrong(setting.name, "...", &source, "is not UTF-8")),
        }
    }
    (given, file)
}

/// Variables of the client commands, of the bot, and those that Kubernetes injects for every
/// service whose name starts with `keyward`.
fn is_for_others(name: &str, value: &str) -> bool {
    let of_service = |name: &str| {
        name.ends_with("_SERVICE_HOST")
            || name.ends_with("_SERVICE_PORT")
            || name.contains("_SERVICE_PORT_")
            || ["tcp://", "udp://", "sctp://"]
                .iter()
                .any(|scheme| value.starts_with(scheme))
            || ["_TCP_", "_UDP_", "_SCTP_"]
                .iter()
                .any(|protocol| name.contains(protocol))
    };
    OTHER_VARIABLES.contains(&name)
        || ["KEYWARD_BOT_", "KEYWARD_SERVICE_", "KEYWARD_PORT_"]
            .iter()
            .any(|p| name.starts_with(p))
        || name == "KEYWARD_PORT"
        || of_service(name)
}

fn from_file(path: &Path, must_exist: bool, errors: &mut Vec<String>) -> Given {
    let at = path.display();
    let table = match std::fs::read_to_string(path) {
        Ok(text) => text.parse::<toml::Table>().map_err(|error| {
            let before = error
                .span()
                .and_then(|span| text.get(..span.start))
                .unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            format!("{at}, line {line}: {}", error.message())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound && must_exist => {
            Err(format!("{at}: there is no such file"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Given::new(),
        Err(error) => Err(format!("{at}: cannot be read: {error}")),
    };
    let table = match table {
        Ok(table) => table,
        Err(error) => {
            errors.push(error);
            return Given::new();
        }
    };
    let source = Source::File(path.to_owned());
    let mut given = Given::new();
    for (key, value) in table {
        let Some(setting) = find(&key) else {
            let known = TABLE.iter().map(|s| s.name.to_owned()).collect::<Vec<_>>();
            errors.push(unknown(
                &format!("{at}: key '{}'", key.escape_debug()),
                &key,
                &known,
            ));
            continue;
        };
        match text_of(&value, setting.takes) {
            Ok(text) => drop(given.insert(setting.name, (text, source.clone()))),
            Err(reason) => errors.push(wrong(setting.name, &value.to_string(), &source, &reason)),
        }
    }
    given
}

/// The text that a flag would have to give the same value.
fn text_of(value: &toml::Value, takes: Takes) -> Result<String, String> {
    match (value, takes) {
        (toml::Value::String(text), _) => Ok(text.clone()),
        (toml::Value::Integer(number), Takes::Value(_)) => Ok(number.to_string()),
        (toml::Value::Boolean(on), Takes::Switch) => Ok(on.to_string()),
        (toml::Value::Array(values), Takes::List(_)) => values
            .iter()
            .map(|value| {
                value
                    .as_str()
                    .ok_or_else(|| "takes an array of strings".to_owned())
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|texts| texts.join(",")),
        (_, Takes::List(_)) => Err("takes an array of strings".into()),
        (_, Takes::Switch) => Err("takes true or false".into()),
        (_, Takes::Value(_)) => Err("takes a string or a number".into()),
    }
}

/// Refuses a name; points to the nearest known one, or to all when none is near.
fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let stem = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_lowercase();
    let name = stem(name);
    let distance = |candidate: &&String| strsim::damerau_levenshtein(&name, &stem(candidate));
    match known.iter().min_by_key(distance) {
        Some(nearest) if distance(&nearest) <= 1 + name.chars().count() / 4 => {
            format!("{what} is unknown; did you mean {nearest}?")
        }
        _ => format!("{what} is unknown; known are {}", known.join(", ")),
    }
}
