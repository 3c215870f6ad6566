//! A message of the bot as a person sees it.

use std::fmt;

use super::markup::Button;
use super::world::Message;

/// One state of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// The chat that it stands in.
    pub chat: i64,
    /// Its id.
    pub id: i64,
    /// Its text, without marks.
    pub text: String,
    /// What is set in monospace, and copies at a tap.
    pub code: Vec<String>,
    /// Its buttons, in rows.
    pub rows: Vec<Vec<Button>>,
    /// How often the bot has changed it.
    pub edits: usize,
}

impl Screen {
    pub(super) fn of(message: &Message) -> Self {
        let entities = message.content.entities.iter();
        let code = entities.filter(|entity| ["code", "pre"].contains(&entity.kind.as_str()));
        Self {
            chat: message.chat,
            id: message.id,
            text: message.content.text.clone(),
            code: code.map(|entity| message.content.marked(entity)).collect(),
            rows: message.rows.clone(),
            edits: message.edits,
        }
    }

    /// Its buttons, in order.
    pub fn buttons(&self) -> impl Iterator<Item = &Button> {
        self.rows.iter().flatten()
    }

    /// What stands on its buttons.
    pub fn labels(&self) -> Vec<&str> {
        self.buttons().map(|button| button.label.as_str()).collect()
    }

    /// The button with this label or these data.
    pub fn button(&self, named: &str) -> Option<&Button> {
        self.buttons()
            .find(|button| button.label == named || button.data.as_deref() == Some(named))
    }

    /// The key that it shows: what its copy button copies.
    ///
    /// # Panics
    ///
    /// When the text does not hold the same in monospace: then a person copies one key or another.
    pub fn key(&self) -> Option<&str> {
        let key = self.buttons().find_map(|button| button.copies.as_deref())?;
        assert!(
            self.code.iter().any(|code| code == key),
            "the button copies what the text does not show:\n{self}"
        );
        Some(key)
    }
}

/// As a terminal shows it: the text, and the buttons in brackets.
impl fmt::Display for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for row in &self.rows {
            let labels: Vec<_> = row.iter().map(|b| format!("[ {} ]", b.label)).collect();
            writeln!(f, "{}", labels.join(" "))?;
        }
        Ok(())
    }
}
