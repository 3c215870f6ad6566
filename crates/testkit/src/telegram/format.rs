//! Text and its formatting as Telegram stores it. Positions count UTF-16 code units.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::calls::Refusal;
use super::html;
use super::parameters::Parameters as _;

/// The maximum length of a message without its tags.
const LONGEST: usize = 4096;

/// A formatted part of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entity {
    /// `code`, `bold`, ...
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) offset: usize,
    pub(super) length: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
}

/// A text with its formatting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Formatted {
    pub(super) text: String,
    pub(super) entities: Vec<Entity>,
}

impl Formatted {
    /// The text of a call, if Telegram accepts it.
    pub(super) fn of(arguments: &Map<String, Value>) -> Result<Self, Refusal> {
        let text = arguments.text("text").unwrap_or_default();
        let formatted = match arguments.text("parse_mode").as_deref() {
            None | Some("") => {
                let entities = arguments.value("entities").unwrap_or(Value::Array(vec![]));
                let entities = serde_json::from_value(entities)
                    .map_err(|_| Refusal::bad("can't parse MessageEntity"))?;
                Self { text, entities }.trimmed()
            }
            Some(mode) if mode.eq_ignore_ascii_case("html") => html::parse(&text)
                .map_err(|error| Refusal::bad(format!("can't parse entities: {error}")))?,
            Some(_) => return Err(Refusal::bad("unsupported parse_mode")),
        };
        match formatted.text.chars().count() {
            0 => Err(Refusal::bad("message text is empty")),
            1..=LONGEST => Ok(formatted),
            _ => Err(Refusal::bad("message is too long")),
        }
    }

    /// The formatted part.
    pub(super) fn marked(&self, entity: &Entity) -> String {
        let units: Vec<_> = self.text.encode_utf16().collect();
        let begin = entity.offset.min(units.len());
        let end = (entity.offset + entity.length).min(units.len());
        String::from_utf16_lossy(&units[begin..end])
    }

    /// Removes white space at both ends and moves the formatting.
    pub(super) fn trimmed(mut self) -> Self {
        let before = self.text.len() - self.text.trim_start().len();
        let cut = self.text[..before].encode_utf16().count();
        self.text = self.text.trim().to_owned();
        let end = self.text.encode_utf16().count();
        for entity in &mut self.entities {
            let stop = (entity.offset + entity.length).saturating_sub(cut).min(end);
            entity.offset = entity.offset.saturating_sub(cut).min(end);
            entity.length = stop.saturating_sub(entity.offset);
        }
        self.entities.retain(|entity| entity.length > 0);
        self
    }
}
