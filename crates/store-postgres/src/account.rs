//! Revokes all keys of an account, in steps. A step holds the log's counter for some milliseconds, so
//! a large account does not delay the revocations of others.

use uuid::Uuid;

use super::failure::{Failure, retry};
use super::keys::{Lock, by_ids};
use super::log::epoch;
use super::{ATTEMPTS, PostgresStore, rows};
use keyward_core::key::{AccountId, KeyId, KeyRecord, Reason};
use keyward_crypto::Digest;
use keyward_store::{Actor, CommittedChange, Result, RevokeAnswer, Revoked, StoreError};

/// The most keys in one step, as in `step!`.
const STEP: usize = 500;

/// One step: revokes the first live keys after `$2`, in the order of their ids, which avoids
/// deadlocks. It is one statement and its own transaction. `$locked` says what to do with a key that
/// another transaction has locked.
macro_rules! step {
    ($locked:literal) => {
        concat!(
            "WITH clock AS MATERIALIZED (SELECT store_time() AS now),
                  live AS MATERIALIZED (
                      SELECT key_id FROM api_keys AS k, clock
                       WHERE account_id = $1 AND key_id > $2
                         AND (revoke_time IS NULL OR revoke_time > clock.now)
                       ORDER BY key_id LIMIT 500 FOR UPDATE OF k ",
            $locked,
            "),
                  revoked AS (
                      UPDATE api_keys AS k
                         SET revoke_time = clock.now,
                             revoke_reason = coalesce(k.revoke_reason, $3), changed_by = $4
                        FROM live, clock
                       WHERE k.key_id = live.key_id
                         AND (k.revoke_time IS NULL OR k.revoke_time > clock.now)
                      RETURNING k.key_id),
                  entry AS (
                      INSERT INTO audit (actor_id, actor, action, account_id, detail)
                      SELECT $5, $4, 'revoke', $1, 'keys=' || count(*)
                        FROM revoked HAVING count(*) > 0)
             SELECT key_id FROM revoked ORDER BY key_id"
        )
    };
}

/// The keys that the steps so far have revoked.
#[derive(Default)]
struct Progress {
    count: u64,
    /// The first of them.
    listed: Vec<KeyId>,
}

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
        let mut progress = Progress::default();
        let answer = self.revoke_in_steps(&revocation, &mut progress).await;
        // After a step is committed, the same call again is safe.
        answer.map_err(|error| match progress.count {
            0 => error,
            _ => StoreError::OutcomeUnknown(error.to_string()),
        })
    }

    async fn revoke_in_steps(
        &self,
        revocation: &AccountRevocation<'_>,
        progress: &mut Progress,
    ) -> Result<RevokeAnswer> {
        let mut wait = false;
        for _ in 0..=ATTEMPTS {
            let before = progress.count;
            self.revoke_unlocked(revocation, wait, progress).await?;
            // Keys may have been locked, and issued meanwhile: no key of the account may be live in
            // the read that ends this call.
            let (is_any_live, committed) = self.account_state(revocation.account).await?;
            if !is_any_live {
                return self.answer(progress, committed).await;
            }
            wait = progress.count == before;
        }
        let busy = "other transactions keep issuing or locking keys of this account";
        Err(StoreError::Unavailable(busy.to_owned()))
    }

    /// Revokes the live keys from the first to the last. Either waits for locked keys or skips them.
    async fn revoke_unlocked(
        &self,
        revocation: &AccountRevocation<'_>,
        wait: bool,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut after = Uuid::nil();
        loop {
            let revoked = retry(|| self.step(revocation, wait, after)).await?;
            let (Some(last), len) = (revoked.last(), revoked.len()) else {
                return Ok(());
            };
            after = rows::uuid(*last);
            progress.count += len as u64;
            let free = Revoked::LISTED - progress.listed.len();
            progress.listed.extend(revoked.into_iter().take(free));
            if len < STEP {
                return Ok(());
            }
        }
    }

    async fn step(
        &self,
        revocation: &AccountRevocation<'_>,
        wait: bool,
        after: Uuid,
    ) -> std::result::Result<Vec<KeyId>, Failure> {
        let statement = match wait {
            true => sqlx::query(step!("")),
            false => sqlx::query(step!("SKIP LOCKED")),
        };
        let statement = statement
            .bind(revocation.account.as_str().to_owned())
            .bind(after)
            .bind(revocation.reason.map(|reason| reason.as_str().to_owned()))
            .bind(revocation.actor.name.clone())
            .bind(revocation.actor.token.map(rows::uuid));
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

    async fn answer(
        &self,
        progress: &Progress,
        committed: CommittedChange,
    ) -> Result<RevokeAnswer> {
        let (keys, digests) = self.read_listed(&progress.listed).await?;
        Ok(RevokeAnswer::Done(Box::new(Revoked {
            revoke_time: keys.first().and_then(|key| key.revoke_time),
            keys,
            digests,
            count: progress.count,
            successor: None,
            created: false,
            committed,
        })))
    }

    /// The current records of the listed keys, and their digests.
    async fn read_listed(&self, ids: &[KeyId]) -> Result<(Vec<KeyRecord>, Vec<Digest>)> {
        let found = self.writers.fetch_all(by_ids(ids, Lock::None)).await?;
        let mut keys = found.iter().map(rows::key).collect::<Result<Vec<_>>>()?;
        keys.sort_unstable_by_key(|key| key.id);
        let digests = found.iter().map(rows::digest).collect::<Result<_>>()?;
        Ok((keys, digests))
    }

    /// Whether a key of the account is live, and the latest change of the account's keys, including
    /// keys that were revoked before.
    async fn account_state(&self, account: &AccountId) -> Result<(bool, CommittedChange)> {
        let statement = sqlx::query(
            "SELECT key_id, revision, mark,
                    EXISTS (SELECT FROM api_keys
                             WHERE account_id = $1
                               AND (revoke_time IS NULL OR revoke_time > store_time())) AS live
               FROM api_keys WHERE account_id = $1 ORDER BY revision DESC LIMIT 1",
        );
        let statement = statement.bind(account.as_str().to_owned());
        let mut lease = self.writers.lease().await?;
        let (is_any_live, last) = match lease.fetch_optional(statement).await? {
            Some(row) => (
                rows::column(&row, "live")?,
                rows::last_change(&row, "key_id")?,
            ),
            None => (false, CommittedChange::NOTHING),
        };
        // In another epoch the account may have other keys.
        let read_in = Some(epoch(&mut lease).await?);
        lease.done();
        Ok((is_any_live, last.read_in(read_in)))
    }
}
