//! Random sequences of calls on two stores at once. Both must give the same answers, except for what
//! is random by design: marks and epochs. So the store in memory stands for the real ones in the
//! simulation.

mod calls;
mod new_keys;

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use keyward_core::fence::{Mark, Membership, Page, Position, RegistrationId};
use keyward_core::key::{Clock, KeyId, KeyState, KeyUse, Prefix, Timestamp};
use keyward_crypto::{CheckValue, Digest, KeyKind, KeyName};
use keyward_store::{
    CommittedChange, Confirmed, Import, KeyChanges, KeyTarget, ListKeys, NewInstance, NewKey,
    NewToken, Revocation, RevokeAnswer, Selection, StoreError, UpdateAnswer,
};
use keyward_testkit::Random;

use calls::{Calls, names};

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
    Predecessor(KeyId),
    Use(KeyId, KeyUse),
    Uses(Vec<KeyId>),
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
    Note(CheckValue),
    /// Activates a key, or retires it.
    Keyring(KeyName, bool),
    Erase(&'static str),
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
            Call::Predecessor(id) => shown(&store.predecessor(id).await?),
            Call::Use(id, noted) => shown(&store.note_uses(&[(id, noted)]).await?),
            Call::Uses(ids) => {
                let mut uses = store.uses_of(&ids).await?;
                uses.sort_unstable_by_key(|(id, _)| *id);
                shown(&uses)
            }
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
            Call::ListTokens(revoked, after) => {
                shown(&store.list_tokens(revoked, None, after, 5).await?)
            }
            Call::RevokeToken(id) => match store.revoke_token(id, &actor()).await? {
                Some(done) => shown(&(done.record, self.change(done.committed))),
                None => String::new(),
            },
            Call::Admins => shown(&(store.has_tokens().await?, store.has_admin().await?)),
            Call::Check(value) => shown(&store.add_check_values(&[value]).await?),
            Call::Note(value) => shown(&store.note_loaded(&[value]).await?),
            Call::Keyring(name, true) => shown(&store.activate(name, &actor()).await?),
            Call::Keyring(name, false) => {
                let retired = store.retire(name, &actor()).await?;
                let mut known = store.known_keys().await?;
                known.sort_unstable_by_key(|key| key.check.name());
                let needs = store.keyring_use().await?.needs;
                shown(&(retired, known, needs))
            }
            Call::Erase(of) => {
                let pseudonym = account(&format!("erased-{of}"));
                let erased = store
                    .erase_account(&account(of), &pseudonym, &actor())
                    .await?;
                let committed = self.change(erased.committed);
                shown(&(
                    erased.pseudonym,
                    erased.count,
                    erased.is_complete,
                    committed,
                ))
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
                    loaded: [1, 2, 3].into_iter().flat_map(names).collect(),
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
        let mut calls = Calls::new(seed, is_shared);
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
