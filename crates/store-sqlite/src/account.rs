//! Revokes all keys of an account on SQLite, in steps, between which other changes are written.

use super::rows;
use super::{SqliteStore, store_error};
use keyward_core::key::{AccountId, KeyId, KeyRecord, Reason};
use keyward_crypto::Digest;
use keyward_store::account::{AUDIT_DETAIL, AccountProgress, PASSES, STEP};
use keyward_store::{Actor, CommittedChange, Result, RevokeAnswer, raw};

use super::keys::id_query;

/// An account revocation.
struct AccountRevocation<'r> {
    account: &'r AccountId,
    reason: Option<&'r Reason>,
    actor: &'r Actor,
}

impl SqliteStore {
    pub(super) async fn revoke_account(
        &self,
        account: &AccountId,
        reason: Option<&Reason>,
        actor: &Actor,
    ) -> Result<RevokeAnswer> {
        let revocation = AccountRevocation {
            account,
            reason,
            actor,
        };
        let mut progress = AccountProgress::default();
        let answer = self.revoke_in_steps(&revocation, &mut progress).await;
        answer.map_err(|error| progress.failed(error))
    }

    async fn revoke_in_steps(
        &self,
        revocation: &AccountRevocation<'_>,
        progress: &mut AccountProgress,
    ) -> Result<RevokeAnswer> {
        for _ in 0..PASSES {
            let mut after = Vec::new();
            loop {
                let revoked = self.step(revocation, &after).await?;
                progress.add(&revoked);
                match revoked.last() {
                    Some(last) if revoked.len() == STEP => after = rows::id(*last),
                    _ => break,
                }
            }
            // Keys may have been issued meanwhile: no key of the account may be live in the read that
            // ends this call.
            if let Some(committed) = self.latest_change(revocation.account).await? {
                let (keys, digests) = self.read_listed(&progress.listed).await?;
                return Ok(progress.done(keys, digests, committed));
            }
        }
        Err(AccountProgress::overtaken())
    }

    /// One step: revokes the first live keys after `after`, in one transaction.
    async fn step(&self, revocation: &AccountRevocation<'_>, after: &[u8]) -> Result<Vec<KeyId>> {
        /// The keys of the step. The parameters are the account, `after`, the time and the limit.
        macro_rules! live {
            () => {
                "FROM api_keys WHERE account_id = ?1 AND key_id > ?2
                   AND revoked = 0 ORDER BY key_id LIMIT ?4"
            };
        }
        let mut tx = self.write().await?;
        let (now, limit) = (tx.now.as_micros(), i64::try_from(STEP).unwrap_or(i64::MAX));
        let (account, actor) = (revocation.account.as_str(), revocation.actor);
        let audited = sqlx::query(concat!(
            "INSERT INTO audit (time, actor_id, actor, action, subject_id, account_id, detail)
             SELECT ?3, ?5, ?6, 'revoke', key_id, account_id, ?7 ",
            live!()
        ))
        .bind(account.to_owned())
        .bind(after.to_vec())
        .bind(now)
        .bind(limit)
        .bind(actor.token.map(rows::id))
        .bind(actor.name.clone())
        .bind(AUDIT_DETAIL);
        if tx.execute(audited).await? == 0 {
            tx.rollback().await?;
            return Ok(Vec::new());
        }
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(concat!(
            "UPDATE api_keys SET revoke_time = min(coalesce(revoke_time, ?3), ?3), revoked = 1,
                    revoke_reason = coalesce(revoke_reason, ?5),
                    changed_by = ?6
              WHERE key_id IN (SELECT key_id ",
            live!(),
            ") RETURNING key_id"
        ))
        .bind(account.to_owned())
        .bind(after.to_vec())
        .bind(now)
        .bind(limit)
        .bind(revocation.reason.map(|reason| reason.as_str().to_owned()))
        .bind(actor.name.clone())
        .fetch_all(tx.connection()?)
        .await
        .map_err(store_error)?;
        tx.commit().await?;
        let mut ids = ids
            .iter()
            .map(|id| Ok(raw::id(id)?))
            .collect::<Result<Vec<_>>>()?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// The latest change of the account's keys, including keys that were revoked before. `None` if a
    /// key of the account is live in the same snapshot.
    async fn latest_change(&self, account: &AccountId) -> Result<Option<CommittedChange>> {
        let latest = sqlx::query(
            "WITH live AS MATERIALIZED (
                 SELECT 1 FROM api_keys
                  WHERE account_id = ?1 AND revoked = 0 LIMIT 1)
             SELECT EXISTS (SELECT 1 FROM live) AS live, latest.*
               FROM (SELECT 1)
               LEFT JOIN (SELECT key_id, revision, mark FROM api_keys
                           WHERE account_id = ?1 AND NOT EXISTS (SELECT 1 FROM live)
                           ORDER BY revision DESC LIMIT 1) AS latest",
        )
        .bind(account.as_str().to_owned())
        .fetch_one(&self.readers)
        .await
        .map_err(store_error)?;
        if rows::column(&latest, "live")? {
            return Ok(None);
        }
        Ok(Some(
            match rows::column::<Option<&[u8]>>(&latest, "key_id")? {
                Some(_) => rows::last_change(&latest, "key_id")?,
                None => CommittedChange::NOTHING,
            },
        ))
    }

    /// The current records of the listed keys, and their digests.
    async fn read_listed(&self, ids: &[KeyId]) -> Result<(Vec<KeyRecord>, Vec<Digest>)> {
        let (mut keys, mut digests) = (Vec::new(), Vec::new());
        for id in ids {
            let row = id_query(*id).fetch_optional(&self.readers).await;
            // A key may have been deleted manually.
            if let Some(row) = row.map_err(store_error)? {
                keys.push(rows::key(&row)?);
                digests.push(rows::digest(&row)?);
            }
        }
        Ok((keys, digests))
    }
}
