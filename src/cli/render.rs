//! Formats values as text: reports, aligned lines, tables and times.

use prost_types::Timestamp;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;

use super::args::Format;

/// The result of a command, in both formats. It may hold a secret, so it has no `Debug`.
#[derive(Default)]
pub(super) struct Report {
    pub(super) json: Value,
    pub(super) text: String,
    /// Additional advice for the user. It goes to stderr, so that no program reads it as the result.
    pub(super) note: Option<String>,
    /// The exit code.
    pub(super) exit: u8,
}

impl Report {
    pub(super) fn new(json: Value, text: String) -> Self {
        Self {
            json,
            text,
            note: None,
            exit: super::DONE,
        }
    }

    pub(super) fn render(&self, format: Format) -> String {
        match format {
            Format::Text => self.text.clone(),
            Format::Json => format!("{:#}\n", self.json),
        }
    }
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

pub(super) fn secret(text: &str) -> String {
    format!("\n{text}\n")
}

pub(super) fn next_page(token: &str) -> String {
    if token.is_empty() {
        String::new()
    } else {
        format!("\nnext_page_token: {token}\n")
    }
}

/// Aligned `name: value` lines for those `fields` that `object` has.
pub(super) fn lines(object: &Value, fields: &[&str]) -> String {
    let width = fields
        .iter()
        .map(|field| field.len())
        .max()
        .unwrap_or_default()
        + 1;
    fields
        .iter()
        .map(|field| (field, cell(&object[*field])))
        .filter(|(_, value)| !value.is_empty())
        .map(|(field, value)| format!("{:width$} {value}\n", format!("{field}:")))
        .collect()
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

/// A value as text for people; empty if the value is absent.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(entries) => {
            let pairs = entries
                .iter()
                .map(|(name, value)| format!("{name}={}", cell(value)));
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
