//! The settings of a program, from one table: its flags, its variables, the keys of its file and
//! its documentation. Flags override variables, variables override the file, the file overrides the
//! defaults. Each setting remembers its source, and all errors are reported at once.

mod flags;
mod shared;
mod source;
pub mod values;

use std::fmt::Write as _;

pub use flags::{flags, flags_of, given_flags};
pub use shared::{HasTelemetry, Telemetry, key_of};
pub use source::{Inputs, Source, tables};

/// A struct of settings, with the table that fills it. `load` starts with its `Default`, which holds blank
/// values: the defaults of the settings are in the table.
pub trait Schema: Default + 'static {
    /// The prefix of the environment variables, for example `KEYWARD_`.
    const PREFIX: &'static str;
    /// The file that is read if it exists and the operator names no other file.
    const FILE: &'static str;
    /// Variables with the prefix that other programs use. A final `*` matches any text.
    const FOREIGN: &'static [&'static str] = &[];
    /// All settings. A setting can depend only on settings above it.
    const TABLE: &'static [Setting<Self>];

    /// Adds the errors that concern several settings to those of single settings in `errors`.
    fn check(&mut self, entries: &[Entry], errors: &mut Vec<String>);
}

/// One setting: `max_staleness` in the file, `--max-staleness`, `KEYWARD_MAX_STALENESS`.
#[derive(Debug)]
pub struct Setting<S: 'static> {
    /// The name in the file.
    pub name: &'static str,
    /// The kind of its value.
    pub takes: Takes,
    /// The effect of the setting and its limits: a sentence without the full stop.
    pub help: &'static str,
    default: &'static str,
    derive: Option<fn(&S) -> String>,
    set: fn(&mut S, &str) -> Result<(), String>,
    show: Option<fn(&S) -> String>,
    is_of_clients: bool,
    tables: &'static [&'static str],
    is_confidential: bool,
    is_variable_only: bool,
}

/// The kind of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// One value, and its name in help texts.
    Value(&'static str),
    /// Several values: separated by commas, or an array in the file.
    List(&'static str),
    /// Tables: `[[NAME]]` in the file, elsewhere an array of inline tables.
    Tables,
    /// `true` or `false`. The flag without a value means `true`.
    Switch,
}

impl<S: Schema> Setting<S> {
    /// A setting that `set` reads from text. `default` is the default value as text; empty means
    /// that there is none.
    pub const fn new(
        name: &'static str,
        takes: Takes,
        default: &'static str,
        help: &'static str,
        set: fn(&mut S, &str) -> Result<(), String>,
    ) -> Self {
        Self {
            name,
            takes,
            help,
            default,
            derive: None,
            set,
            show: None,
            is_of_clients: false,
            tables: &[],
            is_confidential: false,
            is_variable_only: false,
        }
    }

    /// Shows the value with `show` instead of repeating the text.
    pub const fn shown(self, show: fn(&S) -> String) -> Self {
        Self {
            show: Some(show),
            ..self
        }
    }

    /// Computes the default from the settings above. The default in `new` then describes it.
    pub const fn derived(self, derive: fn(&S) -> String) -> Self {
        Self {
            derive: Some(derive),
            ..self
        }
    }

    /// A value of the list may also be a table in the file, with these keys. As text, its values are joined
    /// by colons in this order.
    pub const fn tables(self, keys: &'static [&'static str]) -> Self {
        Self {
            tables: keys,
            ..self
        }
    }

    /// The value can contain a secret: errors never repeat its text. Without `shown` nothing of the
    /// value is shown.
    pub const fn confidential(self) -> Self {
        Self {
            is_confidential: true,
            ..self
        }
    }

    /// Every client of Keyward has this setting: the variable is the same for all of them.
    pub const fn of_clients(self) -> Self {
        Self {
            is_of_clients: true,
            ..self
        }
    }

    /// Only the variable can hold it: other users can see flags, and people copy files.
    pub const fn variable_only(self) -> Self {
        Self {
            is_variable_only: true,
            ..self
        }
    }

    /// The flag with its two dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The name of the environment variable.
    pub fn variable(&self) -> String {
        let prefix = match self.is_of_clients {
            true => "KEYWARD_",
            false => S::PREFIX,
        };
        format!("{prefix}{}", self.name.to_uppercase())
    }

    /// One line: the setting, its value unless that can contain a secret, its source, the reason.
    fn refusal(&self, text: &str, source: &Source, reason: &str) -> String {
        match (self.is_confidential, source) {
            (true, _) => format!("{} ({source}): {reason}", self.name),
            (false, Source::Default) if text.is_empty() => format!("{} {reason}", self.name),
            (false, _) => refusal(self.name, text, source, reason),
        }
    }
}

/// A setting in force and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in the file.
    pub name: &'static str,
    /// The value as text, without secrets.
    pub value: String,
    /// The source of the value.
    pub source: Source,
}

impl Entry {
    /// The error for a setting that another setting rules out.
    pub fn refused(&self, reason: &str) -> String {
        refusal(self.name, &self.value, &self.source, reason)
    }

    /// The entry of the setting `name`.
    pub fn find<'a>(entries: &'a [Self], name: &str) -> Option<&'a Self> {
        entries.iter().find(|entry| entry.name == name)
    }
}

/// The settings in force and the source of each.
#[derive(Clone, Debug)]
pub struct Effective<S> {
    /// The settings.
    pub settings: S,
    /// One entry for each setting, in the order of the table.
    pub entries: Vec<Entry>,
}

/// All errors in the settings, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Errors(pub Vec<String>);

/// Loads all settings from `inputs`. Reads no file except the settings file and those that
/// `Schema::check` reads.
///
/// # Errors
///
/// Every unknown name, wrong value, refused combination and unreadable file, at once.
pub fn load<S: Schema>(inputs: Inputs) -> Result<Effective<S>, Errors> {
    let (mut effective, mut errors) = read(inputs, |_| true);
    let Effective { settings, entries } = &mut effective;
    S::check(settings, entries, &mut errors);
    or_errors(effective, errors)
}

/// Loads only the settings in `names`. Ignores the values of all others and does not call
/// `Schema::check`, so it needs no secrets.
///
/// # Errors
///
/// Every unknown name, an unreadable file, and wrong values of `names`, at once.
pub fn load_only<S: Schema>(inputs: Inputs, names: &[&str]) -> Result<Effective<S>, Errors> {
    let (effective, errors) = read(inputs, |setting| names.contains(&setting.name));
    or_errors(effective, errors)
}

fn or_errors<T>(value: T, errors: Vec<String>) -> Result<T, Errors> {
    match errors.is_empty() {
        true => Ok(value),
        false => Err(Errors(errors)),
    }
}

fn read<S: Schema>(
    inputs: Inputs,
    is_wanted: impl Fn(&Setting<S>) -> bool,
) -> (Effective<S>, Vec<String>) {
    let (mut given, mut errors) = source::gather::<S>(inputs);
    let (mut settings, mut entries) = (S::default(), Vec::with_capacity(S::TABLE.len()));
    for setting in S::TABLE.iter().filter(|setting| is_wanted(setting)) {
        let (text, source) = given.remove(setting.name).unwrap_or_else(|| {
            let derived = setting.derive.map(|derive| derive(&settings));
            let text = derived.unwrap_or_else(|| setting.default.to_owned());
            (text, Source::Default)
        });
        // Files and templates add line breaks.
        let text = text.trim();
        if let Err(reason) = (setting.set)(&mut settings, text) {
            errors.push(setting.refusal(text, &source, &reason));
        }
        let value = match (setting.show, setting.is_confidential) {
            (Some(show), _) => show(&settings),
            (None, true) => "***".to_owned(),
            (None, false) => text.to_owned(),
        };
        entries.push(Entry {
            name: setting.name,
            value,
            source,
        });
    }
    (Effective { settings, entries }, errors)
}

fn refusal(name: &str, value: &str, source: &Source, reason: &str) -> String {
    let value: String = value.chars().take(200).collect();
    format!("{name} = '{}' ({source}): {reason}", value.escape_debug())
}

/// The table as Markdown, for the documentation.
pub fn markdown<S: Schema>() -> String {
    let mut text = String::from("| setting | default | meaning |\n|---|---|---|\n");
    for setting in S::TABLE {
        let default = match (setting.default, setting.derive) {
            ("", _) => String::new(),
            (text, Some(_)) => text.to_owned(),
            (text, None) => format!("`{text}`"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {default} | {}. |",
            setting.name, setting.help
        );
    }
    text
}

#[cfg(test)]
mod tests;
