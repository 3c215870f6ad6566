//! Revoking all keys of an account: one transaction, however many they are.

use uuid::Uuid;

use super::audit::audit;
use super::failure::{Failure, Kind};
use super::keys::by_ids;
use super::links::Lease;
use super::{ATTEMPTS, LONG, LONG_ANSWER, PostgresStore, rows};
use keyward_core::key::{AccountId, KeyId, KeyRecord, Reason, Timestamp};
use keyward_crypto::Digest;
use keyward_store::{
    Actor, AuditAction, AuditEntry, CommittedChange, Result, RevokeAnswer, Revoked, StoreError,
};

/// Keys that a revocation ended.
#[derive(Default)]
struct Ended {
    count: u64,
    /// How many living keys the statement's snapshot showed.
    shown: u64,
    /// The first of them.
    listed: Vec<KeyId>,
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
        lease.execute(sqlx::query(LONG)).await?;
        let clock = lease.fetch_one(sqlx::query("SELECT store_time() AS now"));
        let now = rows::time(&clock.await?, "now")?;
        let mut all = Ended::default();
        // A key that a statement waits for may have been replaced meanwhile, by one that its
        // snapshot does not show: so it goes on until a snapshot shows no living key.
        for pass in 0.. {
            let more = end(&mut lease, account, reason, actor, now).await?;
            if more.shown == 0 {
                break;
            }
            if pass == ATTEMPTS {
                let busy = "the account's keys are replaced again and again".to_owned();
                return Err(StoreError::Unavailable(busy).into());
            }
            all.count += more.count;
            all.listed.extend(more.listed);
            all.listed.truncate(Revoked::LISTED);
        }
        let (keys, digests) = listed(&mut lease, &all.listed).await?;
        let committed = last_change(&mut lease, account).await?;
        if all.count == 0 {
            lease.rollback().await?;
        } else {
            let entry = AuditEntry {
                action: AuditAction::Revoke,
                id: None,
                account: Some(account.clone()),
                detail: Some(format!("keys={}", all.count)),
            };
            audit(&mut lease, &[(entry, actor.clone())]).await?;
            lease.commit().await?;
            self.hints.give();
        }
        Ok(RevokeAnswer::Done(Box::new(Revoked {
            revoke_time: keys.first().and_then(|key| key.revoke_time),
            keys,
            digests,
            count: all.count,
            successor: None,
            created: false,
            committed,
        })))
    }
}

/// Locks the living keys in the order of their ids, and ends them at `now`.
async fn end(
    lease: &mut Lease<'_>,
    account: &AccountId,
    reason: Option<&Reason>,
    actor: &Actor,
    now: Timestamp,
) -> std::result::Result<Ended, Failure> {
    let statement = sqlx::query(
        "WITH living AS MATERIALIZED (
                  SELECT key_id FROM api_keys
                   WHERE account_id = $1 AND (revoke_time IS NULL OR revoke_time > $5)
                   ORDER BY key_id FOR UPDATE),
              ended AS (
                  UPDATE api_keys AS k
                     SET revoke_time = $5, revoke_reason = coalesce(revoke_reason, $2),
                         changed_by = $3
                    FROM living
                   WHERE k.key_id = living.key_id
                     AND (k.revoke_time IS NULL OR k.revoke_time > $5)
                  RETURNING k.key_id)
         SELECT count(*) AS count, (array_agg(key_id ORDER BY key_id))[1:$4] AS listed,
                (SELECT count(*) FROM api_keys
                  WHERE account_id = $1 AND (revoke_time IS NULL OR revoke_time > $5)) AS shown
           FROM ended",
    )
    .bind(account.as_str().to_owned())
    .bind(reason.map(|reason| reason.as_str().to_owned()))
    .bind(actor.name.clone())
    .bind(i32::try_from(Revoked::LISTED).unwrap_or(i32::MAX))
    .bind(rows::instant(now)?);
    let row = lease.fetch_one_within(LONG_ANSWER, statement).await?;
    let listed: Option<Vec<Uuid>> = rows::column(&row, "listed")?;
    Ok(Ended {
        count: rows::revision(&row, "count")?,
        shown: rows::revision(&row, "shown")?,
        listed: listed
            .into_iter()
            .flatten()
            .map(|id| KeyId::from_bytes(id.into_bytes()))
            .collect(),
    })
}

/// The records of the first keys, as they are now, and their digests.
async fn listed(
    lease: &mut Lease<'_>,
    ids: &[KeyId],
) -> std::result::Result<(Vec<KeyRecord>, Vec<Digest>), Failure> {
    let found = lease.fetch_all(by_ids(ids, "")).await?;
    let mut keys = found.iter().map(rows::key).collect::<Result<Vec<_>>>()?;
    keys.sort_unstable_by_key(|key| key.id);
    let digests = found.iter().map(rows::digest).collect::<Result<_>>()?;
    Ok((keys, digests))
}

/// The last change of any key of the account, those that were revoked before included.
async fn last_change(
    lease: &mut Lease<'_>,
    account: &AccountId,
) -> std::result::Result<CommittedChange, Failure> {
    let last = sqlx::query(
        "SELECT key_id, revision, mark FROM api_keys
          WHERE account_id = $1 ORDER BY revision DESC LIMIT 1",
    );
    let last = lease
        .fetch_optional(last.bind(account.as_str().to_owned()))
        .await?;
    Ok(match &last {
        Some(row) => rows::committed(row, "key_id")?,
        None => CommittedChange::NOTHING,
    })
}
