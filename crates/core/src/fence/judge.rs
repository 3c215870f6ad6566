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
    /// Those of a live key, as a near-cache is told them.
    pub fn of_live(
        scopes: Scopes,
        networks: Networks,
        revoke_time: Option<Timestamp>,
        expire_time: Option<Timestamp>,
    ) -> Self {
        let ends = Ends {
            revoke_time: revoke_time.unwrap_or(Timestamp::NEVER),
            expire_time: expire_time.unwrap_or(Timestamp::NEVER),
            revoked: false,
            disabled: false,
        };
        Self {
            scopes,
            networks,
            ends,
        }
    }

    /// The scopes of the key.
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// The end of a running grace.
    pub fn revoke_time(&self) -> Option<Timestamp> {
        Some(self.ends.revoke_time).filter(|time| *time != Timestamp::NEVER)
    }

    /// The networks from which the key can be used.
    pub fn networks(&self) -> &Networks {
        &self.networks
    }

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
/// the verdict on each of them. A dead key goes before a live one that this call may not use. Returns the
/// place of the key that decides, too.
pub fn judge_all<'t>(
    keys: impl IntoIterator<Item = &'t Terms>,
    ask: &Ask,
    now: Timestamp,
) -> (usize, Verdict) {
    let severity = |verdict| match verdict {
        Verdict::Valid => 0,
        Verdict::Revoked | Verdict::Expired | Verdict::Disabled => 2,
        _ => 1,
    };
    let verdicts = keys.into_iter().map(|terms| judge(terms, ask, now));
    verdicts
        .enumerate()
        .reduce(|first, next| match severity(next.1) > severity(first.1) {
            true => next,
            false => first,
        })
        .unwrap_or((0, Verdict::NotFound))
}

/// The state of an admitted token at `now`, the store's time, as [`state_at`] judges a key. `end` is the end
/// of the certificate that proves it; `NEVER` for a secret.
pub fn token_state_at(record: &TokenRecord, end: Timestamp, now: Timestamp) -> KeyState {
    let expire_time = record.expire_time.unwrap_or(Timestamp::NEVER);
    let ends = Ends {
        revoke_time: record.revoke_time.unwrap_or(Timestamp::NEVER),
        expire_time: expire_time.min(end),
        revoked: record.revoked,
        disabled: false,
    };
    ends.state_at(now)
}

/// Whether an admitted token is valid at `now`, the store's time.
pub fn token_lives(record: &TokenRecord, now: Timestamp) -> bool {
    token_state_at(record, Timestamp::NEVER, now) == KeyState::Active
}

/// Only a running grace is compared with the time.
fn is_revoked(revoked: bool, revoke_time: Timestamp, now: Timestamp) -> bool {
    revoked || now >= revoke_time
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Disabled, Expired, InsufficientScope, IpNotAllowed, NotFound, Revoked, Valid};

    const NOW: Timestamp = Timestamp::from_micros(1_000);

    /// Terms on which a key gets this verdict, for a call that asks for nothing but a client's address.
    fn terms(verdict: Verdict) -> Terms {
        let ended = |is_so| if is_so { NOW } else { Timestamp::NEVER };
        let networks = match verdict {
            IpNotAllowed => Networks::new("allowed_cidrs", &["10.0.0.0/8".to_owned()]).unwrap(),
            _ => Networks::default(),
        };
        let scopes = match verdict {
            InsufficientScope => Vec::new(),
            _ => vec!["read".to_owned()],
        };
        Terms {
            scopes: Scopes::new("scopes", scopes).unwrap(),
            networks,
            ends: Ends {
                revoke_time: ended(verdict == Revoked),
                expire_time: ended(verdict == Expired),
                revoked: false,
                disabled: verdict == Disabled,
            },
        }
    }

    fn decided(keys: &[Verdict]) -> (usize, Verdict) {
        let ask = Ask {
            scopes: Scopes::new("scopes", vec!["read".to_owned()]).unwrap(),
            client: Some([192, 0, 2, 1].into()),
        };
        let keys: Vec<_> = keys.iter().map(|verdict| terms(*verdict)).collect();
        judge_all(&keys, &ask, NOW)
    }

    fn verdict(keys: &[Verdict]) -> Verdict {
        decided(keys).1
    }

    #[test]
    fn the_first_of_the_dead_keys_decides() {
        let keys = [Valid, IpNotAllowed, Expired, Revoked];
        assert_eq!(decided(&keys), (2, Expired));
        assert_eq!(decided(&keys[..2]), (1, IpNotAllowed));
        assert_eq!(decided(&[Valid, Valid]), (0, Valid));
    }

    #[test]
    fn a_text_is_valid_only_if_all_its_keys_are() {
        const DEAD: [Verdict; 3] = [Revoked, Expired, Disabled];
        const UNFIT: [Verdict; 2] = [InsufficientScope, IpNotAllowed];
        assert_eq!(verdict(&[]), NotFound);
        for first in [&DEAD[..], &UNFIT, &[Valid]].concat() {
            assert_eq!(verdict(&[first]), first);
            for second in [&DEAD[..], &UNFIT, &[Valid]].concat() {
                let expected = match (first, second) {
                    (dead, _) if DEAD.contains(&dead) => dead,
                    (_, dead) if DEAD.contains(&dead) => dead,
                    (Valid, other) => other,
                    (unfit, _) => unfit,
                };
                assert_eq!(verdict(&[first, second]), expected, "{first:?} {second:?}");
                assert_eq!(verdict(&[Valid, first, second]), expected);
                assert_eq!(verdict(&[first, second, Valid]), expected);
            }
        }
    }
}
