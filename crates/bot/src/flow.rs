//! What the bot does for a request and what it shows, decided without I/O and without a language.
//!
//! Two rules hold here. A key is called dead, and a successor new, only after Keyward has proven
//! the revocation; every other outcome of a Revoke is unclear, and only the same Revoke resolves
//! it. The bot shows no key of another account.

use std::time::Duration;

use keyward_client::{Error, ErrorKind, Secret, v1};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::callback::Action;

/// How long a question whether to revoke a key can be answered, in seconds. The time is in the data of
/// the button, because Telegram says of a tap neither when it was made nor when it was delivered.
const MAX_AGE: u32 = 300;

/// A key, named without disclosing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName {
    /// The public name.
    pub key_id: Uuid,
    /// Its first characters, such as `kw_3fGq`.
    pub hint: String,
}

/// The current key of the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CurrentKey {
    /// An active key with its text.
    Visible {
        /// Which key.
        key: KeyName,
        /// Its text.
        api_key: Secret,
        /// This answer is the only one that contains the text.
        once: bool,
    },
    /// An active key whose text was shown when it was created and cannot be shown again.
    Unrecoverable(KeyName),
    /// A disabled key.
    Disabled(KeyName),
}

impl CurrentKey {
    /// Which key.
    pub const fn key(&self) -> &KeyName {
        match self {
            Self::Visible { key, .. } | Self::Unrecoverable(key) | Self::Disabled(key) => key,
        }
    }

    /// `None` for a key that is dead or in its grace, or that belongs to another account.
    fn of(account: &str, key: v1::ApiKey, api_key: String) -> Option<Self> {
        let api_key = Secret::new(api_key);
        let state = key.state();
        // A key in its grace is no longer the key of its slot.
        if key.account_id != account || key.revoke_time.is_some() {
            return None;
        }
        let name = KeyName {
            key_id: Uuid::parse_str(&key.key_id).ok()?,
            hint: key.hint,
        };
        match state {
            v1::State::Disabled => Some(Self::Disabled(name)),
            v1::State::Active if api_key.expose().is_empty() => Some(Self::Unrecoverable(name)),
            v1::State::Active => Some(Self::Visible {
                key: name,
                api_key,
                once: !key.recoverable,
            }),
            v1::State::Unspecified | v1::State::Expired | v1::State::Revoked => None,
        }
    }
}

/// The sentence above the current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The key on the screen is new; the old one is dead since this time.
    Replaced(OffsetDateTime),
    /// The key of the button was already revoked; it is dead since this time.
    Already(OffsetDateTime),
    /// The key of the button had expired.
    Expired,
    /// The key of the button does not exist.
    UnknownKey,
    /// The user pressed Cancel, and the key of the question is still the current key.
    Cancelled,
    /// The key of the button is not the current key of the account.
    Changed,
    /// The answer to the question came late.
    Late,
    /// Another version of the bot made the button.
    OldButton,
}

/// Why the current key cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Keyward cannot be reached, or cannot answer now.
    Unavailable,
    /// Keyward refuses the bot, or its answer does not fit the request.
    Fault,
}

/// The result of a Revoke with a successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeResult {
    /// The key is dead since this time, and this is its successor.
    Replaced(OffsetDateTime, CurrentKey),
    /// The key is dead, and the answer contains no current key.
    Ended(Note),
    /// The outcome is unclear: only the same Revoke resolves it.
    Unclear {
        /// The revocation is committed, but not proven to hold everywhere.
        committed: bool,
    },
}

impl RevokeResult {
    /// Whether only the same Revoke resolves it.
    pub const fn is_unclear(&self) -> bool {
        matches!(self, Self::Unclear { .. })
    }

    /// The name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Replaced(..) => "replaced",
            Self::Ended(Note::Expired) => "expired",
            Self::Ended(Note::UnknownKey) => "unknown_key",
            Self::Ended(_) => "already",
            Self::Unclear { .. } => "unclear",
        }
    }

    /// The view for another message that shows the revoked key.
    pub const fn view_elsewhere(&self, hint: String) -> View {
        match self {
            Self::Replaced(time, _) | Self::Ended(Note::Already(time)) => {
                View::RevokedKey(hint, *time)
            }
            Self::Ended(_) => View::OldKey(hint),
            Self::Unclear { .. } => View::HiddenKey(None, hint),
        }
    }
}

/// A limit that a request counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Keys shown.
    Reveals,
    /// Keys revoked.
    Revokes,
}

impl Allowance {
    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reveals => "reveals",
            Self::Revokes => "revokes",
        }
    }
}

/// A screen without its language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The main menu.
    Menu {
        /// The account id in Keyward.
        account: String,
        /// Why the user sees it without having asked for it.
        note: Option<Note>,
    },
    /// The account of the user.
    Account {
        /// The account id in Keyward.
        account: String,
        /// The Telegram id.
        user_id: u64,
    },
    /// The current key.
    Key(Option<Note>, CurrentKey),
    /// The question whether to revoke this key, asked at this time, in seconds since 1970.
    ConfirmRevoke(Option<Note>, KeyName, u32),
    /// The Revoke of this key is running.
    Revoking {
        /// Which key.
        key_id: Uuid,
    },
    /// The outcome of the Revoke of this key is unclear.
    Unclear {
        /// Which key.
        key_id: Uuid,
        /// The revocation is committed.
        committed: bool,
    },
    /// The current key cannot be shown.
    Problem(Option<Note>, Problem),
    /// The allowance is used up; there is more after this time.
    Limited(Allowance, Duration),
    /// The hint of a key that this message has shown, or should show.
    HiddenKey(Option<Note>, String),
    /// The hint of a key that is dead since this time.
    RevokedKey(String, OffsetDateTime),
    /// The hint of a key that expired or does not exist.
    OldKey(String),
    /// What the bot does.
    Help,
    /// The bot has failed.
    Failed,
    /// The answer in a group: use the private chat.
    Group,
}

impl View {
    /// The current key, or why it cannot be shown.
    pub fn current(note: Option<Note>, current: Result<CurrentKey, Problem>) -> Self {
        match current {
            Ok(current) => Self::Key(note, current),
            Err(problem) => Self::Problem(note, problem),
        }
    }

    /// The key whose text the view discloses.
    pub const fn discloses(&self) -> Option<&KeyName> {
        match self {
            Self::Key(_, CurrentKey::Visible { key, .. }) => Some(key),
            _ => None,
        }
    }

    /// The same view without the key text; `None` if it discloses no key.
    pub fn without_key(&self) -> Option<Self> {
        match self {
            Self::Key(note, CurrentKey::Visible { key, .. }) => {
                Some(Self::HiddenKey(note.clone(), key.hint.clone()))
            }
            _ => None,
        }
    }
}

/// What this process knows about a user before it calls Keyward.
#[derive(Clone, Debug)]
pub struct Context {
    /// The account id in Keyward.
    pub account: String,
    /// The Telegram id.
    pub user_id: u64,
    /// The last confirmed revocations, oldest first, and whether each is unclear.
    pub outcomes: Vec<(Uuid, bool)>,
    /// The key that the message with the button shows.
    pub shown: Option<KeyName>,
    /// In seconds since 1970.
    pub now: u32,
}

/// The first step of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Leave the message as it is.
    Ignore,
    /// Show this view.
    Show(View),
    /// Take one reveal, get the current key and show it. With a key id, the user has pressed
    /// Cancel on the question whether to revoke that key.
    Open(Option<Uuid>),
    /// Get the current key, and ask whether to revoke it if it is this key. The note says why.
    Ask(Option<Note>, Uuid),
    /// Revoke this key, after taking one from the allowance.
    Revoke(Uuid, Option<Allowance>),
}

/// Decides the first step of a request.
pub fn first_step(action: Action, context: &Context) -> Step {
    let mut outcomes = context.outcomes.iter();
    let unclear = outcomes.find(|(_, is_unclear)| *is_unclear);
    match (action, unclear) {
        (Action::Menu, _) => Step::Show(View::Menu {
            account: context.account.clone(),
            note: None,
        }),
        (Action::Account, _) => Step::Show(View::Account {
            account: context.account.clone(),
            user_id: context.user_id,
        }),
        (Action::Confirm(key_id, asked), _) => confirmed(key_id, Some(asked), context),
        (Action::Retry(key_id), _) => confirmed(key_id, None, context),
        // No key is shown while a Revoke is unclear, so the same Revoke comes first.
        (_, Some((unclear, _))) => Step::Revoke(*unclear, None),
        (Action::Key, None) => Step::Open(None),
        (Action::Cancel(key_id), None) => Step::Open(Some(key_id)),
        // This process has shown the key in this message, and has not seen a Revoke of it since.
        (Action::Revoke(key_id), None) => match &context.shown {
            Some(key) if key.key_id == key_id => {
                Step::Show(View::ConfirmRevoke(None, key.clone(), context.now))
            }
            _ => Step::Ask(None, key_id),
        },
    }
}

/// Only the first Revoke of a key counts against the revocations. A repeated one shows the
/// successor again, which is a reveal; while the outcome is unclear, it is free. A first one needs an
/// answer soon after the question: Telegram keeps a tap for a day while it cannot deliver it, and the
/// user has long gone on by then. A Retry has no such limit, because its Revoke was confirmed in time.
fn confirmed(key_id: Uuid, asked: Option<u32>, context: &Context) -> Step {
    let mut outcomes = context.outcomes.iter();
    let shows_other = matches!(&context.shown, Some(key) if key.key_id != key_id);
    match outcomes.find(|(id, _)| *id == key_id) {
        Some((_, true)) => Step::Revoke(key_id, None),
        // A second tap: the message already shows the successor.
        Some((_, false)) if shows_other => Step::Ignore,
        Some((_, false)) => Step::Revoke(key_id, Some(Allowance::Reveals)),
        None if asked.is_some_and(|asked| context.now.abs_diff(asked) > MAX_AGE) => {
            Step::Ask(Some(Note::Late), key_id)
        }
        None => Step::Revoke(key_id, Some(Allowance::Revokes)),
    }
}

/// The view after `Step::Open`.
pub fn opened(cancelled: Option<Uuid>, current: Result<CurrentKey, Problem>) -> View {
    let note = match (cancelled, &current) {
        (Some(key_id), Ok(current)) if current.key().key_id == key_id => Some(Note::Cancelled),
        (Some(_), Ok(_)) => Some(Note::Changed),
        _ => None,
    };
    View::current(note, current)
}

/// The view after `Step::Ask`, and the allowance that it counts against.
pub fn asked(
    note: Option<Note>,
    key_id: Uuid,
    current: Result<CurrentKey, Problem>,
    now: u32,
) -> (View, Option<Allowance>) {
    match current {
        Ok(current) if current.key().key_id == key_id => {
            (View::ConfirmRevoke(note, current.key().clone(), now), None)
        }
        Ok(current) => (
            View::Key(Some(Note::Changed), current),
            Some(Allowance::Reveals),
        ),
        Err(problem) => (View::Problem(None, problem), None),
    }
}

/// The current key, from the answer of Issue.
///
/// # Errors
///
/// Why it cannot be shown.
pub fn current_key(
    account: &str,
    answer: Result<v1::IssueResponse, Error>,
) -> Result<CurrentKey, Problem> {
    match answer {
        Ok(v1::IssueResponse {
            key: Some(key),
            api_key,
            created: _,
        }) if key.account_id == account => {
            // The key has just ended; the next Issue creates its successor.
            CurrentKey::of(account, key, api_key).ok_or(Problem::Unavailable)
        }
        Err(error) if error.kind == ErrorKind::Unavailable => Err(Problem::Unavailable),
        Ok(_) | Err(_) => Err(Problem::Fault),
    }
}

/// The result of a Revoke with a successor, from its answer.
pub fn revoke_result(account: &str, answer: Result<v1::RevokeResponse, Error>) -> RevokeResult {
    let response = match answer {
        Ok(response) => response,
        Err(error) => return refused(&error),
    };
    let time = response
        .revoke_time
        .or_else(|| response.revoked.first().and_then(|key| key.revoke_time));
    let time = time.and_then(|time| OffsetDateTime::from_unix_timestamp(time.seconds).ok());
    let Some(time) = time else {
        // Without a time nothing is proven.
        return RevokeResult::Unclear { committed: false };
    };
    let successor = response
        .replacement
        .and_then(|key| CurrentKey::of(account, key, response.api_key));
    match successor {
        Some(current) => RevokeResult::Replaced(time, current),
        None => RevokeResult::Ended(Note::Already(time)),
    }
}

fn refused(error: &Error) -> RevokeResult {
    match (error.kind, error.reason.as_deref()) {
        (ErrorKind::NotFound, Some("KEY_NOT_FOUND")) => RevokeResult::Ended(Note::UnknownKey),
        (ErrorKind::Invalid, Some("KEY_EXPIRED")) => RevokeResult::Ended(Note::Expired),
        // An earlier attempt of the client may have succeeded, so no other error is an outcome.
        (_, reason) => RevokeResult::Unclear {
            committed: reason == Some("REVOKE_UNCONFIRMED"),
        },
    }
}

#[cfg(test)]
mod tests;
