//! Revoking on Postgres. Writers of changes queue at the log's counter, so single revocations are
//! gathered: what is asked while a statement is under way goes into the next one together, on one of
//! two links.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::ATTEMPTS;
use super::change_notices::ChangeNotices;
use super::failure::{Failure, Kind};
use super::keys::{Lock, by_ids};
use super::pool::{Lease, Pool};
use super::revocations::{Write, write_revocations};
use super::rows::{self, key_columns};
use keyward_core::key::{KeyId, KeyRecord, Reason, Timestamp};
use keyward_store::plan::{PlannedRevocation, RevocationPlan, plan_revocation};
use keyward_store::{
    Actor, KeyTarget, Result, RevokeAnswer, Revoked, StoreError, StoredKey, Successor,
};

/// Revocations in one statement at most.
const MOST: usize = 64;
/// Statements of them under way at a time.
const WRITERS: usize = 2;

/// One revocation, asked for.
#[derive(Clone)]
struct Asked {
    target: KeyTarget,
    successor: Option<Successor>,
    grace: Duration,
    reason: Option<Reason>,
    actor: Actor,
}

type Answer = oneshot::Sender<Result<RevokeAnswer>>;

/// Takes revocations and gathers them.
pub(super) struct Revoker {
    queue: mpsc::Sender<(Asked, Answer)>,
}

impl Revoker {
    /// Starts the writers on the current runtime; they end when this is dropped.
    pub(super) fn start(pool: &Arc<Pool>, notices: &Arc<ChangeNotices>) -> Self {
        let (queue, asked) = mpsc::channel(MOST * WRITERS);
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..WRITERS {
            let writer = Writer {
                pool: Arc::clone(pool),
                notices: Arc::clone(notices),
            };
            tokio::spawn(writer.run(Arc::clone(&asked)));
        }
        Self { queue }
    }

    pub(super) async fn revoke(
        &self,
        target: KeyTarget,
        successor: Option<Successor>,
        grace: Duration,
        reason: Option<Reason>,
        actor: &Actor,
    ) -> Result<RevokeAnswer> {
        let (tell, told) = oneshot::channel();
        let asked = Asked {
            target,
            successor,
            grace,
            reason,
            actor: actor.clone(),
        };
        self.queue
            .send((asked, tell))
            .await
            .map_err(|_| StoreError::Unavailable("the store is being closed".to_owned()))?;
        told.await.unwrap_or_else(|_| {
            let lost = "a revocation was not brought to its end".to_owned();
            Err(StoreError::OutcomeUnknown(lost))
        })
    }
}

/// One that takes what was asked for and writes it.
struct Writer {
    pool: Arc<Pool>,
    notices: Arc<ChangeNotices>,
}

impl Writer {
    async fn run(self, queue: Arc<Mutex<mpsc::Receiver<(Asked, Answer)>>>) {
        let mut batch = Vec::with_capacity(MOST);
        while queue.lock().await.recv_many(&mut batch, MOST).await > 0 {
            let (asked, answers): (Vec<Asked>, Vec<Answer>) = batch.drain(..).unzip();
            let outcomes = match self.revoke_all(&asked).await {
                Ok(outcomes) => outcomes,
                // One that cannot be written must not fail the others.
                Err(StoreError::Damaged(_)) if asked.len() > 1 => self.one_by_one(&asked).await,
                Err(error) => asked.iter().map(|_| Err(copy(&error))).collect(),
            };
            for (tell, outcome) in answers.into_iter().zip(outcomes) {
                // Whoever asked may have gone; it is done.
                let _ = tell.send(outcome);
            }
        }
    }

    async fn one_by_one(&self, asked: &[Asked]) -> Vec<Result<RevokeAnswer>> {
        let mut outcomes = Vec::with_capacity(asked.len());
        for one in asked {
            let outcome = self.revoke_all(std::slice::from_ref(one)).await;
            outcomes.push(outcome.and_then(|mut outcomes| outcomes.remove(0)));
        }
        outcomes
    }

    /// Revokes all that was asked for; an outcome for each. What could not be done in one round, since
    /// its key changed meanwhile or another request for that key went first, has its turn in the next.
    async fn revoke_all(&self, asked: &[Asked]) -> Result<Vec<Result<RevokeAnswer>>> {
        let mut outcomes: Vec<Option<Result<RevokeAnswer>>> = asked.iter().map(|_| None).collect();
        // As many rounds as requests, if all name one key; and some for other writers.
        for _ in 0..asked.len() + ATTEMPTS {
            let open: Vec<usize> = (0..asked.len())
                .filter(|n| outcomes[*n].is_none())
                .collect();
            if open.is_empty() {
                break;
            }
            let round: Vec<&Asked> = open.iter().map(|n| &asked[*n]).collect();
            match self.one_round(&round).await {
                Ok(answered) => {
                    for (n, outcome) in open.into_iter().zip(answered) {
                        if let Outcome::Answered(answer) = outcome {
                            outcomes[n] = Some(answer);
                        }
                    }
                }
                Err(failure) if failure.kind == Kind::Again => {}
                Err(failure) if open.len() == asked.len() => return Err(failure.error),
                // What earlier rounds did is done and stays answered.
                Err(failure) => {
                    for n in open {
                        outcomes[n] = Some(Err(copy(&failure.error)));
                    }
                }
            }
        }
        let busy = || {
            let busy = "the key is changed again and again".to_owned();
            Err(StoreError::Unavailable(busy))
        };
        let outcomes = outcomes.into_iter();
        Ok(outcomes.map(|done| done.unwrap_or_else(busy)).collect())
    }

    /// One round: read the keys, plan, write to the keys that did not change meanwhile, and read
    /// again.
    async fn one_round(&self, asked: &[&Asked]) -> std::result::Result<Vec<Outcome>, Failure> {
        let mut lease = self.pool.lease().await?;
        // An idle connection may have died unnoticed. This is its first statement.
        let seen = read_targets(&mut lease, asked)
            .await
            .map_err(Failure::before_anything)?;
        let mut taken = HashSet::new();
        let plans: Vec<Plan> = asked
            .iter()
            .map(|one| plan(one, &seen, &mut taken))
            .collect();
        let mut written = Vec::new();
        for (one, plan) in asked.iter().zip(&plans) {
            if let Plan::Key(record, Some(planned)) = plan {
                written.push(Write {
                    record,
                    planned,
                    actor: &one.actor,
                });
            }
        }
        let revoked = match written.is_empty() {
            true => HashSet::new(),
            false => write_revocations(&mut lease, &written).await?,
        };
        if !revoked.is_empty() {
            self.notices.send();
        }
        let current = read_current(&mut lease, &plans).await;
        // The writes are committed, so a failed read makes the outcome unknown. Repeating is safe.
        let current = match revoked.is_empty() {
            true => current?,
            false => current.map_err(Failure::after_a_write)?,
        };
        lease.done();
        Ok(plans
            .into_iter()
            .map(|plan| match plan {
                Plan::Answer(answer) => Outcome::Answered(answer),
                Plan::Later => Outcome::NextRound,
                Plan::Key(record, Some(_)) if !revoked.contains(&record.id) => Outcome::NextRound,
                Plan::Key(record, planned) => {
                    Outcome::Answered(answer(&record, planned.as_ref(), &current))
                }
            })
            .collect())
    }
}

/// What one round did with one request.
enum Outcome {
    Answered(Result<RevokeAnswer>),
    /// The key changed meanwhile, or an earlier request of the round names it.
    NextRound,
}

/// The same failure for another caller.
fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        StoreError::OutcomeUnknown(why) => StoreError::OutcomeUnknown(why.clone()),
        StoreError::Damaged(why) => StoreError::Damaged(why.clone()),
    }
}

/// The plan for one request.
enum Plan {
    /// Answer it without a change.
    Answer(Result<RevokeAnswer>),
    /// Wait for an earlier request of the round that names the same key.
    Later,
    /// Revoke the key, if there is a revocation, and answer its state.
    Key(Box<KeyRecord>, Option<PlannedRevocation>),
}

/// Reads the keys that the requests name.
async fn read_targets(
    lease: &mut Lease<'_>,
    asked: &[&Asked],
) -> std::result::Result<Vec<PgRow>, Failure> {
    let (mut ids, mut digests) = (Vec::new(), Vec::new());
    for one in asked {
        match &one.target {
            KeyTarget::Id(id) => ids.push(rows::uuid(*id)),
            KeyTarget::Digest(digest) => digests.push(digest.as_bytes().to_vec()),
        }
    }
    let statement = sqlx::query(concat!(
        "SELECT ",
        key_columns!(),
        ", digest, store_time() AS now FROM api_keys
          WHERE key_id = ANY($1) OR digest = ANY($2)"
    ));
    lease.fetch_all(statement.bind(ids).bind(digests)).await
}

fn plan(asked: &Asked, seen: &[PgRow], taken: &mut HashSet<KeyId>) -> Plan {
    let read = || {
        for row in seen {
            let is_it = match &asked.target {
                KeyTarget::Id(id) => rows::id(row, "key_id")? == *id,
                KeyTarget::Digest(digest) => {
                    rows::column::<&[u8]>(row, "digest")? == digest.as_bytes()
                }
            };
            if is_it {
                return Ok(Some((rows::key(row)?, rows::time(row, "now")?)));
            }
        }
        Ok(None)
    };
    let (record, now): (KeyRecord, Timestamp) = match read() {
        Ok(Some(found)) => found,
        Ok(None) => return Plan::Answer(Ok(RevokeAnswer::NotFound)),
        Err(error) => return Plan::Answer(Err(error)),
    };
    if !taken.insert(record.id) {
        return Plan::Later;
    }
    let (successor, reason) = (asked.successor.clone(), asked.reason.clone());
    match plan_revocation(&record, successor, now, now.plus(asked.grace), reason) {
        RevocationPlan::Expired => Plan::Answer(Ok(RevokeAnswer::Expired)),
        RevocationPlan::Unchanged => Plan::Key(Box::new(record), None),
        RevocationPlan::Revoke(planned) => Plan::Key(Box::new(record), Some(planned)),
    }
}

/// Reads the current state of the keys and their successors.
async fn read_current(
    lease: &mut Lease<'_>,
    plans: &[Plan],
) -> std::result::Result<Vec<PgRow>, Failure> {
    let mut ids = Vec::new();
    for plan in plans {
        if let Plan::Key(record, planned) = plan {
            let successor = match planned {
                Some(planned) => planned.replaced_by(record),
                None => record.replaced_by,
            };
            ids.push(record.id);
            ids.extend(successor);
        }
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    lease.fetch_all(by_ids(&ids, Lock::None)).await
}

/// The answer about a key with its `current` row. `seen` is the record before the write of `planned`.
fn answer(
    seen: &KeyRecord,
    planned: Option<&PlannedRevocation>,
    current: &[PgRow],
) -> Result<RevokeAnswer> {
    let find = |id: KeyId| -> Result<Option<&PgRow>> {
        for row in current {
            if rows::id(row, "key_id")? == id {
                return Ok(Some(row));
            }
        }
        Ok(None)
    };
    let lost = || {
        let lost = "a committed revocation is missing. Check whether the database was restored or \
                    failed over";
        StoreError::OutcomeUnknown(lost.to_owned())
    };
    let row = find(seen.id)?.ok_or_else(lost)?;
    let record = rows::key(row)?;
    // Read after the commit, so a smaller revision means that the change was lost since.
    let least_revision = seen.revision + u64::from(planned.is_some());
    if record.revision < least_revision || record.revoke_time.is_none() {
        return Err(lost());
    }
    let successor: Option<StoredKey> = match record.replaced_by {
        Some(id) => find(id)?.map(rows::stored_key).transpose()?,
        None => None,
    };
    Ok(RevokeAnswer::Done(Box::new(Revoked {
        revoke_time: record.revoke_time,
        keys: vec![record],
        digests: vec![rows::digest(row)?],
        count: 1,
        successor,
        created: planned.is_some_and(|planned| planned.successor.is_some()),
        committed: rows::last_change(row, "key_id")?,
    })))
}
