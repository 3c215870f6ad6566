//! Revocations of single keys on Postgres. All writers of changes queue for the log's counter, so
//! concurrent revocations are gathered into batches: while one is written, the next one fills. A batch
//! skips locked keys; their calls come again in a later batch, so they delay no other call.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::ATTEMPTS;
use super::change_notices::ChangeNotices;
use super::failure::{Failure, Kind, closed};
use super::keys::{Lock, by_ids};
use super::locks::{LockedRow, Locks};
use super::log::epoch;
use super::pool::{Lease, Pool};
use super::revocations::{Write, write_revocations};
use super::rows::{self, key_columns};
use keyward_core::fence::Epoch;
use keyward_core::key::{KeyId, KeyRecord, Reason, Timestamp};
use keyward_crypto::Digest;
use keyward_ops::{TIMELINE, Tasks};
use keyward_store::plan::{PlannedRevocation, RevocationPlan, plan_revocation};
use keyward_store::{
    Actor, KeyTarget, Result, RevokeAnswer, Revoked, StoreError, StoredKey, Successor, Updated,
};

/// The most revocations in one statement.
const BATCH: usize = 64;
/// The number of batches at a time: one is written, the other fills.
const WRITERS: usize = 2;
/// The longest time for which a batch holds up the next one: its connection may hang.
const TURN: Duration = Duration::from_secs(1);

/// One revocation.
#[derive(Clone)]
struct Request {
    target: KeyTarget,
    successor: Option<Successor>,
    grace: Duration,
    reason: Option<Reason>,
    actor: Actor,
}

type Answer = Result<RevokeAnswer, Failure>;
type Queue = mpsc::Receiver<(Request, oneshot::Sender<Answer>)>;

/// Revokes single keys in batches.
pub(super) struct Revoker {
    requests: mpsc::Sender<(Request, oneshot::Sender<Answer>)>,
    locks: Arc<Locks>,
}

impl Revoker {
    /// Starts the writers. They end when this is dropped.
    pub(super) fn start(
        pool: &Arc<Pool>,
        notices: &Arc<ChangeNotices>,
        locks: &Arc<Locks>,
        tasks: &Tasks,
    ) -> Self {
        let (requests, queue) = mpsc::channel(BATCH * WRITERS);
        let (queue, turn) = (Arc::new(Mutex::new(queue)), Arc::new(Semaphore::new(1)));
        for _ in 0..WRITERS {
            let writer = Writer {
                pool: Arc::clone(pool),
                notices: Arc::clone(notices),
                queue: Arc::clone(&queue),
                turn: Arc::clone(&turn),
            };
            tasks.spawn("writer of revocations", writer.run());
        }
        let locks = Arc::clone(locks);
        Self { requests, locks }
    }

    pub(super) async fn revoke(
        &self,
        target: KeyTarget,
        successor: Option<Successor>,
        grace: Duration,
        reason: Option<Reason>,
        actor: &Actor,
    ) -> Result<RevokeAnswer> {
        let request = Request {
            target,
            successor,
            grace,
            reason,
            actor: actor.clone(),
        };
        self.locks.retry(|| self.enqueue(request.clone())).await
    }

    async fn enqueue(&self, request: Request) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.requests
            .send((request, sender))
            .await
            .map_err(|_| closed())?;
        receiver.await.unwrap_or_else(|_| {
            let lost = "a revocation ended without an answer".to_owned();
            Err(StoreError::OutcomeUnknown(lost).into())
        })
    }
}

/// Writes batches of revocations.
struct Writer {
    pool: Arc<Pool>,
    notices: Arc<ChangeNotices>,
    queue: Arc<Mutex<Queue>>,
    turn: Arc<Semaphore>,
}

impl Writer {
    async fn run(self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let mut queue = self.queue.lock().await;
            if queue.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            let turn = self.turn.acquire().await;
            while batch.len() < BATCH
                && let Ok(request) = queue.try_recv()
            {
                batch.push(request);
            }
            drop(queue);
            let (requests, senders): (Vec<Request>, Vec<_>) = batch.drain(..).unzip();
            let mut answers = pin!(self.answer_all(&requests));
            let in_time = tokio::time::timeout(TURN, &mut answers).await;
            drop(turn);
            let answers = match in_time {
                Ok(answers) => answers,
                Err(_) => answers.await,
            };
            for (sender, answer) in senders.into_iter().zip(answers) {
                // The caller may have stopped waiting. The change is committed anyway.
                let _ = sender.send(answer);
            }
        }
    }

    async fn answer_all(&self, requests: &[Request]) -> Vec<Answer> {
        match self.revoke_all(requests).await {
            Ok(answers) => answers,
            // One damaged row must not fail the other requests.
            Err(failure)
                if matches!(failure.error, StoreError::Damaged(_)) && requests.len() > 1 =>
            {
                self.one_by_one(requests).await
            }
            Err(failure) => requests.iter().map(|_| Err(failure.clone())).collect(),
        }
    }

    async fn one_by_one(&self, requests: &[Request]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let answer = self.revoke_all(std::slice::from_ref(request)).await;
            answers.push(answer.and_then(|mut answers| answers.remove(0)));
        }
        answers
    }

    /// Revokes in rounds. A request goes into another round if its key has changed meanwhile, or if
    /// another request for the same key is in this round.
    async fn revoke_all(&self, requests: &[Request]) -> Result<Vec<Answer>, Failure> {
        let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
        // One round for each request, in case all name one key, and some for other writers.
        for _ in 0..requests.len() + ATTEMPTS {
            let open: Vec<usize> = (0..requests.len())
                .filter(|n| answers[*n].is_none())
                .collect();
            if open.is_empty() {
                break;
            }
            let round: Vec<&Request> = open.iter().map(|n| &requests[*n]).collect();
            match self.one_round(&round).await {
                Ok(results) => {
                    for (n, result) in open.into_iter().zip(results) {
                        if let RoundResult::Answered(answer) = result {
                            answers[n] = Some(answer);
                        }
                    }
                }
                Err(failure) if failure.kind == Kind::Again => {}
                Err(failure) if open.len() == requests.len() => return Err(failure),
                // Answers of earlier rounds stay: their changes are committed.
                Err(failure) => {
                    for n in open {
                        answers[n] = Some(Err(failure.clone()));
                    }
                }
            }
        }
        let busy = || {
            let busy = "other writers keep changing the key; try again later".to_owned();
            Err(StoreError::Unavailable(busy).into())
        };
        let answers = answers.into_iter();
        Ok(answers.map(|answer| answer.unwrap_or_else(busy)).collect())
    }

    /// One round: read the keys, plan, write the plans whose key has not changed, read again.
    async fn one_round(&self, requests: &[&Request]) -> Result<Vec<RoundResult>, Failure> {
        tracing::trace!(target: TIMELINE, requests = requests.len(), "started");
        let mut lease = self.pool.lease().await?;
        // An idle connection may have broken unnoticed, but nothing was written over it yet.
        let seen = read_targets(&mut lease, requests)
            .await
            .map_err(Failure::before_anything)?;
        tracing::trace!(target: TIMELINE, "planned");
        let mut taken = HashSet::new();
        let plans: Vec<Plan> = requests
            .iter()
            .map(|request| plan(request, &seen, &mut taken))
            .collect();
        // A call that changes nothing relies on what was read.
        let read_in = match plans.iter().all(Plan::writes) {
            true => None,
            false => {
                let epoch = epoch(&mut lease).await;
                Some(epoch.map_err(Failure::before_anything)?)
            }
        };
        let mut written = Vec::new();
        for (request, plan) in requests.iter().zip(&plans) {
            if let Plan::Key(record, Some(planned)) = plan {
                let actor = &request.actor;
                written.push(Write {
                    record,
                    planned,
                    actor,
                });
            }
        }
        let revoked = match written.is_empty() {
            true => HashSet::new(),
            false => write_revocations(&mut lease, &written).await?,
        };
        if !revoked.is_empty() {
            tracing::trace!(target: TIMELINE, changes = revoked.len(), "committed");
        }
        let now = match (shown(&plans), revoked.is_empty()) {
            (ids, _) if ids.is_empty() => Vec::new(),
            (ids, true) => lease.fetch_all(by_ids(&ids, Lock::None)).await?,
            (ids, false) => {
                let now = self.notices.send_and_read(&mut lease, &ids).await;
                // The outcome is unknown without this read. The same call again is safe.
                now.map_err(Failure::after_a_write)?
            }
        };
        lease.done();
        tracing::trace!(target: TIMELINE, "answered");
        let locked = locked(&plans, &revoked, &now)?;
        let skipped =
            |id| RoundResult::Answered(Err(Failure::locked(LockedRow::Key(rows::uuid(id)))));
        Ok(plans
            .into_iter()
            .map(|plan| match plan {
                Plan::Answer(answer) => RoundResult::Answered(answer.map_err(Failure::from)),
                Plan::NotFound => RoundResult::Answered(Ok(RevokeAnswer::NotFound { read_in })),
                Plan::NextRound(id) if locked.contains(&id) => skipped(id),
                Plan::NextRound(_) => RoundResult::NextRound,
                Plan::Key(record, Some(_)) if locked.contains(&record.id) => skipped(record.id),
                Plan::Key(record, Some(_)) if !revoked.contains(&record.id) => {
                    RoundResult::NextRound
                }
                Plan::Key(record, planned) => {
                    let read_in = read_in.filter(|_| planned.is_none());
                    let answer = answer(&record, planned.as_ref(), read_in, &now);
                    RoundResult::Answered(answer.map_err(Failure::from))
                }
            })
            .collect())
    }
}

/// The result of one request in one round.
enum RoundResult {
    Answered(Answer),
    /// The request needs another round.
    NextRound,
}

/// The plan for one request in one round.
enum Plan {
    /// The answer needs no change.
    Answer(Result<RevokeAnswer>),
    /// There is no such key.
    NotFound,
    /// Another request revokes the same key in this round.
    NextRound(KeyId),
    /// Revoke the key, if there is a revocation, and answer its state.
    Key(Box<KeyRecord>, Option<PlannedRevocation>),
}

impl Plan {
    /// Whether the plan changes its key, or leaves that to another round.
    fn writes(&self) -> bool {
        matches!(self, Self::NextRound(_) | Self::Key(_, Some(_)))
    }
}

/// Reads the keys that the requests name.
async fn read_targets(lease: &mut Lease<'_>, requests: &[&Request]) -> Result<Vec<PgRow>, Failure> {
    let (mut ids, mut digests) = (Vec::new(), Vec::new());
    for request in requests {
        match &request.target {
            KeyTarget::Id(id) => ids.push(rows::uuid(*id)),
            KeyTarget::Digests(asked) => digests.extend(rows::digests(asked)),
        }
    }
    let statement = sqlx::query(concat!(
        "SELECT ",
        key_columns!(),
        ", digest, (SELECT store_time()) AS now FROM api_keys WHERE key_id = ANY($1)
         UNION ALL
         SELECT ",
        key_columns!(),
        ", digest, (SELECT store_time()) AS now FROM api_keys WHERE digest = ANY($2)"
    ));
    lease.fetch_all(statement.bind(ids).bind(digests)).await
}

fn plan(request: &Request, seen: &[PgRow], taken: &mut HashSet<KeyId>) -> Plan {
    let read = || {
        let mut target: Option<(KeyId, &PgRow)> = None;
        for row in seen {
            let id = rows::id(row, "key_id")?;
            let is_target = match &request.target {
                KeyTarget::Id(named) => id == *named,
                KeyTarget::Digests(digests) => digests.contains(&rows::read::<Digest>(row)?),
            };
            if is_target && target.is_none_or(|(lowest, _)| id < lowest) {
                target = Some((id, row));
            }
        }
        let read = |(_, row)| Ok((rows::read(row)?, rows::time(row, "now")?));
        target.map(read).transpose()
    };
    let (record, now): (KeyRecord, Timestamp) = match read() {
        Ok(Some(found)) => found,
        Ok(None) => return Plan::NotFound,
        Err(error) => return Plan::Answer(Err(error)),
    };
    let (successor, reason) = (request.successor.clone(), request.reason.clone());
    match plan_revocation(&record, successor, now, request.grace, reason) {
        RevocationPlan::Expired => Plan::Answer(Ok(RevokeAnswer::Expired)),
        RevocationPlan::Unchanged => Plan::Key(Box::new(record), None),
        RevocationPlan::Revoke(_) if !taken.insert(record.id) => Plan::NextRound(record.id),
        RevocationPlan::Revoke(planned) => Plan::Key(Box::new(record), Some(planned)),
    }
}

/// The keys that were not revoked although they have not changed: other sessions have locked them.
fn locked(plans: &[Plan], revoked: &HashSet<KeyId>, now: &[PgRow]) -> Result<HashSet<KeyId>> {
    let mut locked = HashSet::new();
    for row in now {
        let id = rows::id(row, "key_id")?;
        let revision = rows::revision(row, "revision")?;
        let is_unchanged = |plan: &Plan| match plan {
            Plan::Key(seen, Some(_)) => seen.id == id && seen.revision == revision,
            _ => false,
        };
        if !revoked.contains(&id) && plans.iter().any(is_unchanged) {
            locked.insert(id);
        }
    }
    Ok(locked)
}

/// The keys that the answers show: those of the requests, and their successors.
fn shown(plans: &[Plan]) -> Vec<KeyId> {
    let mut ids = Vec::new();
    for plan in plans {
        if let Plan::Key(record, planned) = plan {
            ids.push(record.id);
            let made = planned
                .as_ref()
                .and_then(|planned| planned.replaced_by(record));
            ids.extend(made.or(record.replaced_by));
        }
    }
    ids
}

/// The answer for a key that was read as `seen`, with its planned revocation if it has one; otherwise with
/// the epoch of that read.
fn answer(
    seen: &KeyRecord,
    planned: Option<&PlannedRevocation>,
    read_in: Option<Epoch>,
    now: &[PgRow],
) -> Result<RevokeAnswer> {
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
            "a committed change is missing; check whether the database was restored or failed over";
        StoreError::OutcomeUnknown(gone.to_owned())
    };
    let row = find(seen.id)?.ok_or_else(gone)?;
    let mut revoked: Updated = rows::read(row)?;
    let record = &revoked.record;
    // The row was read after the commit. A change that was lost since then must not be answered.
    let at_least = seen.revision + u64::from(planned.is_some());
    if record.revision < at_least || record.revoke_time.is_none() {
        return Err(gone());
    }
    let successor: Option<StoredKey> = match record.replaced_by {
        Some(id) => find(id)?.map(rows::read).transpose()?,
        None => None,
    };
    revoked.committed = revoked.committed.read_in(read_in);
    let created = planned.is_some_and(|planned| planned.successor.is_some());
    Ok(Revoked::one(revoked, successor, created))
}
