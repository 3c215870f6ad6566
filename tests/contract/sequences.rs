//! Random sequences of calls on two stores at once. Both must give the same answers, except for what
//! is random by design: marks and epochs. So the store in memory stands for the real ones in the
//! simulation.

mod new_keys;

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use keyward_core::fence::{Mark, Membership, Page, Position, RegistrationId};
use keyward_core::key::{Clock, KeyId, Prefix};
use keyward_crypto::{CheckValue, Digest, KeyKind};
use keyward_store::{
    CommittedChange, Confirmed, Import, KeyChanges, KeyTarget, ListKeys, NewInstance, NewKey,
    NewToken, Revocation, RevokeAnswer, Selection, StoreError, UpdateAnswer,
};
use keyward_testkit::Random;

use crate::backends;
use crate::world::{
    Backend, DAY, HOUR, World, account, actor, find, find_token, metadata, networks, reason, scopes,
};

const SEQUENCES: u64 = 20;
const CALLS: usize = 100;

/// One call, with the same arguments for both stores.
#[derive(Clone, Debug)]
enum Call {
    Pass(Duration),
    Issue(NewKey),
    Import(Import),
    Revoke(Revocation),
    Update(KeyId, KeyChanges),
    Find(Digest),
    Get(KeyTarget),
    List(ListKeys),
    Prefixes(&'static str),
    Tail(u64),
    Trim,
    CreateToken(NewToken),
    FindToken(Digest),
    ListTokens(bool, Option<KeyId>),
    RevokeToken(KeyId),
    Admins,
    Check(CheckValue),
    Activate(u32),
    // On shared stores only.
    Start,
    Register(RegistrationId),
    Heartbeat(RegistrationId, u64, u64),
    Acknowledge(RegistrationId, u64),
    Settle,
    Leave(RegistrationId),
    Reap(RegistrationId, u64),
    /// Confirms the changes with these numbers among all changes so far, once a revision is acknowledged.
    Confirm(RegistrationId, Vec<usize>, u64),
    Membership,
}

/// Draws calls that often concern the same few things.
struct Calls {
    random: Random,
    keys: Vec<(KeyId, Digest)>,
    tokens: Vec<(KeyId, Digest)>,
    changes: usize,
    is_shared: bool,
}

impl Calls {
    fn account(&self) -> &'static str {
        self.random.pick(&["1", "2"]).unwrap()
    }

    /// A stored key, or one that is not stored.
    fn key(&self, world: &World) -> (KeyId, Digest) {
        let none = (world.successor().id, world.digest());
        *self.random.pick(&self.keys).unwrap_or(&none)
    }

    fn token(&self, world: &World) -> (KeyId, Digest) {
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

    fn draw(&mut self, world: &World) -> Call {
        let kinds = if self.is_shared { 33 } else { 24 };
        let registration = RegistrationId::from_bytes([*self.random.pick(&[0, 1, 2]).unwrap(); 16]);
        match self.random.below(kinds) {
            0..=3 => self.issue(world),
            4..=7 => self.revoke(world),
            8..=10 => Call::Update(self.key(world).0, self.changes(world)),
            11 => Call::Find(self.key(world).1),
            12 => Call::Get(self.target(world)),
            13 => Call::List(ListKeys {
                account: self.random.chance(70).then(|| account(self.account())),
                include_revoked: self.random.chance(50),
                after: self.random.chance(30).then(|| self.key(world).0),
                limit: *self.random.pick(&[1, 3, 10]).unwrap(),
            }),
            14 => Call::Prefixes(self.random.pick(&["kw", "abc"]).unwrap()),
            15 => Call::Tail(self.random.below(40)),
            16 => Call::Trim,
            17 => {
                let new = world.new_token("bot");
                self.tokens.push((new.id, new.digest));
                Call::CreateToken(new)
            }
            18 => Call::FindToken(self.token(world).1),
            19 => {
                let after = self.random.chance(30).then(|| self.token(world).0);
                Call::ListTokens(self.random.chance(50), after)
            }
            20 => Call::RevokeToken(self.token(world).0),
            21 => match self.random.below(3) {
                0 => Call::Admins,
                1 => Call::Activate(*self.random.pick(&[0, 1, 2]).unwrap()),
                _ => Call::Check(CheckValue {
                    kind: *self
                        .random
                        .pick(&[
                            KeyKind::Generation,
                            KeyKind::Seal,
                            KeyKind::Foreign,
                            KeyKind::Import,
                        ])
                        .unwrap(),
                    number: *self.random.pick(&[1, 2, 3]).unwrap(),
                    value: [7; 16],
                }),
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

/// A store, and what is random in its answers so far.
struct Side {
    world: World,
    /// Whether the other store is shared. An embedded store names no epoch in its answers.
    is_shared: bool,
    marks: HashMap<u64, Mark>,
    changes: Vec<CommittedChange>,
}

impl Side {
    async fn new(backend: impl Backend, is_shared: bool) -> Self {
        Self {
            is_shared,
            world: World::new(backend).await,
            marks: HashMap::new(),
            changes: Vec::new(),
        }
    }

    /// Whether a revision has the mark that it had before.
    fn is_known(&mut self, revision: u64, mark: Mark) -> bool {
        *self.marks.entry(revision).or_insert(mark) == mark
    }

    /// A row of the log; with a foreign mark, if the log has no such row.
    fn position(&self, revision: u64) -> Position {
        let mark = self.marks.get(&revision).copied().unwrap_or([9; 8]);
        Position { revision, mark }
    }

    fn change(&mut self, change: CommittedChange) -> String {
        self.changes.push(change);
        let CommittedChange {
            revision,
            mark,
            id,
            read_in,
        } = change;
        let mark = mark.map(|mark| self.is_known(revision, mark));
        let read_in = read_in.is_some() && self.is_shared;
        shown(&(revision, mark, id, read_in))
    }

    fn page(&mut self, applied: u64, page: Page) -> String {
        let head = (page.head, self.is_known(page.head, page.head_mark));
        let at = page
            .mark_at_applied
            .map(|mark| self.is_known(applied, mark));
        let mut rows = Vec::new();
        for row in page.rows {
            rows.push((row.revision, self.is_known(row.revision, row.mark), row.id));
        }
        shown(&(head, page.pruned_to, at, page.database_time, rows))
    }

    /// Makes the call and returns the answer as text.
    async fn call(&mut self, call: Call) -> Result<String, StoreError> {
        let store = self.world.store.clone();
        Ok(match call {
            Call::Pass(time) => {
                self.world.clock.pass(time);
                String::new()
            }
            Call::Issue(new) => {
                let issued = store.issue(new, &actor()).await?;
                let read_in = issued.read_in.is_some() && self.is_shared;
                shown(&(issued.created, issued.key, read_in))
            }
            Call::Import(import) => {
                let imported = store.import(import, &actor()).await?;
                shown(&(imported.outcomes, self.change(imported.committed)))
            }
            Call::Revoke(revocation) => match store.revoke(revocation, &actor()).await? {
                RevokeAnswer::Done(mut done) => {
                    done.digests.sort_unstable();
                    let committed = self.change(done.committed);
                    done.committed = CommittedChange::NOTHING;
                    shown(&(committed, done))
                }
                RevokeAnswer::NotFound { read_in } => shown(&(read_in.is_some() && self.is_shared)),
                RevokeAnswer::Expired => "expired".to_owned(),
            },
            Call::Update(id, changes) => match store.update(id, changes, &actor()).await? {
                UpdateAnswer::Done(mut done) => {
                    let committed = self.change(done.committed);
                    done.committed = CommittedChange::NOTHING;
                    shown(&(committed, done))
                }
                other => shown(&other),
            },
            Call::Find(digest) => {
                let found = find(&*store, &digest).await?;
                shown(&(found.record, found.stamp.revision))
            }
            Call::Get(target) => shown(&store.get_key(&target).await?),
            Call::List(query) => shown(&store.list_keys(query).await?),
            Call::Prefixes(name) => {
                let mut missing = store.note_prefixes(&[Prefix::new(name).unwrap()]).await?;
                missing.sort_unstable();
                shown(&missing)
            }
            Call::Tail(applied) => {
                let page = store.tail(applied).await?;
                self.page(applied, page)
            }
            Call::Trim => shown(&store.trim().await?),
            Call::CreateToken(new) => shown(&store.create_token(new, &actor()).await?),
            Call::FindToken(digest) => {
                let found = find_token(&*store, &digest).await?;
                shown(&(found.record, found.stamp.revision))
            }
            Call::ListTokens(revoked, after) => shown(&store.list_tokens(revoked, after, 5).await?),
            Call::RevokeToken(id) => match store.revoke_token(id, &actor()).await? {
                Some(done) => shown(&(done.record, self.change(done.committed))),
                None => String::new(),
            },
            Call::Admins => shown(&(store.has_tokens().await?, store.has_admin().await?)),
            Call::Check(value) => shown(&store.add_check_values(&[value]).await?),
            Call::Activate(number) => {
                let activated = store.activate_generation(number).await;
                let active = store.active_generation().await?;
                shown(&(activated.is_ok(), active, store.check_values().await?.len()))
            }
            shared => self.call_cluster(shared).await?,
        })
    }

    async fn call_cluster(&mut self, call: Call) -> Result<String, StoreError> {
        let cluster = self.world.cluster();
        Ok(match call {
            Call::Start => {
                let start = self.world.store.start().await?;
                let is_known = self.is_known(start.applied, start.mark);
                shown(&(start.floor, start.applied, is_known, start.database_time))
            }
            Call::Register(registration) => {
                let instance = NewInstance {
                    registration,
                    name: "test".to_owned(),
                    max_staleness: Duration::from_secs(2),
                    generations: vec![1],
                };
                shown(&cluster.register(&instance).await.is_ok())
            }
            Call::Heartbeat(registration, acked, applied) => {
                let acked = self.position(acked);
                match cluster.heartbeat(registration, acked, applied).await? {
                    Some(page) => self.page(applied, page),
                    None => String::new(),
                }
            }
            Call::Acknowledge(registration, applied) => {
                let acked = self.position(applied);
                shown(&cluster.acknowledge(registration, acked).await?)
            }
            Call::Leave(registration) => shown(&cluster.leave(registration).await?),
            Call::Reap(registration, beat) => shown(&cluster.reap(registration, beat).await?),
            Call::Confirm(registration, numbers, once_acked) => {
                let known = numbers.iter().map(|n| self.changes[*n]);
                let mut changes: Vec<_> = known.collect();
                let foreign = changes.first().map(|first| CommittedChange {
                    mark: Some([9; 8]),
                    ..*first
                });
                changes.extend(foreign);
                let confirmed = cluster.confirm(registration, &changes, once_acked);
                let Confirmed { membership, stands } = confirmed.await?;
                shown(&(shown_members(membership), stands))
            }
            Call::Settle => {
                let epoch = cluster.membership().await?.epoch;
                shown(&cluster.settle(epoch).await?)
            }
            _ => shown_members(cluster.membership().await?),
        })
    }
}

fn shown_members(membership: Membership) -> String {
    let is_settled = membership.settled == Some(membership.epoch);
    let mut members = membership.members;
    members.sort_unstable_by_key(|member| member.registration);
    shown(&(is_settled, membership.has_standby, members))
}

fn shown(answer: &impl Debug) -> String {
    format!("{answer:?}")
}

/// The kind of an error without its text.
fn kind(outcome: Result<String, StoreError>) -> String {
    match outcome {
        Ok(answer) => answer,
        Err(StoreError::Damaged(_)) => "damaged".to_owned(),
        Err(StoreError::Unavailable(_)) => "unavailable".to_owned(),
        Err(StoreError::OutcomeUnknown(_)) => "unknown".to_owned(),
        Err(StoreError::Locked(_)) => "locked".to_owned(),
        Err(StoreError::Refused(_)) => "refused".to_owned(),
    }
}

async fn hold_equal<B: Backend>(fresh: impl AsyncFn() -> B, is_shared: bool) {
    for seed in 0..SEQUENCES {
        let mut real = Side::new(fresh().await, is_shared).await;
        let mut memory = Side::new(backends::memory::fresh().await, is_shared).await;
        let mut calls = Calls {
            random: Random::new(seed),
            keys: Vec::new(),
            tokens: Vec::new(),
            changes: 0,
            is_shared,
        };
        let mut so_far = Vec::new();
        for _ in 0..CALLS {
            let call = calls.draw(&memory.world);
            so_far.push(shown(&call));
            let expected = kind(real.call(call.clone()).await);
            let answer = kind(memory.call(call).await);
            assert_eq!(answer, expected, "seed {seed}: {}", so_far.join("\n"));
            calls.changes = memory.changes.len();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_answers_like_sqlite() {
    hold_equal(backends::sqlite::fresh, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_answers_like_postgres() {
    hold_equal(backends::postgres::fresh, true).await;
}
