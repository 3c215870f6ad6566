//! API keys on SQLite. Each call that writes is one `BEGIN IMMEDIATE` transaction, which includes
//! the audit row; the triggers write the log.

use async_trait::async_trait;

use super::audit::audit;
use super::lookups::{asked, joined, lookup};
use super::revoke::{revoke_one, set_revoke_time};
use super::rows::{self, key_columns};
use super::{SqliteStore, Statement, WriteTransaction, store_error};
use keyward_core::fence::state_at;
use keyward_core::key::{AccountId, KeyId, KeyRecord, KeyState, Prefix, Timestamp};
use keyward_crypto::Digest;
use keyward_store::plan::{RevocationPlan, UpdatePlan, key_entry, plan_revocation, plan_update};
use keyward_store::{
    Actor, AuditAction, Erasure, Found, Import, Imported, Issued, KeyChanges, KeyPage, KeyTarget,
    Keys, ListKeys, NewKey, Result, Revocation, RevokeAnswer, StoreError, StoredKey, UpdateAnswer,
    Updated, raw,
};

#[async_trait]
impl Keys for SqliteStore {
    async fn issue(&self, new: NewKey, actor: &Actor) -> Result<Issued> {
        let mut tx = self.write().await?;
        if let Some(row) = tx.fetch_optional(slot_query(&new)).await? {
            let key: StoredKey = rows::read(&row)?;
            if state_at(&key.record, tx.now) != KeyState::Expired {
                tx.rollback().await?;
                return Ok(Issued {
                    key,
                    created: false,
                    read_in: None,
                });
            }
            let now = (tx.now, true);
            set_revoke_time(&mut tx, &key.record, now, Some(new.id), None, actor).await?;
            let entry = key_entry(AuditAction::Revoke, &key.record, Some("expired".to_owned()));
            audit(&mut tx, &entry, actor).await?;
        }
        insert(&mut tx, &new, false).await?;
        let key = by_id(&mut tx, new.id).await?.ok_or_else(row_vanished)?;
        let entry = key_entry(AuditAction::Issue, &key.record, None);
        audit(&mut tx, &entry, actor).await?;
        tx.commit().await?;
        Ok(Issued {
            key,
            created: true,
            read_in: None,
        })
    }

    async fn import(&self, import: Import, actor: &Actor) -> Result<Imported> {
        self.import_keys(&import, actor).await
    }

    async fn revoke(&self, revocation: Revocation, actor: &Actor) -> Result<RevokeAnswer> {
        match revocation {
            Revocation::Key {
                target,
                successor,
                grace,
                reason,
            } => {
                let mut tx = self.write().await?;
                let Some(row) = tx.fetch_optional(target_query(&target)).await? else {
                    tx.rollback().await?;
                    return Ok(RevokeAnswer::NotFound { read_in: None });
                };
                let record = rows::read(&row)?;
                match plan_revocation(&record, successor, tx.now, grace, reason) {
                    RevocationPlan::Expired => {
                        tx.rollback().await?;
                        Ok(RevokeAnswer::Expired)
                    }
                    RevocationPlan::Unchanged => revoke_one(tx, record, None, actor).await,
                    RevocationPlan::Revoke(planned) => {
                        revoke_one(tx, record, Some(planned), actor).await
                    }
                }
            }
            Revocation::Selection { selection, reason } => {
                self.revoke_selection(&selection, reason.as_ref(), actor)
                    .await
            }
        }
    }

    async fn update(&self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer> {
        let mut tx = self.write().await?;
        let Some(row) = tx.fetch_optional(id_query(id)).await? else {
            tx.rollback().await?;
            return Ok(UpdateAnswer::NotFound);
        };
        let answer = match plan_update(&rows::read(&row)?, changes, tx.now) {
            UpdatePlan::Update(record) => return write_update(tx, &record, actor).await,
            UpdatePlan::Revoked => UpdateAnswer::Revoked,
            UpdatePlan::Expired => UpdateAnswer::Expired,
            // The caller still waits until every instance has applied the row's last change.
            UpdatePlan::Unchanged => UpdateAnswer::Done(Box::new(rows::read::<Updated>(&row)?)),
        };
        tx.rollback().await?;
        Ok(answer)
    }

    async fn find_keys(&self, digests: &[Digest]) -> Result<Vec<Found<KeyRecord>>> {
        let statement = lookup!(key_columns!(), "api_keys");
        self.look_up(statement, digests, "key_id").await
    }

    async fn get_key(&self, target: &KeyTarget) -> Result<Option<StoredKey>> {
        target_query(target)
            .fetch_optional(&self.readers)
            .await
            .map_err(store_error)?
            .map(|row| rows::read(&row))
            .transpose()
    }

    async fn end_graces(&self) -> Result<u64> {
        let now = self.now();
        self.end_graces_until(now, now).await
    }

    async fn list_keys(&self, query: ListKeys) -> Result<KeyPage> {
        self.list(&query).await
    }

    async fn predecessor(&self, id: KeyId) -> Result<Option<KeyRecord>> {
        let found = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys WHERE replaced_by = ? ORDER BY key_id DESC LIMIT 1"
        ));
        let found = found.bind(rows::id(id)).fetch_optional(&self.readers);
        let found = found.await.map_err(store_error)?;
        found.map(|row| rows::read(&row)).transpose()
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
        let names: Vec<_> = accepted.iter().map(Prefix::as_str).collect();
        let mut tx = self.write().await?;
        tx.execute(
            sqlx::query("INSERT OR IGNORE INTO key_prefixes SELECT ?1 WHERE ?1 IS NOT NULL")
                .bind(names.first().map(|name| (*name).to_owned())),
        )
        .await?;
        tx.commit().await?;
        let found: Vec<(String, i64)> = sqlx::query_as(
            "SELECT prefix, (SELECT count(*) FROM api_keys NOT INDEXED
                              WHERE substr(hint, 1, length(hint) - 5) = prefix
                                AND revoke_time IS NULL)
               FROM key_prefixes WHERE prefix NOT IN (SELECT value FROM json_each(?))",
        )
        .bind(rows::to_json(&names)?)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        let read = |(prefix, keys)| Ok((prefix, raw::revision(keys)?));
        found.into_iter().map(read).collect()
    }
}

pub(super) fn id_query(id: KeyId) -> Statement {
    sqlx::query(concat!(
        "SELECT ",
        key_columns!(),
        " FROM api_keys WHERE key_id = ?"
    ))
    .bind(rows::id(id))
}

fn target_query(target: &KeyTarget) -> Statement {
    match target {
        KeyTarget::Id(id) => id_query(*id),
        // The `+` keeps SQLite from reading all rows in the order of their ids.
        KeyTarget::Digests(digests) => sqlx::query(concat!(
            asked!(),
            "SELECT ",
            key_columns!(),
            " FROM api_keys WHERE digest IN (SELECT substr(?1, place, 32) FROM asked)
              ORDER BY +key_id LIMIT 1"
        ))
        .bind(joined(digests)),
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

pub(super) async fn by_id(tx: &mut WriteTransaction, id: KeyId) -> Result<Option<StoredKey>> {
    tx.fetch_optional(id_query(id))
        .await?
        .map(|row| rows::read(&row))
        .transpose()
}

pub(super) fn row_vanished() -> StoreError {
    StoreError::Damaged("a row vanished within its transaction".to_owned())
}

/// Writes what Update may change.
async fn write_update(
    mut tx: WriteTransaction,
    record: &KeyRecord,
    actor: &Actor,
) -> Result<UpdateAnswer> {
    tx.execute(
        sqlx::query(
            "UPDATE api_keys SET scopes = ?, metadata = ?, allowed_cidrs = ?, expire_time = ?,
                disabled = ?, changed_by = ? WHERE key_id = ?",
        )
        .bind(rows::to_json(&record.scopes.to_vec())?)
        .bind(rows::to_json(record.metadata.entries())?)
        .bind(rows::to_json(&record.networks.to_texts())?)
        .bind(record.expire_time.map(Timestamp::as_micros))
        .bind(record.disabled)
        .bind(actor.name.clone())
        .bind(rows::id(record.id)),
    )
    .await?;
    let row = tx
        .fetch_optional(id_query(record.id))
        .await?
        .ok_or_else(row_vanished)?;
    let updated = rows::read::<Updated>(&row)?;
    let entry = key_entry(AuditAction::Update, record, None);
    audit(&mut tx, &entry, actor).await?;
    tx.commit().await?;
    Ok(UpdateAnswer::Done(Box::new(updated)))
}

pub(super) async fn insert(tx: &mut WriteTransaction, new: &NewKey, disabled: bool) -> Result<()> {
    let expire_time = new.expiry.end(tx.now);
    tx.execute(
        sqlx::query(
            "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                metadata, allowed_cidrs, recoverable, sealed, disabled, create_time, expire_time)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(rows::id(new.id))
        .bind(new.digest.as_bytes().to_vec())
        .bind(new.generation)
        .bind(new.account.as_str().to_owned())
        .bind(new.name.as_str().to_owned())
        .bind(new.hint.0.clone())
        .bind(rows::to_json(&new.scopes.to_vec())?)
        .bind(rows::to_json(new.metadata.entries())?)
        .bind(rows::to_json(&new.networks.to_texts())?)
        .bind(new.sealed.is_some())
        .bind(new.sealed.as_ref().map(|sealed| sealed.as_bytes().to_vec()))
        .bind(disabled)
        .bind(tx.now.as_micros())
        .bind(expire_time.map(Timestamp::as_micros)),
    )
    .await
    .map(drop)
}
