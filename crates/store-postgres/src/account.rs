//! Revokes all keys of an account, in one transaction.

use uuid::Uuid;

use super::audit::audit;
use super::failure::{Failure, retry};
use super::keys::{Lock, by_ids};
use super::pool::Lease;
use super::{ALLOW_LONG_STATEMENT, ATTEMPTS, LONG_LIMIT, PostgresStore, rows};
use keyward_core::key::{AccountId, KeyId, KeyRecord, Reason, Timestamp};
use keyward_crypto::Digest;
use keyward_store::{
    Actor, AuditAction, AuditEntry, CommittedChange, Result, RevokeAnswer, Revoked, StoreError,
};

/// What one pass over the account's keys did.
#[derive(Default)]
struct Pass {
    /// How many keys it revoked.
    count: u64,
    /// How many live keys the snapshot of the statement showed.
    visible: u64,
    /// The first of the revoked keys.
    listed: Vec<KeyId>,
}

impl PostgresStore {
    pub(super) async fn revoke_account(
        &self,
        account: &AccountId,
        reason: Option<&Reason>,
        actor: &Actor,
    ) -> Result<RevokeAnswer> {
        retry(|| self.try_revoke_account(account, reason, actor)).await
    }

    async fn try_revoke_account(
        &self,
        account: &AccountId,
        reason: Option<&Reason>,
        actor: &Actor,
    ) -> std::result::Result<RevokeAnswer, Failure> {
        let mut lease = self.writers.begin().await?;
        lease.execute(sqlx::query(ALLOW_LONG_STATEMENT)).await?;
        let clock = lease.fetch_one(sqlx::query("SELECT store_time() AS now"));
        let now = rows::time(&clock.await?, "now")?;
        let mut all = Pass::default();
        // While a statement waits for the lock of a key, another transaction may replace that key.
        // The snapshot does not show the successor, so repeat until a snapshot shows no live key.
        for attempt in 0.. {
            let pass = revoke_visible(&mut lease, account, reason, actor, now).await?;
            if pass.visible == 0 {
                break;
            }
            if attempt == ATTEMPTS {
                let busy = "other calls keep replacing keys of this account".to_owned();
                return Err(StoreError::Unavailable(busy).into());
            }
            all.count += pass.count;
            all.listed.extend(pass.listed);
            all.listed.truncate(Revoked::LISTED);
        }
        let (keys, digests) = read_listed(&mut lease, &all.listed).await?;
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
            self.announce();
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

/// Locks the live keys in the order of their ids, which avoids deadlocks, and revokes them at `now`.
async fn revoke_visible(
    lease: &mut Lease<'_>,
    account: &AccountId,
    reason: Option<&Reason>,
    actor: &Actor,
    now: Timestamp,
) -> std::result::Result<Pass, Failure> {
    let statement = sqlx::query(
        "WITH live AS MATERIALIZED (
                  SELECT key_id FROM api_keys
                   WHERE account_id = $1 AND (revoke_time IS NULL OR revoke_time > $5)
                   ORDER BY key_id FOR UPDATE),
              revoked AS (
                  UPDATE api_keys AS k
                     SET revoke_time = $5, revoke_reason = coalesce(revoke_reason, $2),
                         changed_by = $3
                    FROM live
                   WHERE k.key_id = live.key_id
                     AND (k.revoke_time IS NULL OR k.revoke_time > $5)
                  RETURNING k.key_id)
         SELECT count(*) AS count, (array_agg(key_id ORDER BY key_id))[1:$4] AS listed,
                (SELECT count(*) FROM api_keys
                  WHERE account_id = $1 AND (revoke_time IS NULL OR revoke_time > $5)) AS visible
           FROM revoked",
    )
    .bind(account.as_str().to_owned())
    .bind(reason.map(|reason| reason.as_str().to_owned()))
    .bind(actor.name.clone())
    .bind(i32::try_from(Revoked::LISTED).unwrap_or(i32::MAX))
    .bind(rows::instant(now)?);
    let row = lease.fetch_one_within(LONG_LIMIT, statement).await?;
    let listed: Option<Vec<Uuid>> = rows::column(&row, "listed")?;
    Ok(Pass {
        count: rows::revision(&row, "count")?,
        visible: rows::revision(&row, "visible")?,
        listed: listed
            .into_iter()
            .flatten()
            .map(|id| KeyId::from_bytes(id.into_bytes()))
            .collect(),
    })
}

/// The current records of the listed keys, and their digests.
async fn read_listed(
    lease: &mut Lease<'_>,
    ids: &[KeyId],
) -> std::result::Result<(Vec<KeyRecord>, Vec<Digest>), Failure> {
    let found = lease.fetch_all(by_ids(ids, Lock::None)).await?;
    let mut keys = found.iter().map(rows::key).collect::<Result<Vec<_>>>()?;
    keys.sort_unstable_by_key(|key| key.id);
    let digests = found.iter().map(rows::digest).collect::<Result<_>>()?;
    Ok((keys, digests))
}

/// The latest change of the account's keys, including keys that were revoked before.
async fn last_change(
    lease: &mut Lease<'_>,
    account: &AccountId,
) -> std::result::Result<CommittedChange, Failure> {
    let latest = sqlx::query(
        "SELECT key_id, revision, mark FROM api_keys
          WHERE account_id = $1 ORDER BY revision DESC LIMIT 1",
    );
    let latest = lease
        .fetch_optional(latest.bind(account.as_str().to_owned()))
        .await?;
    Ok(match &latest {
        Some(row) => rows::last_change(row, "key_id")?,
        None => CommittedChange::NOTHING,
    })
}
