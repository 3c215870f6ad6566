//! The keyring on Postgres. A transaction that stores something made with a key shares the advisory lock
//! of that key, by a trigger; its retirement takes the lock alone.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::audit::audit;
use super::failure::Failure;
use super::pool::Lease;
use super::rows::{self, Columns, key_columns};
use super::{ALLOW_LONG_STATEMENT, LONG_LIMIT, PostgresStore};
use keyward_core::key::KeyId;
use keyward_crypto::{CheckValue, KeyKind, KeyName};
use keyward_store::keyring::{InstanceKeys, Needs, answer_to_retirement, unchanged_by_activation};
use keyward_store::{
    Activation, Actor, AuditAction, KeyringChecks, KeyringUse, KnownKey, KnownState, Result,
    Retirement, SealMove, StoredKey,
};

#[async_trait]
impl KeyringChecks for PostgresStore {
    async fn known_keys(&self) -> Result<Vec<KnownKey>> {
        let all =
            sqlx::query("SELECT kind, number, check_value, state, active FROM keyring_checks");
        let found = self.readers.fetch_all(all).await?;
        found.iter().map(rows::read).collect()
    }

    async fn add_check_values(&self, values: &[CheckValue]) -> Result<()> {
        let insert = "INSERT INTO keyring_checks (kind, number, check_value) VALUES ($1, $2, $3)";
        Ok(self.insert_checks(insert, values).await?)
    }

    async fn note_loaded(&self, values: &[CheckValue]) -> Result<()> {
        let insert = "INSERT INTO keyring_checks (kind, number, check_value, state)
                      VALUES ($1, $2, $3, 'loaded') ON CONFLICT DO NOTHING";
        Ok(self.insert_checks(insert, values).await?)
    }

    async fn activate(&self, name: KeyName, actor: &Actor) -> Result<Activation> {
        Ok(self.try_activate(name, actor).await?)
    }

    async fn retire(&self, name: KeyName, actor: &Actor) -> Result<Retirement> {
        Ok(self.try_retire(name, actor).await?)
    }

    async fn keyring_use(&self) -> Result<KeyringUse> {
        let count = sqlx::query(
            "SELECT 'keys' AS what, generation AS number, count(*) AS count FROM api_keys
              WHERE NOT revoked AND generation IS NOT NULL
                AND (expire_time IS NULL OR expire_time > (SELECT store_time())) GROUP BY generation
             UNION ALL
             SELECT 'tokens', generation, count(*) FROM caller_tokens
              WHERE NOT revoked AND generation IS NOT NULL
                AND (expire_time IS NULL OR expire_time > (SELECT store_time())) GROUP BY generation
             UNION ALL
             SELECT 'copies', ('x' || encode(substring(sealed FOR 4), 'hex'))::bit(32)::bigint, count(*)
               FROM api_keys WHERE sealed IS NOT NULL GROUP BY substring(sealed FOR 4)
             UNION ALL
             SELECT 'seals', key_version, count(*) FROM audit_seals GROUP BY key_version",
        );
        let mut lease = self.long_transaction().await?;
        let instances = instances(&mut lease).await?;
        let counted = lease.fetch_all_within(LONG_LIMIT, count).await?;
        lease.rollback().await?;
        let mut found = KeyringUse {
            instances,
            ..KeyringUse::default()
        };
        for row in &counted {
            found.add_row(&Columns(row))?;
        }
        Ok(found)
    }

    async fn sealed_under(
        &self,
        seal: u32,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<StoredKey>> {
        let statement = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            ", sealed FROM api_keys
              WHERE sealed IS NOT NULL AND substring(sealed FOR 4) <= $1
                AND (substring(sealed FOR 4), key_id) > ($1, $2)
              ORDER BY substring(sealed FOR 4), key_id LIMIT $3"
        ))
        .bind(seal.to_be_bytes().to_vec())
        .bind(after.map_or_else(Uuid::nil, rows::uuid))
        .bind(i64::from(limit));
        let found = self.readers.fetch_all(statement).await?;
        found.iter().map(rows::read).collect()
    }

    async fn move_seals(&self, moves: Vec<SealMove>) -> Result<u64> {
        let ids: Vec<_> = moves.iter().map(|copy| rows::uuid(copy.id)).collect();
        let bytes = |of: fn(&SealMove) -> &[u8]| -> Vec<Vec<u8>> {
            moves.iter().map(|copy| of(copy).to_vec()).collect()
        };
        // In the order of the ids, which avoids deadlocks. A locked row is left for a later step.
        let statement = sqlx::query(
            "WITH moved AS (
                 SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS m(key_id, old, new)
             ), locked AS MATERIALIZED (
                 SELECT m.* FROM api_keys AS k JOIN moved AS m USING (key_id)
                  WHERE k.sealed = m.old
                  ORDER BY k.key_id FOR UPDATE OF k SKIP LOCKED
             )
             UPDATE api_keys AS k SET sealed = m.new
               FROM locked AS m WHERE k.key_id = m.key_id AND k.sealed = m.old",
        )
        .bind(ids)
        .bind(bytes(|copy| copy.old.as_bytes()))
        .bind(bytes(|copy| copy.new.as_bytes()));
        let mut lease = self.inserters.begin().await?;
        let moved = lease.execute(statement).await?;
        lease.commit().await?;
        Ok(moved)
    }
}

impl PostgresStore {
    async fn insert_checks(
        &self,
        insert: &'static str,
        values: &[CheckValue],
    ) -> Result<(), Failure> {
        let mut lease = self.inserters.begin().await?;
        for check in values {
            let insert = sqlx::query(insert)
                .bind(check.kind.name())
                .bind(i64::from(check.number))
                .bind(check.value.to_vec());
            lease.execute(insert).await?;
        }
        lease.commit().await
    }

    async fn try_activate(&self, name: KeyName, actor: &Actor) -> Result<Activation, Failure> {
        let mut lease = self.inserters.begin().await?;
        // No instance registers between the read of the instances and the commit.
        let lock = sqlx::query("SELECT pg_advisory_xact_lock(keyring_lock('instances', 0))");
        lease.execute(lock).await?;
        lock_key(&mut lease, name).await?;
        let state = state_of(&mut lease, name).await?;
        let instances = instances(&mut lease).await?;
        if let Some(answer) = unchanged_by_activation(state, name, &instances) {
            lease.rollback().await?;
            return Ok(answer);
        }
        for statement in [
            "UPDATE keyring_checks SET active = false WHERE kind = $1 AND active AND number <> $2",
            "UPDATE keyring_checks SET active = $1 IN ('generation', 'seal', 'audit'), state = 'required'
              WHERE kind = $1 AND number = $2",
        ] {
            let statement = sqlx::query(statement).bind(name.kind.name());
            lease
                .execute(statement.bind(i64::from(name.number)))
                .await?;
        }
        let entry = AuditAction::KeyringActivate.entry(name.to_string());
        audit(&mut lease, &[(entry, actor.clone())]).await?;
        lease.commit().await?;
        Ok(Activation::Done)
    }

    async fn try_retire(&self, name: KeyName, actor: &Actor) -> Result<Retirement, Failure> {
        let mut lease = self.long_transaction().await?;
        // Statements that store something made with the key have ended, and later ones see its end.
        lock_key(&mut lease, name).await?;
        let state = state_of(&mut lease, name).await?;
        let instances = instances(&mut lease).await?;
        if let Some(answer) = answer_to_retirement(state, name, &instances) {
            lease.rollback().await?;
            return Ok(answer);
        }
        let needs = needs(&mut lease, name).await?;
        if needs != Needs::default() {
            lease.rollback().await?;
            return Ok(Retirement::Needed(needs));
        }
        let retire = match state {
            // Nothing was ever made with it, so its number is free again.
            Some(KnownState::Loaded) => {
                "DELETE FROM keyring_checks WHERE kind = $1 AND number = $2"
            }
            _ => "UPDATE keyring_checks SET state = 'retired' WHERE kind = $1 AND number = $2",
        };
        let retire = sqlx::query(retire).bind(name.kind.name());
        lease.execute(retire.bind(i64::from(name.number))).await?;
        let entry = AuditAction::KeyringRetire.entry(name.to_string());
        audit(&mut lease, &[(entry, actor.clone())]).await?;
        lease.commit().await?;
        Ok(Retirement::Done)
    }

    /// A transaction that counts keys. Counting reads the whole table, where an index would only cost.
    async fn long_transaction(&self) -> Result<Lease<'_>, Failure> {
        let mut lease = self.writers.begin().await?;
        for set in [ALLOW_LONG_STATEMENT, "SET LOCAL enable_seqscan = on"] {
            lease.execute(sqlx::query(set)).await?;
        }
        Ok(lease)
    }
}

async fn lock_key(lease: &mut Lease<'_>, name: KeyName) -> Result<(), Failure> {
    let lock = sqlx::query("SELECT pg_advisory_xact_lock(keyring_lock($1, $2))")
        .bind(name.kind.name())
        .bind(i64::from(name.number));
    lease.execute(lock).await.map(drop)
}

async fn state_of(lease: &mut Lease<'_>, name: KeyName) -> Result<Option<KnownState>, Failure> {
    let read = sqlx::query(
        "SELECT kind, number, check_value, state, active FROM keyring_checks
          WHERE kind = $1 AND number = $2",
    );
    let read = read.bind(name.kind.name()).bind(i64::from(name.number));
    let row = lease.fetch_optional(read).await?;
    let known: Option<KnownKey> = row.as_ref().map(rows::read).transpose()?;
    Ok(known.map(|key| key.state))
}

async fn instances(lease: &mut Lease<'_>) -> Result<Vec<InstanceKeys>, Failure> {
    let read = sqlx::query("SELECT name, loaded_keys FROM instances ORDER BY name");
    let found = lease.fetch_all(read).await?;
    let instance = |row: &PgRow| {
        let loaded: Vec<String> = rows::column(row, "loaded_keys")?;
        Ok(InstanceKeys {
            name: rows::column(row, "name")?,
            // A later version may report kinds that this one does not know.
            loaded: loaded
                .iter()
                .filter_map(|name| KeyName::parse(name))
                .collect(),
        })
    };
    Ok(found.iter().map(instance).collect::<Result<_>>()?)
}

/// What needs a key. An expired key does not: its expiry is final.
async fn needs(lease: &mut Lease<'_>, name: KeyName) -> Result<Needs, Failure> {
    let mut needs = Needs::default();
    if name.kind == KeyKind::Seal {
        let count = sqlx::query(
            "SELECT count(*) AS copies FROM api_keys
              WHERE sealed IS NOT NULL AND substring(sealed FOR 4) = $1",
        )
        .bind(name.number.to_be_bytes().to_vec());
        let row = lease.fetch_one_within(LONG_LIMIT, count).await?;
        needs.copies = rows::revision(&row, "copies")?;
        return Ok(needs);
    }
    if name.kind == KeyKind::Audit {
        let count = sqlx::query("SELECT count(*) AS seals FROM audit_seals WHERE key_version = $1");
        let count = count.bind(i64::from(name.number));
        let row = lease.fetch_one_within(LONG_LIMIT, count).await?;
        needs.seals = rows::revision(&row, "seals")?;
        return Ok(needs);
    }
    let count = sqlx::query(
        "SELECT (SELECT count(*) FROM api_keys
                  WHERE generation = $1 AND NOT revoked
                    AND (expire_time IS NULL OR expire_time > (SELECT store_time()))) AS keys,
                (SELECT count(*) FROM caller_tokens
                  WHERE generation = $1 AND NOT revoked
                    AND (expire_time IS NULL OR expire_time > (SELECT store_time()))) AS tokens",
    )
    .bind(i64::from(name.number));
    let row = lease.fetch_one_within(LONG_LIMIT, count).await?;
    needs.keys = rows::revision(&row, "keys")?;
    needs.tokens = rows::revision(&row, "tokens")?;
    Ok(needs)
}
