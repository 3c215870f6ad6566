//! API keys on Postgres: issue, update, reads. The triggers write the log. They do not log an
//! INSERT, so Issue does not wait for the log's counter.

use async_trait::async_trait;
use sqlx::types::Json;

use super::audit::audit;
use super::failure::Failure;
use super::locks::LockedRow;
use super::log::epoch;
use super::lookups::lookup;
use super::pool::Statement;
use super::rows::{self, key_columns};
use super::{ALLOW_LONG_STATEMENT, LONG_LIMIT, PostgresStore};
use keyward_core::fence::{Epoch, state_at};
use keyward_core::key::{AccountId, KeyId, KeyRecord, KeyState, Prefix, Timestamp};
use keyward_crypto::Digest;
use keyward_store::plan::{UpdatePlan, key_entry, plan_update};
use keyward_store::{
    Actor, AuditAction, Erasure, Found, Import, Imported, Issued, KeyChanges, KeyPage, KeyTarget,
    Keys, ListKeys, NewKey, Result, Revocation, RevokeAnswer, StoreError, StoredKey, UpdateAnswer,
    Updated,
};

#[async_trait]
impl Keys for PostgresStore {
    async fn issue(&self, new: NewKey, actor: &Actor) -> Result<Issued> {
        self.locks.retry(|| self.try_issue(&new, actor)).await
    }

    async fn import(&self, import: Import, actor: &Actor) -> Result<Imported> {
        let retry = self.locks.retry(|| self.try_import(&import, actor));
        retry.await
    }

    async fn revoke(&self, revocation: Revocation, actor: &Actor) -> Result<RevokeAnswer> {
        match revocation {
            Revocation::Key {
                target,
                successor,
                grace,
                reason,
            } => {
                self.revoker
                    .revoke(target, successor, grace, reason, actor)
                    .await
            }
            Revocation::Selection { selection, reason } => {
                self.revoke_selection(&selection, reason.as_ref(), actor)
                    .await
            }
        }
    }

    async fn update(&self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer> {
        self.locks
            .retry(|| self.try_update(id, changes.clone(), actor))
            .await
    }

    async fn find_keys(&self, digests: &[Digest]) -> Result<Vec<Found<KeyRecord>>> {
        let statement = lookup!(key_columns!("t."), "api_keys");
        self.look_up(statement, digests, "key_id").await
    }

    async fn get_key(&self, target: &KeyTarget) -> Result<Option<StoredKey>> {
        let statement = match target {
            KeyTarget::Id(id) => by_ids(&[*id], Lock::None),
            KeyTarget::Digests(digests) => sqlx::query(concat!(
                "SELECT ",
                key_columns!(),
                ", sealed FROM api_keys WHERE digest = ANY($1) ORDER BY key_id LIMIT 1"
            ))
            .bind(rows::digests(digests)),
        };
        let found = self.readers.fetch_optional(statement).await?;
        found.map(|row| rows::read(&row)).transpose()
    }

    async fn end_graces(&self) -> Result<u64> {
        let ended = self.locks.retry(|| self.try_end_graces()).await?;
        if ended > 0 {
            self.announce();
        }
        Ok(ended)
    }

    async fn list_keys(&self, query: ListKeys) -> Result<KeyPage> {
        self.list(&query).await
    }

    async fn predecessor(&self, id: KeyId) -> Result<Option<KeyRecord>> {
        let statement = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys WHERE replaced_by = $1 ORDER BY key_id DESC LIMIT 1"
        ));
        let found = self.readers.fetch_optional(statement.bind(rows::uuid(id)));
        found.await?.map(|row| rows::read(&row)).transpose()
    }

    async fn erase_account(
        &self,
        account: &AccountId,
        pseudonym: &AccountId,
        actor: &Actor,
    ) -> Result<Erasure> {
        self.erase_in_steps(account, pseudonym, actor).await
    }

    async fn note_prefixes(&self, accepted: &[Prefix]) -> Result<Vec<(String, u64)>> {
        let names: Vec<_> = accepted
            .iter()
            .map(|prefix| prefix.as_str().to_owned())
            .collect();
        let note = sqlx::query(
            "INSERT INTO key_prefixes SELECT ($1::text[])[1] WHERE cardinality($1) > 0
                 ON CONFLICT DO NOTHING",
        );
        let mut lease = self.writers.begin().await?;
        // Counting reads the whole table, where an index would only cost.
        for set in [ALLOW_LONG_STATEMENT, "SET LOCAL enable_seqscan = on"] {
            lease.execute(sqlx::query(set)).await?;
        }
        lease.execute(note.bind(names.clone())).await?;
        let count = sqlx::query(
            "SELECT prefix, (SELECT count(*) FROM api_keys
                              WHERE left(hint, -5) = prefix AND revoke_time IS NULL) AS keys
               FROM key_prefixes WHERE prefix <> ALL ($1)",
        );
        let found = lease
            .fetch_all_within(LONG_LIMIT, count.bind(names))
            .await?;
        lease.commit().await?;
        let read = |row| Ok((rows::column(row, "prefix")?, rows::revision(row, "keys")?));
        found.iter().map(read).collect()
    }
}

impl PostgresStore {
    async fn try_issue(&self, new: &NewKey, actor: &Actor) -> Result<Issued, Failure> {
        let created = match self.in_slot(new).await? {
            Some((key, now, epoch)) if state_at(&key.record, now) != KeyState::Expired => {
                return Ok(Issued {
                    key,
                    created: false,
                    read_in: Some(epoch),
                });
            }
            Some(_) => self.replace_expired(new, actor).await?,
            None => self.create(new, actor).await?,
        };
        // Without a key, another call has changed the slot first, or is changing it now.
        let key = created.ok_or_else(|| Failure::locked(LockedRow::Slot))?;
        Ok(Issued {
            key,
            created: true,
            read_in: None,
        })
    }

    /// The key in the slot, the store's time, and the epoch of the read.
    async fn in_slot(&self, new: &NewKey) -> Result<Option<(StoredKey, Timestamp, Epoch)>> {
        let mut lease = self.readers.lease().await?;
        let Some(row) = lease.fetch_optional(slot_query(new, Lock::None)).await? else {
            lease.done();
            return Ok(None);
        };
        let epoch = lease
            .connection()
            .epoch(rows::revision(&row, "incarnation")?);
        lease.done();
        Ok(Some((rows::read(&row)?, rows::time(&row, "now")?, epoch)))
    }

    /// Creates a key and its audit entry in one statement; `None` if the slot is taken.
    async fn create(&self, new: &NewKey, actor: &Actor) -> Result<Option<StoredKey>, Failure> {
        let statement = insert(new, actor)?;
        let mut lease = self.inserters.lease().await?;
        let created = lease.fetch_optional(statement).await;
        let created = match created.map_err(Failure::of_a_commit) {
            Err(failure) if matches!(failure.error, StoreError::Locked(_)) => None,
            created => created?,
        };
        lease.done();
        Ok(created.map(|row| rows::read(&row)).transpose()?)
    }

    /// Revokes the expired key in a slot and creates `new`; `None` if the slot has no expired key
    /// that is unlocked.
    async fn replace_expired(
        &self,
        new: &NewKey,
        actor: &Actor,
    ) -> Result<Option<StoredKey>, Failure> {
        let insert = insert(new, actor)?;
        let mut lease = self.writers.begin().await?;
        let Some(row) = lease.fetch_optional(slot_query(new, Lock::Rows)).await? else {
            lease.rollback().await?;
            return Ok(None);
        };
        let (record, now) = (rows::read(&row)?, rows::time(&row, "now")?);
        if state_at(&record, now) != KeyState::Expired {
            lease.rollback().await?;
            return Ok(None);
        }
        let revoke = sqlx::query(
            "UPDATE api_keys SET revoke_time = $2, revoked = true, replaced_by = $3, changed_by = $4
              WHERE key_id = $1",
        )
        .bind(rows::uuid(record.id))
        .bind(rows::instant(now)?)
        .bind(rows::uuid(new.id))
        .bind(actor.name.clone());
        lease.execute(revoke).await?;
        let entry = key_entry(AuditAction::Revoke, &record, Some("expired".to_owned()));
        audit(&mut lease, &[(entry, actor.clone())]).await?;
        let created = lease.fetch_one(insert).await?;
        lease.commit().await?;
        self.announce();
        Ok(Some(rows::read(&created)?))
    }

    async fn try_update(
        &self,
        id: KeyId,
        changes: KeyChanges,
        actor: &Actor,
    ) -> Result<UpdateAnswer, Failure> {
        let mut lease = self.writers.begin().await?;
        let Some(row) = lease.fetch_optional(by_ids(&[id], Lock::Rows)).await? else {
            let exists = lease.fetch_optional(by_ids(&[id], Lock::None)).await?;
            lease.rollback().await?;
            return match exists {
                Some(_) => Err(Failure::locked(LockedRow::Key(rows::uuid(id)))),
                None => Ok(UpdateAnswer::NotFound),
            };
        };
        let (record, now) = (rows::read(&row)?, rows::time(&row, "now")?);
        let answer = match plan_update(&record, changes, now) {
            UpdatePlan::Update(changed) => {
                // The audit entry comes first: the change locks the log's counter.
                let entry = key_entry(AuditAction::Update, &record, None);
                audit(&mut lease, &[(entry, actor.clone())]).await?;
                lease.execute(write(&changed, actor)?).await?;
                let row = lease.fetch_one(by_ids(&[id], Lock::None)).await?;
                lease.commit().await?;
                self.announce();
                return Ok(UpdateAnswer::Done(Box::new(rows::read::<Updated>(&row)?)));
            }
            UpdatePlan::Revoked => UpdateAnswer::Revoked,
            UpdatePlan::Expired => UpdateAnswer::Expired,
            // The caller still waits until every instance has applied the row's last change.
            UpdatePlan::Unchanged => {
                let mut unchanged = rows::read::<Updated>(&row)?;
                let read_in = Some(epoch(&mut lease).await?);
                unchanged.committed = unchanged.committed.read_in(read_in);
                UpdateAnswer::Done(Box::new(unchanged))
            }
        };
        lease.rollback().await?;
        Ok(answer)
    }
}

/// Whether a query locks the rows that it reads. It then skips rows that others have locked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    None,
    Rows,
}

/// Reads keys by id, with their sealed copies, digests and the store's time.
pub(super) fn by_ids(ids: &[KeyId], lock: Lock) -> Statement {
    let text = match lock {
        Lock::None => concat!(
            "SELECT ",
            key_columns!(),
            ", sealed, digest, (SELECT store_time()) AS now FROM api_keys WHERE key_id = ANY($1)"
        ),
        Lock::Rows => concat!(
            "SELECT ",
            key_columns!(),
            ", sealed, digest, (SELECT store_time()) AS now FROM api_keys WHERE key_id = ANY($1)
              ORDER BY key_id FOR UPDATE SKIP LOCKED"
        ),
    };
    let ids: Vec<_> = ids.iter().map(|id| rows::uuid(*id)).collect();
    sqlx::query(text).bind(ids)
}

/// Reads keys like [`by_ids`], and sends a change notice on `channel`. Its commit need not be durable.
pub(super) fn by_ids_with_notice(ids: &[KeyId], channel: &'static str) -> Statement {
    let ids: Vec<_> = ids.iter().map(|id| rows::uuid(*id)).collect();
    // Postgres sends equal notices of one transaction once.
    let statement = sqlx::query(concat!(
        "SELECT ",
        key_columns!(),
        ", sealed, digest, (SELECT store_time()) AS now, pg_notify($2, '') FROM api_keys
          WHERE key_id = ANY($1) AND set_config('synchronous_commit', 'off', true) = 'off'"
    ));
    statement.bind(ids).bind(channel)
}

fn slot_query(new: &NewKey, lock: Lock) -> Statement {
    let text = match lock {
        Lock::None => concat!(
            "SELECT ",
            key_columns!(),
            ", sealed, store_time() AS now, (SELECT incarnation FROM log_state) AS incarnation
               FROM api_keys WHERE account_id = $1 AND name = $2 AND revoke_time IS NULL"
        ),
        Lock::Rows => concat!(
            "SELECT ",
            key_columns!(),
            ", sealed, store_time() AS now FROM api_keys
              WHERE account_id = $1 AND name = $2 AND revoke_time IS NULL FOR UPDATE SKIP LOCKED"
        ),
    };
    sqlx::query(text)
        .bind(new.account.as_str().to_owned())
        .bind(new.name.as_str().to_owned())
}

/// A slot that an open transaction is filling is waited for only briefly.
fn insert(new: &NewKey, actor: &Actor) -> Result<Statement> {
    let (at, after) = rows::expiry(new.expiry)?;
    let statement = sqlx::query(concat!(
        "WITH created AS (
             INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                    metadata, allowed_cidrs, recoverable, sealed, create_time, expire_time)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::bytea IS NOT NULL, $10, now,
                    coalesce($11, now + $12)
               FROM (SELECT store_time() AS now
                      WHERE set_config('lock_timeout', '100ms', true) <> '') AS clock
                 ON CONFLICT (account_id, name) WHERE revoke_time IS NULL DO NOTHING
             RETURNING *
         ), entry AS (
             INSERT INTO audit (actor_id, actor, action, subject_id, account_id, peer, client, request_id)
             SELECT $13, $14, 'issue', key_id, account_id, $15, $16, $17 FROM created
         )
         SELECT ",
        key_columns!(),
        ", sealed FROM created"
    ));
    Ok(statement
        .bind(rows::uuid(new.id))
        .bind(new.digest.as_bytes().to_vec())
        .bind(i64::from(new.generation))
        .bind(new.account.as_str().to_owned())
        .bind(new.name.as_str().to_owned())
        .bind(new.hint.0.clone())
        .bind(Json(new.scopes.to_vec()))
        .bind(Json(new.metadata.entries().clone()))
        .bind(Json(new.networks.to_texts()))
        .bind(new.sealed.as_ref().map(|sealed| sealed.as_bytes().to_vec()))
        .bind(at)
        .bind(after)
        .bind(actor.token.map(rows::uuid))
        .bind(actor.name.clone())
        .bind(actor.origin.peer.clone())
        .bind(actor.origin.client.clone())
        .bind(actor.origin.request.clone()))
}

/// Writes the fields that Update may change.
fn write(record: &KeyRecord, actor: &Actor) -> Result<Statement> {
    let expire_time = record.expire_time.map(rows::instant).transpose()?;
    let statement = sqlx::query(
        "UPDATE api_keys SET scopes = $2, metadata = $3, allowed_cidrs = $4, expire_time = $5,
                disabled = $6, changed_by = $7 WHERE key_id = $1",
    );
    Ok(statement
        .bind(rows::uuid(record.id))
        .bind(Json(record.scopes.to_vec()))
        .bind(Json(record.metadata.entries().clone()))
        .bind(Json(record.networks.to_texts()))
        .bind(expire_time)
        .bind(record.disabled)
        .bind(actor.name.clone()))
}
