//! The verdict on an admitted record. Ends, scopes and networks are judged at each call; nothing
//! of this is ever cached.

use std::net::IpAddr;

use crate::key::{KeyRecord, KeyState, Scopes, Timestamp, TokenRecord, Verdict};

/// What a caller of Verify asks of the key, beside that it lives.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Scopes the key must hold, all of them.
    pub scopes: Scopes,
    /// Where the key is used from, as far as the caller knows.
    pub client: Option<IpAddr>,
}

/// Where a key stands at `now`, the database's time. An end that is reached has passed.
pub fn state_at(record: &KeyRecord, now: Timestamp) -> KeyState {
    if record.revoke_time.is_some_and(|end| now >= end) {
        KeyState::Revoked
    } else if record.expire_time.is_some_and(|end| now >= end) {
        KeyState::Expired
    } else if record.disabled {
        KeyState::Disabled
    } else {
        KeyState::Active
    }
}

/// The verdict on a record that was admitted, at `now`, the database's time.
pub fn judge(record: &KeyRecord, ask: &Ask, now: Timestamp) -> Verdict {
    match state_at(record, now) {
        KeyState::Revoked => Verdict::Revoked,
        KeyState::Expired => Verdict::Expired,
        KeyState::Disabled => Verdict::Disabled,
        KeyState::Active if !record.scopes.cover(&ask.scopes) => Verdict::InsufficientScope,
        KeyState::Active if !record.networks.allow(ask.client) => Verdict::IpNotAllowed,
        KeyState::Active => Verdict::Valid,
    }
}

/// Whether a caller's token that was admitted lives at `now`, the database's time.
pub fn token_lives(record: &TokenRecord, now: Timestamp) -> bool {
    record.revoke_time.is_none_or(|end| now < end)
}
