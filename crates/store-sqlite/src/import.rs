//! The import of keys on SQLite: one transaction, which logs one row.

use sqlx::{QueryBuilder, Sqlite};

use super::audit::audit;
use super::rows::{self, Columns};
use super::{SqliteStore, WriteTransaction, store_error};
use keyward_core::key::{KeyId, Timestamp};
use keyward_store::import::{HeldKey, Holdings, plan_import};
use keyward_store::rows::Row as _;
use keyward_store::{Actor, CommittedChange, Import, Imported, ImportedKey, Result};

impl SqliteStore {
    pub(super) async fn import_keys(&self, import: &Import, actor: &Actor) -> Result<Imported> {
        let mut tx = self.write().await?;
        let outcomes = plan_import(&import.keys, holdings(&mut tx, import).await?);
        let (new, entry) = import.planned(&outcomes);
        if !new.is_empty() {
            audit(&mut tx, &entry, actor).await?;
            let log = sqlx::query("INSERT INTO log_change VALUES (?, 'import', ?, ?)")
                .bind(rows::id(KeyId::IMPORTS))
                .bind(actor.name.clone())
                .bind(import.batch.to_string());
            tx.execute(log).await?;
            insert(&mut tx, import, &new).await?;
        }
        let committed = head(&mut tx).await?;
        match new.is_empty() {
            true => tx.rollback().await?,
            false => tx.commit().await?,
        }
        Ok(Imported {
            outcomes,
            committed,
        })
    }
}

/// What the store has under the digests and in the slots of an import.
async fn holdings(tx: &mut WriteTransaction, import: &Import) -> Result<Holdings> {
    let mut held = Holdings::default();
    let digests = import.keys.iter().flat_map(ImportedKey::digests);
    let bytes: Vec<u8> = digests.flat_map(|digest| *digest.as_bytes()).collect();
    let known = sqlx::query(
        "WITH RECURSIVE asked(place) AS (
             SELECT 1 UNION ALL SELECT place + 32 FROM asked WHERE place + 32 < length(?1)
         )
         SELECT digest, key_id, import_batch IS ?2 AS same_batch
           FROM asked CROSS JOIN api_keys ON digest = substr(?1, place, 32)",
    )
    .bind(bytes)
    .bind(import.batch.as_bytes().to_vec());
    for row in tx.fetch_all(known).await? {
        let key = HeldKey {
            id: Columns(&row).id("key_id")?,
            same_batch: rows::column(&row, "same_batch")?,
        };
        held.add_key(rows::read(&row)?, key);
    }
    let slots = import.keys.iter();
    let slots: Vec<_> = slots
        .map(|key| (key.account.as_str(), key.name.as_str()))
        .collect();
    let slots = sqlx::query(
        "SELECT account_id, name, key_id
           FROM json_each(?1) AS asked
          CROSS JOIN api_keys
             ON account_id = asked.value ->> 0 AND name = asked.value ->> 1
          WHERE revoke_time IS NULL",
    )
    .bind(rows::to_json(&slots)?);
    for row in tx.fetch_all(slots).await? {
        let id = Columns(&row).id("key_id")?;
        held.add_slot(
            rows::column(&row, "account_id")?,
            rows::column(&row, "name")?,
            id,
        );
    }
    Ok(held)
}

/// Inserts the keys with the mark of the head, which is the log row of this import.
async fn insert(tx: &mut WriteTransaction, import: &Import, new: &[&ImportedKey]) -> Result<()> {
    let mark = "SELECT mark FROM key_changes WHERE revision = (SELECT revision FROM log_head)";
    let mark: Vec<u8> = rows::column(&tx.fetch_one(sqlx::query(mark)).await?, "mark")?;
    let mut columns = Vec::with_capacity(new.len());
    for key in new {
        let scopes = rows::to_json(&key.scopes.to_vec())?;
        let metadata = rows::to_json(key.metadata.entries())?;
        columns.push((
            key,
            scopes,
            metadata,
            rows::to_json(&key.networks.to_texts())?,
        ));
    }
    let now = tx.now;
    let mut statement = QueryBuilder::<Sqlite>::new(
        "INSERT INTO api_keys (key_id, digest, import_batch, account_id, name, hint, scopes, metadata,
                allowed_cidrs, recoverable, sealed, create_time, expire_time, mark) ",
    );
    statement.push_values(columns, |mut row, (key, scopes, metadata, networks)| {
        row.push_bind(rows::id(key.id))
            .push_bind(key.digest.as_bytes().to_vec())
            .push_bind(import.batch.as_bytes().to_vec())
            .push_bind(key.account.as_str().to_owned())
            .push_bind(key.name.as_str().to_owned())
            .push_bind(key.hint.0.clone())
            .push_bind(scopes)
            .push_bind(metadata)
            .push_bind(networks)
            .push_bind(key.sealed.is_some())
            .push_bind(key.sealed.as_ref().map(|sealed| sealed.as_bytes().to_vec()))
            .push_bind(key.create_time.unwrap_or(now).as_micros())
            .push_bind(key.expire_time.map(Timestamp::as_micros))
            .push_bind(mark.clone());
    });
    // Its text depends on the number of keys.
    let statement = statement.build().persistent(false);
    let inserted = statement.execute(tx.connection()?).await;
    inserted.map(drop).map_err(store_error)
}

/// The last row of the log.
async fn head(tx: &mut WriteTransaction) -> Result<CommittedChange> {
    let head = "SELECT key_id, revision, mark FROM key_changes ORDER BY revision DESC LIMIT 1";
    let head = tx.fetch_one(sqlx::query(head)).await?;
    Columns(&head).last_change("key_id")
}
