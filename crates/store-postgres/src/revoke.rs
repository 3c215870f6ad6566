//! Revoking on Postgres. Writers of changes queue at the log's counter, so single revocations are
//! gathered: what is asked while a statement is under way goes into the next one together, on one of
//! two links.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::ATTEMPTS;
use super::ends::{Written, write_ends};
use super::failure::{Failure, Kind};
use super::hints::Hints;
use super::keys::by_ids;
use super::links::{Lease, Links};
use super::rows::{self, key_columns};
use keyward_core::key::{KeyId, KeyRecord, Reason, Timestamp};
use keyward_store::plan::{End, RevocationPlan, ending};
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
    pub(super) fn start(links: &Arc<Links>, hints: &Arc<Hints>) -> Self {
        let (queue, asked) = mpsc::channel(MOST * WRITERS);
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..WRITERS {
            let writer = Writer {
                links: Arc::clone(links),
                hints: Arc::clone(hints),
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
    links: Arc<Links>,
    hints: Arc<Hints>,
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
                        outcomes[n] = outcome;
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

    /// One round: look, decide, write what still stands as it was seen, look again. `None` for a request
    /// that needs another round.
    async fn one_round(
        &self,
        asked: &[&Asked],
    ) -> std::result::Result<Vec<Option<Result<RevokeAnswer>>>, Failure> {
        let mut lease = self.links.lease().await?;
        // An idle link may have died unnoticed: nothing was asked of it yet.
        let seen = look(&mut lease, asked)
            .await
            .map_err(Failure::before_anything)?;
        let mut taken = HashSet::new();
        let plans: Vec<Plan> = asked
            .iter()
            .map(|one| plan(one, &seen, &mut taken))
            .collect();
        let mut written = Vec::new();
        for (one, plan) in asked.iter().zip(&plans) {
            if let Plan::Key(record, Some(end)) = plan {
                let actor = &one.actor;
                written.push(Written { record, end, actor });
            }
        }
        let ended = match written.is_empty() {
            true => HashSet::new(),
            false => write_ends(&mut lease, &written).await?,
        };
        if !ended.is_empty() {
            self.hints.give();
        }
        let now = stand(&mut lease, &plans).await;
        // It is written: whether it can be read again now is another matter, and asking again is safe.
        let now = match ended.is_empty() {
            true => now?,
            false => now.map_err(Failure::after_a_write)?,
        };
        lease.done();
        Ok(plans
            .into_iter()
            .map(|plan| match plan {
                Plan::Answer(answer) => Some(answer),
                Plan::Later => None,
                Plan::Key(record, Some(_)) if !ended.contains(&record.id) => None,
                Plan::Key(record, end) => Some(answer(&record, end.as_ref(), &now)),
            })
            .collect())
    }
}

/// The same failure for another caller.
fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        StoreError::OutcomeUnknown(why) => StoreError::OutcomeUnknown(why.clone()),
        StoreError::Damaged(why) => StoreError::Damaged(why.clone()),
    }
}

/// What one request comes to.
enum Plan {
    /// It is answered without a change.
    Answer(Result<RevokeAnswer>),
    /// Another request for its key goes first.
    Later,
    /// The key and its new end, if it gets one.
    Key(Box<KeyRecord>, Option<End>),
}

/// The keys that are meant, as they are now.
async fn look(lease: &mut Lease<'_>, asked: &[&Asked]) -> std::result::Result<Vec<PgRow>, Failure> {
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
    match ending(&record, successor, now, now.plus(asked.grace), reason) {
        RevocationPlan::Expired => Plan::Answer(Ok(RevokeAnswer::Expired)),
        RevocationPlan::Stands => Plan::Key(Box::new(record), None),
        RevocationPlan::Ends(end) => Plan::Key(Box::new(record), Some(end)),
    }
}

/// The keys and their successors as they stand now.
async fn stand(lease: &mut Lease<'_>, plans: &[Plan]) -> std::result::Result<Vec<PgRow>, Failure> {
    let mut ids = Vec::new();
    for plan in plans {
        if let Plan::Key(record, end) = plan {
            ids.push(record.id);
            let made = end.as_ref().and_then(|end| end.replaced_by(record));
            ids.extend(made.or(record.replaced_by));
        }
    }
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    lease.fetch_all(by_ids(&ids, "")).await
}

/// What is answered about a key that stood as `seen`, and got `end` if that is one: how it stands now.
fn answer(seen: &KeyRecord, end: Option<&End>, now: &[PgRow]) -> Result<RevokeAnswer> {
    let find = |id: KeyId| -> Result<Option<&PgRow>> {
        for row in now {
            if rows::id(row, "key_id")? == id {
                return Ok(Some(row));
            }
        }
        Ok(None)
    };
    let gone = || {
        let gone =
            "what was written is not there any more: was the database restored or failed over?";
        StoreError::OutcomeUnknown(gone.to_owned())
    };
    let row = find(seen.id)?.ok_or_else(gone)?;
    let record = rows::key(row)?;
    // It was read after the commit: nothing may be answered, or waited for, that was lost since.
    let at_least = seen.revision + u64::from(end.is_some());
    if record.revision < at_least || record.revoke_time.is_none() {
        return Err(gone());
    }
    let successor: Option<StoredKey> = match record.replaced_by {
        Some(id) => find(id)?.map(rows::secrets).transpose()?,
        None => None,
    };
    Ok(RevokeAnswer::Done(Box::new(Revoked {
        revoke_time: record.revoke_time,
        keys: vec![record],
        digests: vec![rows::digest(row)?],
        count: 1,
        successor,
        created: end.is_some_and(|end| end.successor.is_some()),
        committed: rows::committed(row, "key_id")?,
    })))
}
