//! Revoking on Postgres. Writers of changes queue at the log's counter, so single revocations are
//! gathered: what is asked while a transaction is under way goes into the next one together, on
//! one of two links. An account's keys end in one statement of its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::ends::{Written, write_ends};
use super::failure::{Failure, Kind};
use super::keys::by_ids;
use super::links::{Lease, Links};
use super::rows::{self, key_columns};
use super::{ATTEMPTS, PostgresStore};
use crate::key::{AccountId, KeyId, KeyRecord, Reason, Timestamp};
use crate::store::plan::{End, Ending, ending};
use crate::store::{
    Actor, AuditAction, AuditEntry, Committed, KeyTarget, Result, RevokeAnswer, Revoked, Secrets,
    StoreError, Successor,
};

/// Revocations in one transaction at most.
const MOST: usize = 64;
/// How long an account's keys may take to end: a hundred thousand take several seconds.
const ACCOUNT: Duration = Duration::from_secs(120);
/// Transactions of them under way at a time.
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
    pub(super) fn start(links: &Arc<Links>) -> Self {
        let (queue, asked) = mpsc::channel(MOST * WRITERS);
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..WRITERS {
            tokio::spawn(write(Arc::clone(links), Arc::clone(&asked)));
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

async fn write(links: Arc<Links>, queue: Arc<Mutex<mpsc::Receiver<(Asked, Answer)>>>) {
    let mut batch = Vec::with_capacity(MOST);
    loop {
        if queue.lock().await.recv_many(&mut batch, MOST).await == 0 {
            return;
        }
        let (asked, answers): (Vec<Asked>, Vec<Answer>) = batch.drain(..).unzip();
        let outcomes = match revoke_all(&links, &asked).await {
            Ok(outcomes) => outcomes,
            // One that cannot be written must not fail the others.
            Err(failure) if failure.kind == Kind::Refused && asked.len() > 1 => {
                let mut outcomes = Vec::with_capacity(asked.len());
                for one in &asked {
                    let outcome = revoke_all(&links, std::slice::from_ref(one)).await;
                    outcomes.push(outcome.map_or_else(
                        |failure| Err(failure.error),
                        |mut outcomes| outcomes.remove(0),
                    ));
                }
                outcomes
            }
            Err(failure) => asked.iter().map(|_| Err(copy(&failure.error))).collect(),
        };
        for (tell, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever asked may have gone; it is done.
            let _ = tell.send(outcome);
        }
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

/// Revokes all that was asked for; an outcome for each. Several that name one key are revoked one
/// after the other, in transactions of their own.
async fn revoke_all(
    links: &Links,
    asked: &[Asked],
) -> std::result::Result<Vec<Result<RevokeAnswer>>, Failure> {
    let mut outcomes: Vec<Option<Result<RevokeAnswer>>> = asked.iter().map(|_| None).collect();
    let mut attempts = ATTEMPTS;
    while outcomes.iter().any(Option::is_none) {
        let open: Vec<usize> = (0..asked.len())
            .filter(|n| outcomes[*n].is_none())
            .collect();
        let round: Vec<&Asked> = open.iter().map(|n| &asked[*n]).collect();
        match revoke_each_once(links, &round).await {
            Ok(answered) => {
                for (n, outcome) in open.into_iter().zip(answered) {
                    outcomes[n] = outcome;
                }
            }
            Err(failure) if failure.kind == Kind::Again && attempts > 1 => attempts -= 1,
            Err(failure) => {
                // What earlier rounds did is done and stays answered.
                if outcomes.iter().all(Option::is_none) {
                    return Err(failure);
                }
                for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
                    *outcome = Some(Err(copy(&failure.error)));
                }
            }
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// What one request comes to in this transaction.
enum Plan {
    /// It is answered without a change.
    Answer(Result<RevokeAnswer>),
    /// Another request for its key goes first; it has its turn in the next transaction.
    Later,
    /// The key and its new end, if it gets one.
    Key(Box<KeyRecord>, Option<End>),
}

/// One transaction; `None` for a request that has to wait for another one for its key.
async fn revoke_each_once(
    links: &Links,
    asked: &[&Asked],
) -> std::result::Result<Vec<Option<Result<RevokeAnswer>>>, Failure> {
    let mut lease = links.begin().await?;
    let locked = lock(&mut lease, asked).await?;
    let mut taken = HashSet::new();
    let plans: Vec<Plan> = asked
        .iter()
        .map(|one| plan(one, &locked, &mut taken))
        .collect();
    let mut written = Vec::new();
    for (one, plan) in asked.iter().zip(&plans) {
        if let Plan::Key(record, Some(end)) = plan {
            let actor = &one.actor;
            written.push(Written { record, end, actor });
        }
    }
    if !written.is_empty() {
        write_ends(&mut lease, &written).await?;
    }
    let changed = !written.is_empty();
    let now = stand(&mut lease, &plans).await?;
    if changed {
        lease.commit().await?;
    } else {
        lease.rollback().await?;
    }
    Ok(plans
        .into_iter()
        .map(|plan| match plan {
            Plan::Answer(answer) => Some(answer),
            Plan::Later => None,
            Plan::Key(record, end) => Some(answer(record.id, end.as_ref(), &now)),
        })
        .collect())
}

/// Locks the keys that are meant, in the order of their ids: whoever locks several does it so.
async fn lock(lease: &mut Lease<'_>, asked: &[&Asked]) -> std::result::Result<Vec<PgRow>, Failure> {
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
          WHERE key_id = ANY($1) OR digest = ANY($2) ORDER BY key_id FOR UPDATE"
    ));
    lease.fetch_all(statement.bind(ids).bind(digests)).await
}

fn plan(asked: &Asked, locked: &[PgRow], taken: &mut HashSet<KeyId>) -> Plan {
    let read = || {
        for row in locked {
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
        Ending::Expired => Plan::Answer(Ok(RevokeAnswer::Expired)),
        Ending::Stands => Plan::Key(Box::new(record), None),
        Ending::Ends(end) => Plan::Key(Box::new(record), Some(end)),
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

fn answer(id: KeyId, end: Option<&End>, now: &[PgRow]) -> Result<RevokeAnswer> {
    let find = |id: KeyId| -> Result<Option<&PgRow>> {
        for row in now {
            if rows::id(row, "key_id")? == id {
                return Ok(Some(row));
            }
        }
        Ok(None)
    };
    let row = find(id)?.ok_or_else(|| rows::damaged("a row vanished within its transaction"))?;
    let record = rows::key(row)?;
    let successor: Option<Secrets> = match record.replaced_by {
        Some(id) => find(id)?.map(rows::secrets).transpose()?,
        None => None,
    };
    Ok(RevokeAnswer::Done(Box::new(Revoked {
        revoke_time: record.revoke_time,
        keys: vec![record],
        count: 1,
        successor,
        created: end.is_some_and(|end| end.successor.is_some()),
        committed: rows::committed(row, "key_id")?,
    })))
}

impl PostgresStore {
    pub(super) async fn revoke_account(
        &self,
        account: &AccountId,
        reason: Option<&Reason>,
        actor: &Actor,
    ) -> Result<RevokeAnswer> {
        let mut attempts = ATTEMPTS;
        loop {
            match self.try_revoke_account(account, reason, actor).await {
                Err(failure) if failure.kind == Kind::Again && attempts > 1 => attempts -= 1,
                outcome => return Ok(outcome?),
            }
        }
    }

    async fn try_revoke_account(
        &self,
        account: &AccountId,
        reason: Option<&Reason>,
        actor: &Actor,
    ) -> std::result::Result<RevokeAnswer, Failure> {
        let mut lease = self.writers.begin().await?;
        lease
            .execute(sqlx::query("SET LOCAL statement_timeout = '115s'"))
            .await?;
        let ended = sqlx::query(
            "WITH clock AS MATERIALIZED (SELECT store_time() AS now),
                  living AS MATERIALIZED (
                      SELECT key_id FROM api_keys, clock
                       WHERE account_id = $1 AND (revoke_time IS NULL OR revoke_time > now)
                       ORDER BY key_id FOR UPDATE OF api_keys),
                  ended AS (
                      UPDATE api_keys AS k
                         SET revoke_time = clock.now, revoke_reason = coalesce(revoke_reason, $2),
                             changed_by = $3
                        FROM living, clock
                       WHERE k.key_id = living.key_id
                         AND (k.revoke_time IS NULL OR k.revoke_time > clock.now)
                      RETURNING k.key_id)
             SELECT count(*) AS count, (array_agg(key_id ORDER BY key_id))[1:$4] AS listed
               FROM ended",
        )
        .bind(account.as_str().to_owned())
        .bind(reason.map(|reason| reason.as_str().to_owned()))
        .bind(actor.name.clone())
        .bind(i32::try_from(Revoked::LISTED).unwrap_or(i32::MAX));
        let row = lease.fetch_one_within(ACCOUNT, ended).await?;
        let count = rows::revision(&row, "count")?;
        let listed: Option<Vec<uuid::Uuid>> = rows::column(&row, "listed")?;
        let listed: Vec<KeyId> = listed
            .into_iter()
            .flatten()
            .map(|id| KeyId::from_bytes(id.into_bytes()))
            .collect();
        let mut keys = lease
            .fetch_all(by_ids(&listed, ""))
            .await?
            .iter()
            .map(rows::key)
            .collect::<Result<Vec<_>>>()?;
        keys.sort_unstable_by_key(|key| key.id);
        let last = sqlx::query(
            "SELECT key_id, revision, mark FROM api_keys
              WHERE account_id = $1 ORDER BY revision DESC LIMIT 1",
        );
        let last = lease
            .fetch_optional(last.bind(account.as_str().to_owned()))
            .await?;
        let committed = match &last {
            Some(row) => rows::committed(row, "key_id")?,
            None => Committed::NOTHING,
        };
        if count == 0 {
            lease.rollback().await?;
        } else {
            let entry = AuditEntry {
                action: AuditAction::Revoke,
                id: None,
                account: Some(account.clone()),
                detail: Some(format!("keys={count}")),
            };
            super::audit::audit(&mut lease, &[(entry, actor.clone())]).await?;
            lease.commit().await?;
        }
        Ok(RevokeAnswer::Done(Box::new(Revoked {
            revoke_time: keys.first().and_then(|key| key.revoke_time),
            keys,
            count,
            successor: None,
            created: false,
            committed,
        })))
    }
}
