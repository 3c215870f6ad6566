//! Revokes all keys of an account on SQLite, and erases its personal data. Both work in steps, between
//! which other changes are written.

use super::rows;
use super::{SqliteStore, store_error};
use keyward_core::key::{AccountId, KeyId, KeyRecord, Reason};
use keyward_crypto::Digest;
use keyward_store::account::{AUDIT_DETAIL, AccountProgress, PASSES, STEP};
use keyward_store::{
    Actor, AuditAction, AuditEntry, CommittedChange, Erasure, Result, RevokeAnswer, raw,
};

use super::audit::audit;
use super::keys::id_query;

/// The keys of one step of an erasure. The parameters are the account, the pseudonym, the limit and the
/// caller's name.
macro_rules! erasable {
    () => {
        "SELECT key_id FROM api_keys WHERE account_id = ?1 AND revoked = 1 ORDER BY key_id LIMIT ?3"
    };
}

/// The statements of one step of an erasure. The last one changes the keys.
const ERASE: [&str; 2] = [
    concat!(
        "UPDATE audit SET account_id = ?2 WHERE account_id = ?1 AND ?4 IS NOT NULL AND subject_id IN (",
        erasable!(),
        ")"
    ),
    concat!(
        "UPDATE api_keys
            SET account_id = ?2, name = ?2, metadata = '{}', allowed_cidrs = '[]',
                revoke_reason = NULL, changed_by = ?4
          WHERE key_id IN (",
        erasable!(),
        ")"
    ),
];

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

    /// Erases the revoked keys of an account, in steps. Each is one transaction.
    pub(super) async fn erase_in_steps(
        &self,
        account: &AccountId,
        proposed: &AccountId,
        actor: &Actor,
    ) -> Result<Erasure> {
        let mut count = 0;
        loop {
            let (pseudonym, erased, is_complete) =
                self.erase_step(account, proposed, actor).await?;
            count += erased;
            if erased > 0 && !is_complete {
                continue;
            }
            let committed = match &pseudonym {
                Some(pseudonym) => self.latest_change(pseudonym).await?,
                None => None,
            };
            return Ok(Erasure {
                pseudonym,
                count,
                is_complete,
                committed: committed.unwrap_or(CommittedChange::NOTHING),
            });
        }
    }

    /// One step. Returns the pseudonym, the number of keys, and whether the account has no key any more.
    async fn erase_step(
        &self,
        account: &AccountId,
        proposed: &AccountId,
        actor: &Actor,
    ) -> Result<(Option<AccountId>, u64, bool)> {
        let mut tx = self.write().await?;
        let account = account.as_str();
        let begin = sqlx::query(
            "INSERT OR IGNORE INTO erasures (account_id, pseudonym)
             SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM api_keys WHERE account_id = ?1)",
        );
        let begin = begin.bind(account.to_owned());
        tx.execute(begin.bind(proposed.as_str().to_owned())).await?;
        let read = sqlx::query("SELECT pseudonym FROM erasures WHERE account_id = ?");
        let Some(row) = tx.fetch_optional(read.bind(account.to_owned())).await? else {
            tx.rollback().await?;
            return Ok((None, 0, true));
        };
        let pseudonym = AccountId::new("pseudonym", rows::column(&row, "pseudonym")?)?;
        let mut erased = 0;
        for statement in ERASE {
            let statement = sqlx::query(statement)
                .bind(account.to_owned())
                .bind(pseudonym.as_str().to_owned())
                .bind(i64::try_from(STEP).unwrap_or(i64::MAX))
                .bind(actor.name.clone());
            erased = tx.execute(statement).await?;
        }
        let any = sqlx::query("SELECT 1 FROM api_keys WHERE account_id = ? LIMIT 1");
        let rest = tx.fetch_optional(any.bind(account.to_owned())).await?;
        if rest.is_none() {
            let end = sqlx::query("DELETE FROM erasures WHERE account_id = ?");
            tx.execute(end.bind(account.to_owned())).await?;
            let entry = AuditEntry {
                action: AuditAction::AccountErase,
                id: None,
                account: Some(pseudonym.clone()),
                detail: None,
            };
            audit(&mut tx, &entry, actor).await?;
        }
        tx.commit().await?;
        Ok((Some(pseudonym), erased, rest.is_none()))
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
