//! Lists of keys: what a query asks for, and the conditions that its SQL has in common on all databases.

use std::time::Duration;

use keyward_core::key::{AccountId, KeyId, KeyRecord, KeyState, SlotName};

/// The most keys that one call examines. A filter may fit few of very many keys, so a page can end early:
/// each call takes a short time, and the next one goes on.
pub const EXAMINED: u32 = 10_000;

/// The query for one page of keys.
#[derive(Clone, Debug, Default)]
pub struct ListKeys {
    /// The account; `None` for all keys.
    pub account: Option<AccountId>,
    /// Whether to include keys whose revoke time has passed. `state` takes its place.
    pub include_revoked: bool,
    /// Only keys in this state, by the store's time.
    pub state: Option<KeyState>,
    /// Only keys whose names begin with this.
    pub name_prefix: Option<SlotName>,
    /// Only keys that were created at least this long ago, by the store's time.
    pub older_than: Option<Duration>,
    /// Only keys whose last use, or without one their creation, was at least this long ago.
    pub unused_for: Option<Duration>,
    /// Only keys after this one, in order of creation.
    pub after: Option<KeyId>,
    /// The most keys to return.
    pub limit: u32,
}

/// The keys that a query found.
#[derive(Clone, Debug, Default)]
pub struct KeyPage {
    /// The keys, in order of creation.
    pub keys: Vec<KeyRecord>,
    /// The last key that was examined, if there may be others after it and `keys` has fewer than `limit`.
    pub examined_to: Option<KeyId>,
}

impl KeyPage {
    /// The page with `keys`. The store has examined keys up to `bound`, or all.
    pub fn new(keys: Vec<KeyRecord>, limit: u32, bound: Option<KeyId>) -> Self {
        let is_full = keys.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        Self {
            keys,
            examined_to: bound.filter(|_| !is_full),
        }
    }
}

impl ListKeys {
    /// The SQL condition that a key is in the wanted states at the time `now`, which is an SQL expression.
    /// It begins with the condition of the partial index of its state.
    pub fn state_condition(&self, now: &str) -> String {
        let lives = format!("(revoke_time IS NULL OR (NOT revoked AND revoke_time > {now}))");
        let unexpired = format!("(expire_time IS NULL OR expire_time > {now})");
        match self.state {
            None if self.include_revoked => "true".to_owned(),
            None => lives,
            Some(KeyState::Revoked) => {
                format!("revoke_time IS NOT NULL AND (revoked OR revoke_time <= {now})")
            }
            Some(KeyState::Expired) => format!(
                "expire_time IS NOT NULL AND NOT revoked AND expire_time <= {now} AND {lives}"
            ),
            Some(KeyState::Disabled) => {
                format!("disabled AND NOT revoked AND {lives} AND {unexpired}")
            }
            Some(KeyState::Active) => format!("NOT disabled AND {lives} AND {unexpired}"),
        }
    }

    /// The part of `state_condition` that the index has by which the keys are found.
    pub const fn indexed_condition(&self) -> &'static str {
        match self.state {
            // The index of the accounts has all keys.
            _ if self.account.is_some() => "true",
            Some(KeyState::Revoked) => "revoke_time IS NOT NULL",
            Some(KeyState::Expired) => "expire_time IS NOT NULL AND NOT revoked",
            Some(KeyState::Disabled) => "disabled AND NOT revoked",
            Some(KeyState::Active) | None => "true",
        }
    }

    /// The first text after all that begin with the wanted prefix.
    pub fn after_prefix(&self) -> Option<String> {
        let prefix = self.name_prefix.as_ref()?.as_str();
        let mut characters: Vec<char> = prefix.chars().collect();
        // Names are ASCII letters, digits and some signs, and a prefix is not empty.
        let last = characters.pop()?;
        characters.push(char::from_u32(u32::from(last) + 1)?);
        Some(characters.into_iter().collect())
    }
}
