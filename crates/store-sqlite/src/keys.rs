//! API keys on SQLite. Each writing call is one `BEGIN IMMEDIATE` transaction with its audit row
//! inside; what the log needs is written by the triggers.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, query::Query, sqlite::SqliteArguments};

use super::audit::audit;
use super::revoke::{end, revoke_account, revoke_one};
use super::rows::{self, key_columns};
use super::{SqliteStore, WriteTx, store_error};
use keyward_core::fence::{Stamp, state_at};
use keyward_core::key::{KeyId, KeyRecord, KeyState, Timestamp};
use keyward_crypto::Digest;
use keyward_store::plan::{RevocationPlan, changed, ending, entry};
use keyward_store::{
    Actor, AuditAction, Expiry, Found, Issued, KeyChanges, KeyTarget, Keys, ListKeys, NewKey,
    Result, Revocation, RevokeAnswer, StoreError, StoredKey, UpdateAnswer, Updated,
};

#[async_trait]
impl Keys for SqliteStore {
    async fn issue(&self, new: NewKey, actor: &Actor) -> Result<Issued> {
        let mut tx = self.write().await?;
        if let Some(row) = fetch(&mut tx, slot_query(&new)).await? {
            let key = rows::secrets(&row)?;
            if state_at(&key.record, tx.now) != KeyState::Expired {
                tx.rollback().await?;
                return Ok(Issued {
                    key,
                    created: false,
                });
            }
            let ended = tx.now;
            end(&mut tx, &key.record, ended, Some(new.id), None, actor).await?;
            let detail = Some("expired".to_owned());
            audit(
                &mut tx,
                &entry(AuditAction::Revoke, &key.record, detail),
                actor,
            )
            .await?;
        }
        insert(&mut tx, &new, false).await?;
        let key = by_id(&mut tx, new.id).await?.ok_or_else(vanished)?;
        audit(
            &mut tx,
            &entry(AuditAction::Issue, &key.record, None),
            actor,
        )
        .await?;
        tx.commit().await?;
        Ok(Issued { key, created: true })
    }

    async fn revoke(&self, revocation: Revocation, actor: &Actor) -> Result<RevokeAnswer> {
        let mut tx = self.write().await?;
        match revocation {
            Revocation::Key {
                target,
                successor,
                grace,
                reason,
            } => {
                let Some(row) = find(&mut tx, &target).await? else {
                    tx.rollback().await?;
                    return Ok(RevokeAnswer::NotFound);
                };
                let record = rows::key(&row)?;
                let ends = tx.now.plus(grace);
                match ending(&record, successor, tx.now, ends, reason) {
                    RevocationPlan::Expired => {
                        tx.rollback().await?;
                        Ok(RevokeAnswer::Expired)
                    }
                    RevocationPlan::Stands => revoke_one(tx, record, None, actor).await,
                    RevocationPlan::Ends(end) => revoke_one(tx, record, Some(end), actor).await,
                }
            }
            Revocation::Account { account, reason } => {
                revoke_account(tx, &account, reason.as_ref(), actor).await
            }
        }
    }

    async fn update(&self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer> {
        let mut tx = self.write().await?;
        let Some(found) = by_id(&mut tx, id).await? else {
            tx.rollback().await?;
            return Ok(UpdateAnswer::NotFound);
        };
        if found.record.revoke_time.is_some() {
            tx.rollback().await?;
            return Ok(UpdateAnswer::Revoked);
        }
        if state_at(&found.record, tx.now) == KeyState::Expired {
            tx.rollback().await?;
            return Ok(UpdateAnswer::Expired);
        }
        let changed = changed(&found.record, changes);
        if changed == found.record {
            // Nothing to write; the caller still waits for the row's last change.
            let row = fetch(&mut tx, id_query(id)).await?.ok_or_else(vanished)?;
            tx.rollback().await?;
            return Ok(UpdateAnswer::Done(Box::new(updated(&row)?)));
        }
        sqlx::query(
            "UPDATE api_keys SET scopes = ?, metadata = ?, allowed_cidrs = ?, expire_time = ?,
                    disabled = ?, changed_by = ? WHERE key_id = ?",
        )
        .bind(rows::to_json(changed.scopes.as_slice())?)
        .bind(rows::to_json(changed.metadata.entries())?)
        .bind(rows::to_json(&changed.networks.to_texts())?)
        .bind(changed.expire_time.map(Timestamp::as_micros))
        .bind(changed.disabled)
        .bind(actor.name.clone())
        .bind(id.as_bytes().to_vec())
        .execute(tx.on()?)
        .await
        .map_err(store_error)?;
        let row = fetch(&mut tx, id_query(id)).await?.ok_or_else(vanished)?;
        let updated = updated(&row)?;
        let line = entry(AuditAction::Update, &updated.record, None);
        audit(&mut tx, &line, actor).await?;
        tx.commit().await?;
        Ok(UpdateAnswer::Done(Box::new(updated)))
    }

    async fn find_key(&self, digest: &Digest) -> Result<Found<KeyRecord>> {
        // I2: the record and the head come from one statement, which is one snapshot.
        let row = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            ",
                    (SELECT max(revision) FROM key_changes) AS head,
                    (SELECT incarnation FROM log_state) AS incarnation
               FROM (SELECT 1) LEFT JOIN api_keys ON digest = ?"
        ))
        .bind(digest.as_bytes().to_vec())
        .fetch_one(&self.readers)
        .await
        .map_err(store_error)?;
        let found = rows::column::<Option<&[u8]>>(&row, "key_id")?.is_some();
        Ok(Found {
            record: if found { Some(rows::key(&row)?) } else { None },
            stamp: self.stamp(&row)?,
        })
    }

    async fn get_key(&self, target: &KeyTarget) -> Result<Option<StoredKey>> {
        target_query(target)
            .fetch_optional(&self.readers)
            .await
            .map_err(store_error)?
            .map(|row| rows::secrets(&row))
            .transpose()
    }

    async fn list_keys(&self, query: ListKeys) -> Result<Vec<KeyRecord>> {
        let found = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys
              WHERE account_id = ?1 AND key_id > ?2
                AND (?3 OR revoke_time IS NULL
                     OR revoke_time > max((SELECT newest FROM store_clock), ?4))
              ORDER BY key_id LIMIT ?5"
        ))
        .bind(query.account.as_str().to_owned())
        .bind(
            query
                .after
                .map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
        )
        .bind(query.include_revoked)
        .bind(self.now().as_micros())
        .bind(query.limit)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        found.iter().map(rows::key).collect()
    }
}

impl SqliteStore {
    /// The stamp of a row that carries `head` and `incarnation`.
    pub(super) fn stamp(&self, row: &SqliteRow) -> Result<Stamp> {
        Ok(Stamp {
            epoch: self.epoch(rows::column(row, "incarnation")?)?,
            revision: rows::revision(rows::column(row, "head")?)?,
        })
    }
}

type Statement = Query<'static, Sqlite, SqliteArguments>;

pub(super) async fn fetch(tx: &mut WriteTx, query: Statement) -> Result<Option<SqliteRow>> {
    query.fetch_optional(tx.on()?).await.map_err(store_error)
}

pub(super) fn id_query(id: KeyId) -> Statement {
    sqlx::query(concat!(
        "SELECT ",
        key_columns!(),
        " FROM api_keys WHERE key_id = ?"
    ))
    .bind(id.as_bytes().to_vec())
}

fn target_query(target: &KeyTarget) -> Statement {
    match target {
        KeyTarget::Id(id) => id_query(*id),
        KeyTarget::Digest(digest) => sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys WHERE digest = ?"
        ))
        .bind(digest.as_bytes().to_vec()),
    }
}

fn slot_query(new: &NewKey) -> Statement {
    sqlx::query(concat!(
        "SELECT ",
        key_columns!(),
        " FROM api_keys
          WHERE account_id = ? AND name = ? AND revoke_time IS NULL"
    ))
    .bind(new.account.as_str().to_owned())
    .bind(new.name.as_str().to_owned())
}

async fn find(tx: &mut WriteTx, target: &KeyTarget) -> Result<Option<SqliteRow>> {
    fetch(tx, target_query(target)).await
}

/// What is answered about a key whose row is now this one.
fn updated(row: &SqliteRow) -> Result<Updated> {
    Ok(Updated {
        record: rows::key(row)?,
        digest: rows::digest(row)?,
        committed: rows::committed(row)?,
    })
}

pub(super) async fn by_id(tx: &mut WriteTx, id: KeyId) -> Result<Option<StoredKey>> {
    fetch(tx, id_query(id))
        .await?
        .map(|row| rows::secrets(&row))
        .transpose()
}

pub(super) fn vanished() -> StoreError {
    StoreError::Damaged("a row vanished within its transaction".to_owned())
}

pub(super) async fn insert(tx: &mut WriteTx, new: &NewKey, disabled: bool) -> Result<()> {
    let created = tx.now;
    let expire_time = match new.expiry {
        Expiry::Never => None,
        Expiry::At(end) => Some(end),
        Expiry::After(ttl) => Some(created.plus(ttl)),
    };
    sqlx::query(
        "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, sealed, disabled, create_time, expire_time)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.id.as_bytes().to_vec())
    .bind(new.digest.as_bytes().to_vec())
    .bind(new.generation)
    .bind(new.account.as_str().to_owned())
    .bind(new.name.as_str().to_owned())
    .bind(new.hint.0.clone())
    .bind(rows::to_json(new.scopes.as_slice())?)
    .bind(rows::to_json(new.metadata.entries())?)
    .bind(rows::to_json(&new.networks.to_texts())?)
    .bind(new.sealed.is_some())
    .bind(new.sealed.as_ref().map(|sealed| sealed.as_bytes().to_vec()))
    .bind(disabled)
    .bind(created.as_micros())
    .bind(expire_time.map(Timestamp::as_micros))
    .execute(tx.on()?)
    .await
    .map(drop)
    .map_err(store_error)
}
