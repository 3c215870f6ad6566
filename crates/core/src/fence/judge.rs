//! The verdict on an admitted record. Expiry, revocation, scopes and networks are judged at each
//! call: a verdict is never cached.

use std::net::IpAddr;

use crate::key::{KeyRecord, KeyState, Networks, Scopes, Timestamp, TokenRecord, Verdict};

/// The requirements of one Verify call, in addition to an active key.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The scopes that the key must have. All are required.
    pub scopes: Scopes,
    /// The address of the client that uses the key, if the caller knows it.
    pub client: Option<IpAddr>,
}

/// What decides the verdict on a key, taken from its record.
#[derive(Clone, Debug)]
pub struct Terms {
    scopes: Scopes,
    networks: Networks,
    ends: Ends,
}

impl From<&KeyRecord> for Terms {
    fn from(record: &KeyRecord) -> Self {
        Self {
            scopes: record.scopes.clone(),
            networks: record.networks.clone(),
            ends: Ends::from(record),
        }
    }
}

impl Terms {
    /// The size of texts and networks in memory, in bytes.
    pub fn size(&self) -> usize {
        self.scopes.size() + self.networks.size()
    }
}

/// What ends the life of a key.
#[derive(Clone, Copy, Debug)]
struct Ends {
    revoke_time: Timestamp,
    expire_time: Timestamp,
    revoked: bool,
    disabled: bool,
}

impl From<&KeyRecord> for Ends {
    fn from(record: &KeyRecord) -> Self {
        Self {
            revoke_time: record.revoke_time.unwrap_or(Timestamp::NEVER),
            expire_time: record.expire_time.unwrap_or(Timestamp::NEVER),
            revoked: record.revoked,
            disabled: record.disabled,
        }
    }
}

impl Ends {
    fn state_at(self, now: Timestamp) -> KeyState {
        if is_revoked(self.revoked, self.revoke_time, now) {
            KeyState::Revoked
        } else if now >= self.expire_time {
            KeyState::Expired
        } else if self.disabled {
            KeyState::Disabled
        } else {
            KeyState::Active
        }
    }
}

/// The state of a key at `now`, the store's time. A key is dead from its end on, inclusive. No clock
/// takes part in judging a revoked key: a clock can be wrong, and it can be set back.
pub fn state_at(record: &KeyRecord, now: Timestamp) -> KeyState {
    Ends::from(record).state_at(now)
}

/// The verdict on an admitted record with these terms at `now`, the store's time.
pub fn judge(terms: &Terms, ask: &Ask, now: Timestamp) -> Verdict {
    match terms.ends.state_at(now) {
        KeyState::Revoked => Verdict::Revoked,
        KeyState::Expired => Verdict::Expired,
        KeyState::Disabled => Verdict::Disabled,
        KeyState::Active if !terms.scopes.cover(&ask.scopes) => Verdict::InsufficientScope,
        KeyState::Active if !terms.networks.allow(ask.client) => Verdict::IpNotAllowed,
        KeyState::Active => Verdict::Valid,
    }
}

/// The verdict on a text that names several admitted keys, in the order of their ids: VALID only if it is
/// the verdict on each of them. A dead key goes before a live one that this call may not use.
pub fn judge_all<'t>(
    keys: impl IntoIterator<Item = &'t Terms>,
    ask: &Ask,
    now: Timestamp,
) -> Verdict {
    let severity = |verdict| match verdict {
        Verdict::Valid => 0,
        Verdict::Revoked | Verdict::Expired | Verdict::Disabled => 2,
        _ => 1,
    };
    let verdicts = keys.into_iter().map(|terms| judge(terms, ask, now));
    verdicts
        .reduce(|first, next| match severity(next) > severity(first) {
            true => next,
            false => first,
        })
        .unwrap_or(Verdict::NotFound)
}

/// Whether an admitted token is valid at `now`, the store's time.
pub fn token_lives(record: &TokenRecord, now: Timestamp) -> bool {
    let revoke_time = record.revoke_time.unwrap_or(Timestamp::NEVER);
    !is_revoked(record.revoked, revoke_time, now)
}

/// Only a running grace is compared with the time.
fn is_revoked(revoked: bool, revoke_time: Timestamp, now: Timestamp) -> bool {
    revoked || now >= revoke_time
}
