//! What Keyward's answers mean for a user, decided without I/O.
//!
//! A key is called dead, and a successor new, only after Keyward has proven the revocation; every
//! other outcome of a Revoke is unclear. No answer gives a key of another account.

use keyward_client::{Error, ErrorKind, Secret, v1};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::flow::{Note, Unclear, View};

/// The bot has shown as many keys, for all of its users, as Keyward allows it.
pub const REVEALS_EXHAUSTED: &str = "REVEALS_EXHAUSTED";

/// A key, named without disclosing it, and what is known of its use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyName {
    /// The public name.
    pub key_id: Uuid,
    /// Its first characters, such as `kw_3fGq`.
    pub hint: String,
    /// When it was used last, as far as Keyward said when it was shown, in seconds since 1970.
    pub last_use: Option<u32>,
    /// When somebody last tried the key that it replaced, after its end, in seconds since 1970.
    pub old_key_tried: Option<u32>,
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

    /// The same key, with what is known of its predecessor.
    pub(crate) fn after(mut self, tried: Option<u32>) -> Self {
        let (Self::Visible { key, .. } | Self::Unrecoverable(key) | Self::Disabled(key)) =
            &mut self;
        key.old_key_tried = tried;
        self
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
            last_use: key.last_use_time.and_then(unix),
            old_key_tried: None,
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

/// Why the current key cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Keyward cannot be reached, or cannot answer now.
    Unavailable,
    /// Keyward shows the bot no more keys at the moment.
    Busy,
    /// Keyward refuses the bot, or its answer does not fit the request.
    Fault,
}

impl Problem {
    /// What a failed call means.
    pub fn of(error: &Error) -> Self {
        match (error.kind, error.reason.as_deref()) {
            (_, Some(REVEALS_EXHAUSTED)) => Self::Busy,
            (ErrorKind::Unavailable, _) => Self::Unavailable,
            _ => Self::Fault,
        }
    }
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

/// The current key, from the answer of Issue.
///
/// # Errors
///
/// Why it cannot be shown.
pub fn current_key(
    account: &str,
    answer: Result<v1::IssueResponse, Problem>,
) -> Result<CurrentKey, Problem> {
    match answer {
        Ok(v1::IssueResponse {
            key: Some(key),
            api_key,
            created: _,
            predecessor,
        }) if key.account_id == account => {
            let tried = predecessor.as_ref().and_then(tried_after_end);
            // The key has just ended; the next Issue creates its successor.
            let current = CurrentKey::of(account, key, api_key).ok_or(Problem::Unavailable);
            current.map(|current| current.after(tried))
        }
        Ok(_) => Err(Problem::Fault),
        Err(problem) => Err(problem),
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
    // A key can expire in its grace.
    let expiry = revoked.filter(|_| !is_past).and_then(|key| key.expire_time);
    let ends = [response.revoke_time, expiry.or(response.revoke_time)];
    let end = ends
        .map(|end| end.and_then(second))
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

/// When a revoked key was last tried. It may have been refused before its end, while it was disabled:
/// then nobody may have tried it since.
fn tried_after_end(key: &v1::ApiKey) -> Option<u32> {
    let exact = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
    let (tried, ended) = (key.last_refused_time?, key.revoke_time?);
    let is_after = key.state() == v1::State::Revoked && exact(&tried) >= exact(&ended);
    is_after.then(|| unix(tried)).flatten()
}

fn second(time: prost_types::Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(time.seconds).ok()
}

fn unix(time: prost_types::Timestamp) -> Option<u32> {
    u32::try_from(time.seconds).ok()
}

fn refused(error: &Error) -> RevokeResult {
    match (error.kind, error.reason.as_deref()) {
        (ErrorKind::NotFound, Some("KEY_NOT_FOUND")) => RevokeResult::Ended(Note::UnknownKey),
        (ErrorKind::Invalid, Some("KEY_EXPIRED")) => RevokeResult::Ended(Note::Expired),
        // An earlier attempt of the client may have succeeded, so no other error is an outcome.
        (_, Some("REVOKE_UNCONFIRMED")) => RevokeResult::Unclear(Unclear::Unconfirmed),
        (_, Some(REVEALS_EXHAUSTED)) => RevokeResult::Unclear(Unclear::Busy),
        (ErrorKind::Unavailable, _) => RevokeResult::Unclear(Unclear::Unknown),
        _ => RevokeResult::Unclear(Unclear::Fault),
    }
}

#[cfg(test)]
mod tests;
