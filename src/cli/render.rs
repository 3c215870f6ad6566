//! Formats values as text: reports, aligned lines, tables, times, and what a terminal would not show.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;

use super::args::Format;

/// The fields of a message, in the order of the text output.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// A field of a message as JSON. What is absent on the wire is null.
pub(super) trait Field {
    fn json(&self) -> Value;
}

impl Field for String {
    fn json(&self) -> Value {
        json!(present(self))
    }
}

impl Field for Option<Timestamp> {
    fn json(&self) -> Value {
        json!(self.as_ref().map(time))
    }
}

macro_rules! as_they_are {
    ($($kind:ty),+) => {$(
        impl Field for $kind {
            fn json(&self) -> Value {
                json!(self)
            }
        }
    )+};
}

as_they_are!(bool, u32, u64, Vec<String>, BTreeMap<String, String>);

/// The result of a command, in both formats. It may hold a secret, so it has no `Debug`.
#[derive(Default)]
pub(super) struct Report {
    pub(super) json: Map<String, Value>,
    pub(super) text: String,
    /// Additional advice for the user. It goes to stderr, so that no program reads it as the result.
    pub(super) note: Option<String>,
    /// What the command has changed. It goes to stderr if the output cannot be written.
    pub(super) done: Option<String>,
    /// The exit code.
    pub(super) exit: u8,
}

impl Report {
    /// Adds a value to the JSON object alone.
    pub(super) fn json(mut self, name: &str, value: Value) -> Self {
        self.json.insert(name.to_owned(), value);
        self
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// Adds fields of the response itself.
    pub(super) fn fields(mut self, fields: Fields) -> Self {
        self.text.push_str(&lines(&fields));
        let fields = fields.into_iter();
        self.json
            .extend(fields.map(|(name, value)| (name.to_owned(), value)));
        self
    }

    /// Adds a message in the response; `None` is null.
    pub(super) fn message(self, name: &str, fields: Option<Fields>) -> Self {
        let text = fields.as_ref().map(lines).unwrap_or_default();
        let value = fields.map(Value::from_iter);
        self.text(&text).json(name, json!(value))
    }

    /// Adds messages as a table with these columns.
    pub(super) fn table(self, name: &str, columns: &[&str], rows: Vec<Value>) -> Self {
        let text = table(columns, &rows);
        self.text(&text).json(name, rows.into())
    }

    /// Adds a secret, if there is one.
    pub(super) fn secret(self, name: &str, secret: &str) -> Self {
        let text = present(secret).map(|secret| format!("\n{secret}\n"));
        self.text(&text.unwrap_or_default())
            .json(name, json!(present(secret)))
    }

    pub(super) fn next_page(self, token: &str) -> Self {
        let name = "next_page_token";
        let text = present(token).map(|token| format!("\n{name}: {token}\n"));
        self.text(&text.unwrap_or_default())
            .json(name, json!(present(token)))
    }

    pub(super) fn render(&self, format: Format) -> String {
        match format {
            Format::Text => for_people(&self.text),
            // The command has written each line.
            Format::Jsonl => String::new(),
            Format::Json => format!("{:#}\n", Value::Object(self.json.clone())),
        }
    }
}

/// Escapes each character that a terminal acts on or shows nothing for, such as one that reverses the
/// direction of the text. Line ends stay.
pub(super) fn for_people(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(visible).collect();
    lines.join("\n")
}

fn visible(text: &str) -> String {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    let categories = CodePointMapData::<GeneralCategory>::new();
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        let is_hidden = ignorable.contains(character)
            || matches!(
                categories.get(character),
                Control | Format | LineSeparator | ParagraphSeparator
            );
        if is_hidden {
            // Writing to a String cannot fail.
            let _ = write!(visible, "{}", character.escape_unicode());
        } else {
            visible.push(character);
        }
    }
    visible
}

/// The name of an enum value without its prefix. A value that this version does not know is UNKNOWN.
pub(super) fn enum_name<E>(name: Result<&'static str, E>, prefix: &str) -> &'static str {
    name.map_or("UNKNOWN", |name| name.strip_prefix(prefix).unwrap_or(name))
}

/// On the wire, an empty string means that the value is absent.
pub(super) fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// RFC 3339. A time outside the years 0 to 9999 becomes seconds since 1970.
pub(super) fn time(time: &Timestamp) -> String {
    time::OffsetDateTime::from_unix_timestamp(time.seconds)
        .ok()
        .map(|whole| whole + time::Duration::nanoseconds(time.nanos.into()))
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("@{}", time.seconds))
}

/// Aligned `name: value` lines for the fields that have a value.
fn lines(fields: &Fields) -> String {
    // The state says whether a key is disabled. Few keys were refused.
    let shown = fields.iter().filter(|(name, value)| match *name {
        "disabled" => false,
        "refused_count" => *value != 0,
        _ => true,
    });
    let cells = shown.map(|(name, value)| (name, cell(value)));
    let present: Vec<_> = cells.filter(|(_, value)| !value.is_empty()).collect();
    let widths = present.iter().map(|(name, _)| name.len() + 1);
    let width = widths.max().unwrap_or_default();
    let line = |(name, value)| format!("{:width$} {value}\n", format!("{name}:"));
    present.into_iter().map(line).collect()
}

/// Aligned columns with a header.
pub(super) fn table(columns: &[&str], rows: &[Value]) -> String {
    let header = columns
        .iter()
        .map(|column| column.to_uppercase())
        .collect::<Vec<_>>();
    let body = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(&row[*column])).collect());
    let cells: Vec<Vec<String>> = std::iter::once(header).chain(body).collect();
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    cells
        .iter()
        .map(|row| {
            let line: String = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            format!("{}\n", line.trim_end())
        })
        .collect()
}

/// A value as text for people, on one line; empty if the value is absent.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => visible(text),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(entries) => {
            let pairs = entries
                .iter()
                .map(|(name, value)| format!("{}={}", visible(name), cell(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_out_of_range_is_shown_in_seconds() {
        assert_eq!(
            time(&Timestamp {
                seconds: i64::MAX,
                nanos: 0
            }),
            format!("@{}", i64::MAX)
        );
    }
}
