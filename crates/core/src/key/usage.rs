//! The use of a key: when it was accepted last, and how often it was refused because it is dead.

use super::Timestamp;

/// The use of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUse {
    /// When the key was accepted last.
    pub last_use: Option<Timestamp>,
    /// How often it was refused because it was revoked, expired or disabled.
    pub refused: u64,
    /// When it was refused last for that.
    pub last_refused: Option<Timestamp>,
}

impl KeyUse {
    /// Adds use of the same key that was noted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.last_use = self.last_use.max(other.last_use);
        self.refused = self.refused.saturating_add(other.refused);
        self.last_refused = self.last_refused.max(other.last_refused);
    }
}
