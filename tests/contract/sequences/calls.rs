//! Draws the calls of a sequence.

use std::collections::BTreeSet;

use super::*;
use crate::world::slot;

/// The names of the keys with this number. Those of seals are as in `sealed`.
pub(super) fn names(number: u32) -> [KeyName; 4] {
    let kinds = [
        (KeyKind::Generation, number),
        (KeyKind::Seal, number * 0x0101_0101),
        (KeyKind::Foreign, number),
        (KeyKind::Import, number),
    ];
    kinds.map(|(kind, number)| KeyName { kind, number })
}

const STATES: [KeyState; 4] = [
    KeyState::Active,
    KeyState::Disabled,
    KeyState::Expired,
    KeyState::Revoked,
];

/// Draws calls that often concern the same few things.
pub(super) struct Calls {
    pub(super) random: Random,
    pub(super) keys: Vec<(KeyId, Digest)>,
    tokens: Vec<(KeyId, Digest)>,
    /// The number of changes so far.
    pub(super) changes: usize,
    is_shared: bool,
}

impl Calls {
    pub(super) fn new(seed: u64, is_shared: bool) -> Self {
        Self {
            random: Random::new(seed),
            keys: Vec::new(),
            tokens: Vec::new(),
            changes: 0,
            is_shared,
        }
    }

    pub(super) fn account(&self) -> &'static str {
        self.random.pick(&["1", "2"]).unwrap()
    }

    /// A stored key, or one that is not stored.
    pub(super) fn key(&self, world: &World) -> (KeyId, Digest) {
        let none = (world.successor().id, world.digest());
        *self.random.pick(&self.keys).unwrap_or(&none)
    }

    fn key_name(&self) -> KeyName {
        let number = *self.random.pick(&[1, 2, 3]).unwrap();
        *self.random.pick(&names(number)).unwrap()
    }

    pub(super) fn token(&self, world: &World) -> (KeyId, Digest) {
        let none = (world.successor().id, world.digest());
        *self.random.pick(&self.tokens).unwrap_or(&none)
    }

    fn target(&self, world: &World) -> KeyTarget {
        let (id, digest) = self.key(world);
        match self.random.chance(50) {
            true => KeyTarget::Id(id),
            false => KeyTarget::Digests(vec![digest]),
        }
    }

    pub(super) fn draw(&mut self, world: &World) -> Call {
        let kinds = if self.is_shared { 33 } else { 24 };
        let registration = RegistrationId::from_bytes([*self.random.pick(&[0, 1, 2]).unwrap(); 16]);
        match self.random.below(kinds) {
            0..=3 => self.issue(world),
            4..=7 => self.revoke(world),
            8..=10 => Call::Update(self.key(world).0, self.changes(world)),
            11 => Call::Find(self.key(world).1),
            12 => match self.random.below(4) {
                0 => Call::Get(self.target(world)),
                1 => Call::Predecessor(self.key(world).0),
                2 => self.note(world),
                _ => {
                    let ids: BTreeSet<_> = self.keys.iter().map(|(id, _)| *id).collect();
                    Call::Uses(ids.into_iter().collect())
                }
            },
            13 => Call::List(ListKeys {
                account: self.random.chance(70).then(|| account(self.account())),
                include_revoked: self.random.chance(50),
                state: self
                    .random
                    .pick(&STATES)
                    .copied()
                    .filter(|_| self.random.chance(50)),
                name_prefix: self.random.chance(30).then(|| slot("s")),
                older_than: self.random.chance(30).then_some(HOUR),
                unused_for: self.random.chance(30).then_some(HOUR),
                after: self.random.chance(30).then(|| self.key(world).0),
                limit: *self.random.pick(&[1, 3, 10]).unwrap(),
            }),
            14 => Call::Prefixes(self.random.pick(&["kw", "abc"]).unwrap()),
            15 => Call::Tail(self.random.below(40)),
            16 => Call::Trim,
            17 => {
                let new = self.new_token(world);
                self.tokens.push((new.id, new.digest));
                Call::CreateToken(new)
            }
            18 => Call::FindToken(self.token(world).1),
            19 => {
                let after = self.random.chance(30).then(|| self.token(world).0);
                Call::ListTokens(self.random.chance(50), after)
            }
            20 => Call::RevokeToken(self.token(world).0),
            21 => match self.random.below(6) {
                0 => Call::Admins,
                1 => Call::Erase(self.account()),
                2 | 3 => Call::Keyring(self.key_name(), self.random.chance(70)),
                drawn => {
                    let KeyName { kind, number } = self.key_name();
                    let value = [7; 16];
                    let check = CheckValue {
                        kind,
                        number,
                        value,
                    };
                    match drawn {
                        4 => Call::Check(check),
                        _ => Call::Note(check),
                    }
                }
            },
            22 => Call::Pass(*self.random.pick(&[HOUR / 60, HOUR, DAY]).unwrap()),
            23 => self.import(world),
            24 => Call::Start,
            25 => Call::Register(registration),
            26 => Call::Heartbeat(registration, self.random.below(20), self.random.below(20)),
            27 => Call::Acknowledge(registration, self.random.below(20)),
            28 => Call::Leave(registration),
            29 => Call::Reap(registration, self.random.below(3)),
            30 => {
                let numbers = (0..self.random.between(1, 4)).map(|_| self.random.index(20));
                let numbers: Vec<_> = numbers.filter(|n| *n < self.changes).collect();
                // A process confirms at least one change.
                match numbers.is_empty() {
                    true => Call::Membership,
                    false => Call::Confirm(registration, numbers, self.random.below(4)),
                }
            }
            31 => Call::Settle,
            _ => Call::Membership,
        }
    }

    fn revoke(&mut self, world: &World) -> Call {
        let reason = self
            .random
            .pick(&["leaked", "closed"])
            .and_then(|text| reason(text));
        let reason = reason.filter(|_| self.random.chance(50));
        if self.random.chance(15) {
            let selection = match self.random.chance(60) {
                true => Selection::Account(account(self.account())),
                false => Selection::Batch(self.batch()),
            };
            return Call::Revoke(Revocation::Selection { selection, reason });
        }
        let successor = self.random.chance(40).then(|| {
            let successor = world.successor();
            self.keys.push((successor.id, successor.digest));
            successor
        });
        Call::Revoke(Revocation::Key {
            target: self.target(world),
            successor,
            grace: *self
                .random
                .pick(&[Duration::ZERO, Duration::ZERO, HOUR, DAY])
                .unwrap(),
            reason,
        })
    }

    /// The use of a key, perhaps by a clock that is ahead of the store's.
    fn note(&self, world: &World) -> Call {
        let now = world.clock.wall();
        let time = || {
            let times = [now, now.plus(HOUR), Timestamp::from_micros(7)];
            self.random
                .pick(&times)
                .copied()
                .filter(|_| self.random.chance(70))
        };
        let noted = KeyUse {
            last_use: time(),
            refused: self.random.below(3),
            last_refused: time(),
        };
        Call::Use(self.key(world).0, noted)
    }

    fn changes(&self, world: &World) -> KeyChanges {
        let mut changes = KeyChanges::default();
        match self.random.below(5) {
            0 => changes.disabled = Some(self.random.chance(50)),
            1 => changes.scopes = self.random.pick(&[scopes(&["x"]), scopes(&[])]).cloned(),
            2 => changes.metadata = Some(metadata(&[("a", "b")])),
            3 => changes.networks = Some(networks(&["10.0.0.0/8"])),
            _ => {
                let later = world.clock.wall().plus(HOUR);
                changes.expire_time = Some(self.random.chance(50).then_some(later));
            }
        }
        changes
    }
}
