//! What the bot does for a request and what it shows, decided without I/O and without a language.
//!
//! Two rules hold here. A key is called dead, and a successor new, only after Keyward has proven
//! the revocation; every other outcome of a Revoke is unclear, and only the same Revoke resolves
//! it. The bot shows no key of another account, and revokes none: a button works only in the account
//! for which it was made.

use std::time::Duration;

use keyward_client::{Error, ErrorKind, Secret, v1};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::account::{Account, NoAccount, Place};
use crate::callback::{Action, Callback, Revocation};
use crate::settings::Slot;

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

/// When a revoked key stops working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The time.
    pub time: OffsetDateTime,
    /// Whether it has passed. Otherwise the key is in its grace.
    pub is_past: bool,
}

/// The sentence above the current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The key on the screen is new; this is the end of the old one.
    Replaced(End),
    /// The key of the button was already revoked; this is its end.
    Already(End),
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
    /// The button is about an account or a slot that is no longer the user's.
    OtherPlace,
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
    /// The key is revoked, and this is its successor.
    Replaced(End, CurrentKey),
    /// The key is revoked or dead, and the answer contains no current key.
    Ended(Note),
    /// The outcome is unclear: only the same Revoke resolves it.
    Unclear(Unclear),
}

impl RevokeResult {
    /// Whether only the same Revoke resolves it.
    pub const fn is_unclear(&self) -> bool {
        matches!(self, Self::Unclear(_))
    }

    /// The name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Replaced(End { is_past: false, .. }, _) => "grace",
            Self::Replaced(..) => "replaced",
            Self::Ended(Note::Expired) => "expired",
            Self::Ended(Note::UnknownKey) => "unknown_key",
            Self::Ended(_) => "already",
            Self::Unclear(_) => "unclear",
        }
    }

    /// The view for another message that shows the revoked key.
    pub const fn view_elsewhere(&self, hint: String) -> View {
        match self {
            Self::Replaced(end, _) | Self::Ended(Note::Already(end)) => {
                View::RevokedKey(hint, Some(*end))
            }
            Self::Ended(_) => View::RevokedKey(hint, None),
            Self::Unclear(_) => View::HiddenKey(None, hint),
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

/// Why the outcome of a Revoke is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// It is running.
    Running,
    /// It is committed, but not proven to hold everywhere.
    Unconfirmed,
    /// There was no answer.
    Unknown,
}

/// A screen without its language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The main menu.
    Menu(Account),
    /// The account of the user with this Telegram id. The note says why the user did not get what the
    /// button was for.
    Account(Option<Note>, Account, u64),
    /// The account is not known. The callback repeats what the user wanted.
    NoAccount(NoAccount, Callback),
    /// The current key.
    Key(Option<Note>, CurrentKey),
    /// The question whether to revoke this key, asked at this time, in seconds since 1970.
    ConfirmRevoke(Option<Note>, KeyName, u32),
    /// The outcome of this Revoke is not known.
    Unclear(Revocation, Unclear),
    /// The current key cannot be shown.
    Problem(Option<Note>, Problem),
    /// The allowance is used up; there is more after this time.
    Limited(Allowance, Duration),
    /// The hint of a key that this message has shown, or should show.
    HiddenKey(Option<Note>, String),
    /// The hint of a revoked key, with its end; without one, of a key that expired or does not exist.
    RevokedKey(String, Option<End>),
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
    /// The account of the user.
    pub account: Account,
    /// The Telegram id.
    pub user_id: u64,
    /// The last confirmed revocations in the place, oldest first, and whether each is unclear.
    pub outcomes: Vec<(Revocation, bool)>,
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
    Revoke(Revocation, Option<Allowance>),
}

/// What a callback wants, and in which place; `None` if that is not one of this account. A callback
/// without a tag is about the first slot. If it names a key, that is right only where accounts never
/// change.
pub fn target(
    callback: Callback,
    account: &str,
    slots: &[Slot],
    accounts_change: bool,
) -> Option<(Action, Place)> {
    let mut places = slots.iter().map(|slot| Place {
        account: account.to_owned(),
        slot: slot.name.clone(),
    });
    let action = callback.action;
    let place = match (action, callback.tag) {
        (Action::Menu | Action::Account, _) => return Some((action, Place::default())),
        // Of several slots, the user chooses one.
        (Action::Key, None) if slots.len() > 1 => return Some((Action::Account, Place::default())),
        (_, Some(tag)) => places.find(|place| place.tag() == tag),
        (Action::Key, None) => places.next(),
        (_, None) => places.next().filter(|_| !accounts_change),
    };
    place.map(|place| (action, place))
}

/// Decides the first step of a request in a place of the account.
pub fn first_step(action: Action, context: &Context) -> Step {
    let mut outcomes = context.outcomes.iter();
    let unclear = outcomes.find(|(_, is_unclear)| *is_unclear);
    match (action, unclear) {
        (Action::Menu, _) => Step::Show(View::Menu(context.account.clone())),
        (Action::Account, _) => {
            let account = context.account.clone();
            Step::Show(View::Account(None, account, context.user_id))
        }
        (Action::Confirm(revocation, asked), _) => confirmed(revocation, Some(asked), context),
        (Action::Retry(revocation), _) => confirmed(revocation, None, context),
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
fn confirmed(revocation: Revocation, asked: Option<u32>, context: &Context) -> Step {
    let key_id = revocation.key_id;
    let mut outcomes = context.outcomes.iter();
    let shows_other = matches!(&context.shown, Some(key) if key.key_id != key_id);
    match outcomes.find(|(known, _)| known.key_id == key_id) {
        Some((_, true)) => Step::Revoke(revocation, None),
        // A second tap: the message already shows the successor.
        Some((_, false)) if shows_other => Step::Ignore,
        Some((_, false)) => Step::Revoke(revocation, Some(Allowance::Reveals)),
        None if asked.is_some_and(|asked| context.now.abs_diff(asked) > MAX_AGE) => {
            Step::Ask(Some(Note::Late), key_id)
        }
        None => Step::Revoke(revocation, Some(Allowance::Revokes)),
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
    answer: Result<v1::IssueResponse, ErrorKind>,
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
        Err(ErrorKind::Unavailable) => Err(Problem::Unavailable),
        Ok(_) | Err(_) => Err(Problem::Fault),
    }
}

/// The result of a Revoke with a successor, from its answer.
pub fn revoke_result(account: &str, answer: Result<v1::RevokeResponse, Error>) -> RevokeResult {
    let response = match answer {
        Ok(response) => response,
        Err(error) => return refused(&error),
    };
    let revoked = response.revoked.first();
    let is_past = revoked.is_some_and(|key| key.state() == v1::State::Revoked);
    let time =
        |time: prost_types::Timestamp| OffsetDateTime::from_unix_timestamp(time.seconds).ok();
    // A key can expire in its grace.
    let expiry = revoked.filter(|_| !is_past).and_then(|key| key.expire_time);
    let ends = [response.revoke_time, expiry.or(response.revoke_time)];
    let end = ends
        .map(|end| end.and_then(time))
        .into_iter()
        .min()
        .flatten();
    let (Some(time), Some(_)) = (end, revoked) else {
        // Without a time nothing is proven.
        return RevokeResult::Unclear(Unclear::Unknown);
    };
    let end = End { time, is_past };
    let successor = response
        .replacement
        .and_then(|key| CurrentKey::of(account, key, response.api_key));
    match successor {
        Some(current) => RevokeResult::Replaced(end, current),
        None => RevokeResult::Ended(Note::Already(end)),
    }
}

fn refused(error: &Error) -> RevokeResult {
    match (error.kind, error.reason.as_deref()) {
        (ErrorKind::NotFound, Some("KEY_NOT_FOUND")) => RevokeResult::Ended(Note::UnknownKey),
        (ErrorKind::Invalid, Some("KEY_EXPIRED")) => RevokeResult::Ended(Note::Expired),
        // An earlier attempt of the client may have succeeded, so no other error is an outcome.
        (_, Some("REVOKE_UNCONFIRMED")) => RevokeResult::Unclear(Unclear::Unconfirmed),
        _ => RevokeResult::Unclear(Unclear::Unknown),
    }
}

#[cfg(test)]
mod tests;
