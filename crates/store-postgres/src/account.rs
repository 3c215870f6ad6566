//! Revokes all keys of an account, and erases its personal data, in steps. A step holds the log's counter for some milliseconds, so
//! a large account does not delay the revocations of others.

use uuid::Uuid;

use super::failure::Failure;
use super::keys::{Lock, by_ids};
use super::locks::{Asking, LockedRow};
use super::log::epoch;
use super::{ALLOW_LONG_STATEMENT, LONG_LIMIT, PostgresStore, rows};
use keyward_core::key::{AccountId, KeyId, KeyRecord, Reason};
use keyward_crypto::Digest;
use keyward_store::account::{AUDIT_DETAIL, AccountProgress, PASSES, STEP};
use keyward_store::{Actor, CommittedChange, Erasure, Result, RevokeAnswer};

/// One step: revokes the first live keys after `$2`, in the order of their ids, which avoids
/// deadlocks. It skips a key that another transaction has locked. It is one statement and its own
/// transaction.
const STEP_STATEMENT: &str = "\
WITH clock AS MATERIALIZED (SELECT store_time() AS now),
     live AS MATERIALIZED (
         SELECT key_id FROM api_keys AS k
          WHERE account_id = $1 AND key_id > $2
            AND NOT revoked
          ORDER BY key_id LIMIT $7 FOR UPDATE OF k SKIP LOCKED),
     revoked AS (
         UPDATE api_keys AS k
            SET revoke_time = least(k.revoke_time, clock.now), revoked = true,
                revoke_reason = coalesce(k.revoke_reason, $3), changed_by = $4
           FROM live, clock
          WHERE k.key_id = live.key_id
            AND NOT k.revoked
         RETURNING k.key_id),
     entries AS (
         INSERT INTO audit (actor_id, actor, action, subject_id, account_id, detail)
         SELECT $5, $4, 'revoke', key_id, $1, $6 FROM revoked ORDER BY key_id)
SELECT key_id FROM revoked ORDER BY key_id";

/// An account revocation.
struct AccountRevocation<'r> {
    account: &'r AccountId,
    reason: Option<&'r Reason>,
    actor: &'r Actor,
}

impl PostgresStore {
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
        let (mut after, mut asking) = (Uuid::nil(), Asking::default());
        for _ in 0..PASSES {
            let before = progress.count;
            loop {
                self.revoke_unlocked(revocation, after, progress).await?;
                // Keys may have been locked, and issued meanwhile: no key of the account may be live
                // in the read that ends this call.
                let (live, committed) = self.account_state(revocation.account).await?;
                let Some(live) = live else {
                    let (keys, digests) = self.read_listed(&progress.listed).await?;
                    return Ok(progress.done(keys, digests, committed));
                };
                // All keys before this one are dead.
                after = Uuid::from_u128(live.as_u128().saturating_sub(1));
                if progress.count > before {
                    asking = Asking::default();
                    break;
                }
                self.locks.pause(&mut asking, LockedRow::Key(live)).await?;
            }
        }
        Err(AccountProgress::overtaken())
    }

    /// Revokes the live keys after `after`, without those that are locked.
    async fn revoke_unlocked(
        &self,
        revocation: &AccountRevocation<'_>,
        mut after: Uuid,
        progress: &mut AccountProgress,
    ) -> Result<()> {
        loop {
            let revoked = self.locks.retry(|| self.step(revocation, after)).await?;
            let (Some(last), len) = (revoked.last(), revoked.len()) else {
                return Ok(());
            };
            after = rows::uuid(*last);
            progress.add(&revoked);
            if len < STEP {
                return Ok(());
            }
        }
    }

    async fn step(
        &self,
        revocation: &AccountRevocation<'_>,
        after: Uuid,
    ) -> std::result::Result<Vec<KeyId>, Failure> {
        let statement = sqlx::query(STEP_STATEMENT)
            .bind(revocation.account.as_str().to_owned())
            .bind(after)
            .bind(revocation.reason.map(|reason| reason.as_str().to_owned()))
            .bind(revocation.actor.name.clone())
            .bind(revocation.actor.token.map(rows::uuid))
            .bind(AUDIT_DETAIL)
            .bind(i64::try_from(STEP).unwrap_or(i64::MAX));
        let revoked = self.writers.fetch_all(statement).await;
        let revoked = revoked.map_err(Failure::of_a_commit)?;
        if !revoked.is_empty() {
            self.announce();
        }
        Ok(revoked
            .iter()
            .map(|row| rows::id(row, "key_id"))
            .collect::<Result<_>>()?)
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
            let statement = sqlx::query("SELECT * FROM erase_account($1, $2, $3, $4)")
                .bind(account.as_str().to_owned())
                .bind(proposed.as_str().to_owned())
                .bind(actor.token.map(rows::uuid))
                .bind(actor.name.clone());
            let step = self.writers.fetch_all(statement).await;
            let step = step.map_err(Failure::of_a_commit)?;
            let step = rows::first(&step)?;
            let (erased, remaining) = (
                rows::revision(step, "erased")?,
                rows::revision(step, "remaining")?,
            );
            if erased > 0 {
                count += erased;
                self.announce();
            }
            if erased > 0 && remaining > 0 {
                continue;
            }
            let pseudonym: Option<String> = rows::column(step, "pseudonym")?;
            let pseudonym = pseudonym.map(|text| AccountId::new("pseudonym", text));
            let pseudonym = pseudonym.transpose()?;
            let committed = match &pseudonym {
                Some(pseudonym) => self.account_state(pseudonym).await?.1,
                None => CommittedChange::NOTHING,
            };
            return Ok(Erasure {
                pseudonym,
                count,
                is_complete: remaining == 0,
                committed,
            });
        }
    }

    /// The current records of the listed keys, and their digests.
    async fn read_listed(&self, ids: &[KeyId]) -> Result<(Vec<KeyRecord>, Vec<Digest>)> {
        let found = self.writers.fetch_all(by_ids(ids, Lock::None)).await?;
        let mut keys = found.iter().map(rows::key).collect::<Result<Vec<_>>>()?;
        keys.sort_unstable_by_key(|key| key.id);
        let digests = found.iter().map(rows::digest).collect::<Result<_>>()?;
        Ok((keys, digests))
    }

    /// The first live key of the account. Without one, the latest change of the account's keys in the
    /// same snapshot, including keys that were revoked before.
    async fn account_state(&self, account: &AccountId) -> Result<(Option<Uuid>, CommittedChange)> {
        let statement = sqlx::query(
            "WITH live AS MATERIALIZED (
                 SELECT key_id FROM api_keys
                  WHERE account_id = $1
                    AND NOT revoked
                  ORDER BY key_id LIMIT 1),
                  latest AS (
                 SELECT key_id, revision, mark FROM api_keys
                  WHERE account_id = $1 AND NOT EXISTS (SELECT FROM live)
                  ORDER BY revision DESC LIMIT 1)
             SELECT latest.*, live.key_id AS live
               FROM (VALUES (1)) AS one LEFT JOIN live ON true LEFT JOIN latest ON true",
        );
        let statement = statement.bind(account.as_str().to_owned());
        // It reads all keys of the account, and locks none.
        let mut lease = self.writers.begin().await?;
        lease.execute(sqlx::query(ALLOW_LONG_STATEMENT)).await?;
        let row = lease.fetch_one_within(LONG_LIMIT, statement).await?;
        // In another epoch the account may have other keys.
        let read_in = Some(epoch(&mut lease).await?);
        lease.rollback().await?;
        let latest = match rows::column::<Option<Uuid>>(&row, "key_id")? {
            Some(_) => rows::last_change(&row, "key_id")?,
            None => CommittedChange::NOTHING,
        };
        Ok((rows::column(&row, "live")?, latest.read_in(read_in)))
    }
}
