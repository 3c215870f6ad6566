//! The import of keys on Postgres: one transaction, for whose INSERT a trigger logs one row.

use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::audit;
use super::failure::{Failure, Kind};
use super::log::epoch;
use super::pool::{Lease, Statement};
use super::{PostgresStore, rows};
use keyward_store::import::{HeldKey, Holdings, plan_import};
use keyward_store::{Actor, CommittedChange, Import, Imported, ImportedKey, Result, StoreError};

impl PostgresStore {
    pub(super) async fn try_import(
        &self,
        import: &Import,
        actor: &Actor,
    ) -> Result<Imported, Failure> {
        let mut lease = self.writers.begin().await?;
        // The trigger copies the actor to the log.
        let prepare = sqlx::query("SELECT set_config('keyward.actor', $1, true)");
        lease.fetch_one(prepare.bind(actor.name.clone())).await?;
        let outcomes = plan_import(&import.keys, holdings(&mut lease, import).await?);
        let (new, entry) = import.planned(&outcomes);
        if new.is_empty() {
            let read_in = Some(epoch(&mut lease).await?);
            let committed = head(&mut lease).await?.read_in(read_in);
            lease.rollback().await?;
            return Ok(Imported {
                outcomes,
                committed,
            });
        }
        // The audit entry comes first: the INSERT locks the log's counter.
        audit(&mut lease, &[(entry, actor.clone())]).await?;
        let inserted = lease.execute(insert(import, &new)?).await?;
        if usize::try_from(inserted) != Ok(new.len()) {
            lease.rollback().await?;
            return Err(Failure {
                error: StoreError::Unavailable("other calls add the same keys".to_owned()),
                kind: Kind::Again,
            });
        }
        let committed = head(&mut lease).await?;
        lease.commit().await?;
        self.announce();
        Ok(Imported {
            outcomes,
            committed,
        })
    }
}

/// What the store has under the digests and in the slots of an import.
async fn holdings(lease: &mut Lease<'_>, import: &Import) -> Result<Holdings, Failure> {
    let mut held = Holdings::default();
    // The slots first: each statement sees the commits before it, so the key in a slot that another import
    // has filled meanwhile is found by its digest, too.
    let (accounts, names) = slots(import.keys.iter());
    let slots = sqlx::query(
        "SELECT account_id, name, key_id
           FROM unnest($1::text[], $2::text[]) AS asked(account_id, name)
           JOIN api_keys USING (account_id, name)
          WHERE revoke_time IS NULL",
    );
    for row in lease.fetch_all(slots.bind(accounts).bind(names)).await? {
        let (account, name) = (
            rows::column(&row, "account_id")?,
            rows::column(&row, "name")?,
        );
        held.add_slot(account, name, rows::id(&row, "key_id")?);
    }
    let digests = import.keys.iter().flat_map(ImportedKey::digests);
    let digests: Vec<[u8; 32]> = digests.map(|digest| *digest.as_bytes()).collect();
    let known = sqlx::query(
        "SELECT digest, key_id, import_batch IS NOT DISTINCT FROM $2 AS same_batch
           FROM api_keys WHERE digest = ANY ($1)",
    );
    let known = known.bind(digests).bind(batch(import));
    for row in lease.fetch_all(known).await? {
        let key = HeldKey {
            id: rows::id(&row, "key_id")?,
            same_batch: rows::column(&row, "same_batch")?,
        };
        held.add_key(rows::read(&row)?, key);
    }
    Ok(held)
}

fn slots<'k>(keys: impl Iterator<Item = &'k ImportedKey>) -> (Vec<String>, Vec<String>) {
    keys.map(|key| (key.account.to_string(), key.name.to_string()))
        .unzip()
}

fn batch(import: &Import) -> Uuid {
    Uuid::from_bytes(*import.batch.as_bytes())
}

/// Inserts the keys, but not those whose digest or slot another call has taken meanwhile.
fn insert(import: &Import, new: &[&ImportedKey]) -> Result<Statement> {
    let (accounts, names) = slots(new.iter().copied());
    let times = |of: fn(&ImportedKey) -> Option<keyward_core::key::Timestamp>| {
        let times = new.iter().map(|key| of(key).map(rows::instant).transpose());
        times.collect::<Result<Vec<Option<OffsetDateTime>>>>()
    };
    let digests = new.iter().map(|key| *key.digest.as_bytes());
    let sealed = |key: &&ImportedKey| Some(key.sealed.as_ref()?.as_bytes().to_vec());
    let scopes = new.iter().map(|key| Json(key.scopes.to_vec()));
    let metadata = new.iter().map(|key| Json(key.metadata.entries().clone()));
    let networks = new.iter().map(|key| Json(key.networks.to_texts()));
    let statement = sqlx::query(
        "INSERT INTO api_keys (key_id, digest, import_batch, account_id, name, hint, scopes, metadata,
                allowed_cidrs, recoverable, sealed, create_time, expire_time)
         SELECT key_id, digest, $1, account_id, name, hint, scopes, metadata, allowed_cidrs,
                sealed IS NOT NULL, sealed, coalesce(create_time, now), expire_time
           FROM unnest($2::uuid[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::jsonb[],
                       $8::jsonb[], $9::jsonb[], $10::bytea[], $11::timestamptz[],
                       $12::timestamptz[])
                AS new(key_id, digest, account_id, name, hint, scopes, metadata, allowed_cidrs,
                       sealed, create_time, expire_time),
                (SELECT store_time() AS now) AS clock
             ON CONFLICT DO NOTHING",
    );
    Ok(statement
        .bind(batch(import))
        .bind(new.iter().map(|key| rows::uuid(key.id)).collect::<Vec<_>>())
        .bind(digests.collect::<Vec<_>>())
        .bind(accounts)
        .bind(names)
        .bind(new.iter().map(|key| key.hint.0.clone()).collect::<Vec<_>>())
        .bind(scopes.collect::<Vec<_>>())
        .bind(metadata.collect::<Vec<_>>())
        .bind(networks.collect::<Vec<_>>())
        .bind(new.iter().map(sealed).collect::<Vec<_>>())
        .bind(times(|key| key.create_time)?)
        .bind(times(|key| key.expire_time)?))
}

/// The last row of the log. Within the transaction of an import it is the row of the import.
async fn head(lease: &mut Lease<'_>) -> Result<CommittedChange, Failure> {
    let head = "SELECT key_id, revision, mark FROM key_changes ORDER BY revision DESC LIMIT 1";
    let head = lease.fetch_one(sqlx::query(head)).await?;
    Ok(rows::last_change(&head, "key_id")?)
}
