//! The verdict on an admitted record. Expiry, revocation, scopes and networks are judged at each
//! call: a verdict is never cached.

use std::net::IpAddr;

use crate::key::{KeyRecord, KeyState, Scopes, Timestamp, TokenRecord, Verdict};

/// The requirements of one Verify call, in addition to an active key.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The scopes that the key must have. All are required.
    pub scopes: Scopes,
    /// The address of the client that uses the key, if the caller knows it.
    pub client: Option<IpAddr>,
}

/// The state of a key at `now`, the store's time. A key is dead from its end on, inclusive. No clock
/// takes part in judging a revoked key: a clock can be wrong, and it can be set back.
pub fn state_at(record: &KeyRecord, now: Timestamp) -> KeyState {
    if is_revoked(record.revoked, record.revoke_time, now) {
        KeyState::Revoked
    } else if record.expire_time.is_some_and(|end| now >= end) {
        KeyState::Expired
    } else if record.disabled {
        KeyState::Disabled
    } else {
        KeyState::Active
    }
}

/// The verdict on an admitted record at `now`, the store's time.
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

/// Whether an admitted token is valid at `now`, the store's time.
pub fn token_lives(record: &TokenRecord, now: Timestamp) -> bool {
    !is_revoked(record.revoked, record.revoke_time, now)
}

/// Only a running grace is compared with the time.
fn is_revoked(revoked: bool, revoke_time: Option<Timestamp>, now: Timestamp) -> bool {
    revoked || revoke_time.is_some_and(|end| now >= end)
}
