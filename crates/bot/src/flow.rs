//! What to show, given what Keyward said. Pure: no I/O, no language.
//!
//! Two rules are kept here. A key is called dead, and a successor new, only when Keyward has
//! proven the revocation; every other end of a Revoke is unclear, and the way on is the same
//! Revoke again. And no key is shown that is not of the user's own account.

use std::time::Duration;

use keyward_client::{Error, ErrorKind, Secret, v1};
use time::OffsetDateTime;
use uuid::Uuid;

/// A key as it is named without being disclosed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The public name of the key.
    pub key_id: Uuid,
    /// Its beginning, such as `kw_3fGq`.
    pub hint: String,
}

/// The key of the account as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Present {
    /// It lives, and this is it.
    Shown {
        /// Which key.
        key: Named,
        /// Its text.
        api_key: Secret,
        /// Nobody can show it again.
        once: bool,
    },
    /// It lives, but was shown once and for all when it was made.
    NotShown(Named),
    /// It is switched off.
    Disabled(Named),
}

impl Present {
    /// Which key.
    pub const fn key(&self) -> &Named {
        match self {
            Self::Shown { key, .. } | Self::NotShown(key) | Self::Disabled(key) => key,
        }
    }

    /// `None` for a key that is dead or is to die, is not of `account`, or is no key.
    fn of(account: &str, key: v1::ApiKey, api_key: String) -> Option<Self> {
        let api_key = Secret::new(api_key);
        let state = key.state();
        // One that lives on for a grace is no longer the key of its slot.
        if key.account_id != account || key.revoke_time.is_some() {
            return None;
        }
        let named = Named {
            key_id: Uuid::parse_str(&key.key_id).ok()?,
            hint: key.hint,
        };
        match state {
            v1::State::Disabled => Some(Self::Disabled(named)),
            v1::State::Active if api_key.expose().is_empty() => Some(Self::NotShown(named)),
            v1::State::Active => Some(Self::Shown {
                key: named,
                api_key,
                once: !key.recoverable,
            }),
            v1::State::Unspecified | v1::State::Expired | v1::State::Revoked => None,
        }
    }
}

/// What is said above the present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The key shown is new; the old one is dead since then.
    Replaced(OffsetDateTime),
    /// The key of the button was revoked before; it is dead since then.
    Already(OffsetDateTime),
    /// The key of the button had expired.
    Expired,
    /// There is no such key.
    UnknownKey,
    /// The question was answered with no, and is about the key shown.
    Cancelled,
    /// The button was about a key that is not the key of the account now.
    Changed,
    /// The button was of another version of the bot.
    OldButton,
}

/// Why the present state cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Keyward cannot be reached, or cannot answer now.
    Unavailable,
    /// Keyward refuses the bot, or says what it cannot mean.
    Fault,
}

/// How a Revoke with a successor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The key is dead since then, and this is its successor.
    Replaced(OffsetDateTime, Present),
    /// The key is no more, and its successor is not known: the present state is to be asked for.
    See(Note),
    /// It cannot be said. The same Revoke again is the only way on.
    Unclear {
        /// The revocation is committed, but not proven to hold everywhere.
        committed: bool,
    },
}

/// A screen without its language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The main menu.
    Menu {
        /// The account id in Keyward.
        account: String,
        /// Why it is shown, if not for the asking.
        note: Option<Note>,
    },
    /// The account of the user.
    Account {
        /// The account id in Keyward.
        account: String,
        /// The Telegram id.
        user_id: u64,
    },
    /// The key as it is now.
    Key(Option<Note>, Present),
    /// Whether to revoke this key.
    Ask(Named),
    /// The Revoke of this key is under way.
    Revoking {
        /// Which key.
        key_id: Uuid,
    },
    /// It is not known how the Revoke of this key ended.
    Unclear {
        /// Which key.
        key_id: Uuid,
        /// The revocation is committed.
        committed: bool,
    },
    /// The key cannot be shown now.
    Trouble(Option<Note>, Trouble),
    /// The key was shown too often; it can be shown again after this time.
    LimitedReveals(Duration),
    /// Keys were revoked too often; it goes on after this time.
    LimitedRevokes(Duration),
    /// A message that showed the key of this hint, or was to.
    Hidden(Option<Note>, String),
    /// A message that showed a key that is dead since then.
    Dead(String, OffsetDateTime),
    /// A message that showed a key that is no more.
    Gone(String),
    /// What the bot does.
    Help,
    /// Something went wrong in the bot.
    Failed,
    /// A group: not here.
    Group,
}

impl View {
    /// The same without the key that it discloses; `None` if it discloses none.
    pub fn without_key(&self) -> Option<Self> {
        match self {
            Self::Key(note, Present::Shown { key, .. }) => {
                Some(Self::Hidden(note.clone(), key.hint.clone()))
            }
            _ => None,
        }
    }
}

/// The present state, from what Issue answered.
///
/// # Errors
///
/// Why it cannot be shown.
pub fn present(
    account: &str,
    answer: Result<v1::IssueResponse, Error>,
) -> Result<Present, Trouble> {
    match answer {
        Ok(v1::IssueResponse {
            key: Some(key),
            api_key,
            created: _,
        }) if key.account_id == account => {
            // Of a key that has just ended, the next Issue makes the successor.
            Present::of(account, key, api_key).ok_or(Trouble::Unavailable)
        }
        Ok(_) => Err(Trouble::Fault),
        Err(error) if error.kind == ErrorKind::Unavailable => Err(Trouble::Unavailable),
        Err(_) => Err(Trouble::Fault),
    }
}

/// What is said of the present key, when the question whether to revoke a key was answered with no.
pub fn kept(key_id: Uuid, present: &Present) -> Note {
    match present.key().key_id == key_id {
        true => Note::Cancelled,
        false => Note::Changed,
    }
}

/// How a Revoke with a successor ended, from what was answered.
pub fn revoked(account: &str, answer: Result<v1::RevokeResponse, Error>) -> Revoked {
    let response = match answer {
        Ok(response) => response,
        Err(error) => return refused(&error),
    };
    let time = response
        .revoke_time
        .or_else(|| response.revoked.first().and_then(|key| key.revoke_time));
    let Some(time) = time.and_then(utc) else {
        // Without a time nothing was proven.
        return Revoked::Unclear { committed: false };
    };
    let successor = response
        .replacement
        .and_then(|key| Present::of(account, key, response.api_key));
    match successor {
        Some(present) => Revoked::Replaced(time, present),
        None => Revoked::See(Note::Already(time)),
    }
}

fn refused(error: &Error) -> Revoked {
    match (error.kind, error.reason.as_deref()) {
        (ErrorKind::NotFound, Some("KEY_NOT_FOUND")) => Revoked::See(Note::UnknownKey),
        (ErrorKind::Invalid, Some("KEY_EXPIRED")) => Revoked::See(Note::Expired),
        // An attempt before the last may have come through, whatever the last one met.
        (_, reason) => Revoked::Unclear {
            committed: reason == Some("REVOKE_UNCONFIRMED"),
        },
    }
}

/// Keyward's times are within the years that this can hold.
fn utc(time: prost_types::Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(time.seconds).ok()
}

#[cfg(test)]
mod tests;
