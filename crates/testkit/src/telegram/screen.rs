//! A message of the bot as a user sees it.

use std::fmt;

use super::markup::Button;
use super::world::Message;

/// One state of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// The chat of the message.
    pub chat: i64,
    /// The id.
    pub id: i64,
    /// The text without formatting.
    pub text: String,
    /// The monospaced text, which a tap copies.
    pub code: Vec<String>,
    /// The buttons, in rows.
    pub rows: Vec<Vec<Button>>,
    /// The number of edits by the bot.
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

    /// The buttons, in order.
    pub fn buttons(&self) -> impl Iterator<Item = &Button> {
        self.rows.iter().flatten()
    }

    /// The labels of the buttons.
    pub fn labels(&self) -> Vec<&str> {
        self.buttons().map(|button| button.label.as_str()).collect()
    }

    /// The button with this label or this callback data.
    pub fn button(&self, named: &str) -> Option<&Button> {
        self.buttons()
            .find(|button| button.label == named || button.data.as_deref() == Some(named))
    }

    /// The displayed key: the text that the copy button copies.
    ///
    /// # Panics
    ///
    /// The monospaced text is not the same, so the user could copy two different keys.
    pub fn key(&self) -> Option<&str> {
        let key = self.buttons().find_map(|button| button.copies.as_deref())?;
        assert!(
            self.code.iter().any(|code| code == key),
            "the button copies what the text does not show:\n{self}"
        );
        Some(key)
    }
}

/// The terminal form: the text, and the buttons in brackets.
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
