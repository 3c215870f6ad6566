//! Revokes all keys of an account or of an import, in steps. A step holds the log's counter for some
//! milliseconds, so that many keys do not delay the revocations of others.

use uuid::Uuid;

use super::failure::Failure;
use super::keys::{Lock, by_ids};
use super::locks::{Asking, LockedRow};
use super::log::epoch;
use super::pool::Statement;
use super::{ALLOW_LONG_STATEMENT, LONG_LIMIT, PostgresStore, rows};
use keyward_core::key::{KeyId, KeyRecord, Reason};
use keyward_crypto::Digest;
use keyward_store::selection::{PASSES, STEP, SelectionProgress};
use keyward_store::{Actor, CommittedChange, Result, RevokeAnswer, Selection, raw};

/// The statements about one kind of selection. Parameter 1 names it.
struct Statements {
    /// One step: revokes the first live keys after `$2`, in the order of their ids, which avoids
    /// deadlocks. It skips a key that another transaction has locked. It is one statement and its own
    /// transaction.
    step: &'static str,
    /// The first live key. Without one, the latest change that matters to the selection.
    state: &'static str,
}

/// The condition that `$column` is `$1`, and that the key comes after `$after`.
macro_rules! in_order {
    ($column:literal, $after:literal) => {
        concat!(
            "(",
            $column,
            ", key_id) > ($1, ",
            $after,
            ") AND ",
            $column,
            " <= $1"
        )
    };
}

/// The statements about the keys whose `$column` is `$1`. `$changes` has their latest change.
///
/// The range and the order are those of the index of `$column`. With an equality, the planner may expect the
/// next key soon and look for it among all keys, in the order of their ids.
macro_rules! statements {
    ($column:literal, $changes:literal) => {
        Statements {
            step: concat!(
                "WITH clock AS MATERIALIZED (SELECT store_time() AS now),
                      live AS MATERIALIZED (
                          SELECT key_id FROM api_keys AS k
                           WHERE ",
                in_order!($column, "$2"),
                "            AND NOT revoked
                           ORDER BY ", $column, ", key_id LIMIT $7 FOR UPDATE OF k SKIP LOCKED),
                      revoked AS (
                          UPDATE api_keys AS k
                             SET revoke_time = least(k.revoke_time, clock.now), revoked = true,
                                 revoke_reason = coalesce(k.revoke_reason, $3), changed_by = $4
                            FROM live, clock
                           WHERE k.key_id = live.key_id
                             AND NOT k.revoked
                          RETURNING k.key_id, k.account_id),
                      entries AS (
                          INSERT INTO audit (actor_id, actor, action, subject_id, account_id, detail,
                                 peer, client, request_id)
                          SELECT $5, $4, 'revoke', key_id, account_id, $6, $8, $9, $10
                            FROM revoked ORDER BY key_id)
                 SELECT key_id FROM revoked ORDER BY key_id"
            ),
            state: concat!(
                "WITH live AS MATERIALIZED (
                     SELECT key_id FROM api_keys WHERE ",
                in_order!($column, "'00000000-0000-0000-0000-000000000000'"),
                "       AND NOT revoked
                      ORDER BY ", $column, ", key_id LIMIT 1),
                      latest AS (
                     SELECT key_id, revision, mark FROM ",
                $changes,
                "       AND NOT EXISTS (SELECT FROM live)
                      ORDER BY revision DESC LIMIT 1)
                 SELECT latest.*, live.key_id AS live
                   FROM (VALUES (1)) AS one LEFT JOIN live ON true LEFT JOIN latest ON true"
            ),
        }
    };
}

static OF_ACCOUNT: Statements = statements!("account_id", "api_keys WHERE account_id = $1");
// The rows of an import that are revoked have no index. The head of the log is no earlier.
static OF_BATCH: Statements = statements!("import_batch", "key_changes WHERE $1 IS NOT NULL");

/// A statement about a selection, whose name is bound.
fn named(selection: &Selection, which: fn(&Statements) -> &'static str) -> Statement {
    match selection {
        Selection::Account(account) => {
            sqlx::query(which(&OF_ACCOUNT)).bind(account.as_str().to_owned())
        }
        Selection::Batch(batch) => {
            sqlx::query(which(&OF_BATCH)).bind(Uuid::from_bytes(*batch.as_bytes()))
        }
    }
}

/// The revocation of a selection.
struct SelectionRevocation<'r> {
    selection: &'r Selection,
    reason: Option<&'r Reason>,
    actor: &'r Actor,
}

impl PostgresStore {
    pub(super) async fn revoke_selection(
        &self,
        selection: &Selection,
        reason: Option<&Reason>,
        actor: &Actor,
    ) -> Result<RevokeAnswer> {
        let revocation = SelectionRevocation {
            selection,
            reason,
            actor,
        };
        let mut progress = SelectionProgress::default();
        let answer = self.revoke_in_steps(&revocation, &mut progress).await;
        answer.map_err(|error| progress.failed(error))
    }

    async fn revoke_in_steps(
        &self,
        revocation: &SelectionRevocation<'_>,
        progress: &mut SelectionProgress,
    ) -> Result<RevokeAnswer> {
        let (mut after, mut asking) = (Uuid::nil(), Asking::default());
        for _ in 0..PASSES {
            let before = progress.count;
            loop {
                self.revoke_unlocked(revocation, after, progress).await?;
                // Keys may have been locked, and added meanwhile: no key of the selection may be live
                // in the read that ends this call.
                let (live, committed) = self.selection_state(revocation.selection).await?;
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
        Err(SelectionProgress::overtaken())
    }

    /// Revokes the live keys after `after`, without those that are locked.
    async fn revoke_unlocked(
        &self,
        revocation: &SelectionRevocation<'_>,
        mut after: Uuid,
        progress: &mut SelectionProgress,
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
        revocation: &SelectionRevocation<'_>,
        after: Uuid,
    ) -> Result<Vec<KeyId>, Failure> {
        let statement = named(revocation.selection, |statements| statements.step)
            .bind(after)
            .bind(revocation.reason.map(|reason| reason.as_str().to_owned()))
            .bind(revocation.actor.name.clone())
            .bind(revocation.actor.token.map(rows::uuid))
            .bind(revocation.selection.audit_detail())
            .bind(raw::limit(STEP))
            .bind(revocation.actor.origin.peer.clone())
            .bind(revocation.actor.origin.client.clone())
            .bind(revocation.actor.origin.request.clone());
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

    /// The current records of the listed keys, and their digests.
    async fn read_listed(&self, ids: &[KeyId]) -> Result<(Vec<KeyRecord>, Vec<Digest>)> {
        let found = self.writers.fetch_all(by_ids(ids, Lock::None)).await?;
        let mut keys = found
            .iter()
            .map(rows::read)
            .collect::<Result<Vec<KeyRecord>>>()?;
        keys.sort_unstable_by_key(|key| key.id);
        let digests = found.iter().map(rows::read).collect::<Result<_>>()?;
        Ok((keys, digests))
    }

    /// The first live key of the selection. Without one, the latest change of the selected keys in the
    /// same snapshot, including keys that were revoked before.
    pub(super) async fn selection_state(
        &self,
        selection: &Selection,
    ) -> Result<(Option<Uuid>, CommittedChange)> {
        let statement = named(selection, |statements| statements.state);
        // It may read all keys of the selection, and locks none.
        let mut lease = self.writers.begin().await?;
        lease.execute(sqlx::query(ALLOW_LONG_STATEMENT)).await?;
        let row = lease.fetch_one_within(LONG_LIMIT, statement).await?;
        // In another epoch the selection may have other keys.
        let read_in = Some(epoch(&mut lease).await?);
        lease.rollback().await?;
        let latest = rows::last_change(&row, "key_id")?;
        Ok((rows::column(&row, "live")?, latest.read_in(read_in)))
    }
}
