//! The keyring on SQLite. The one process that has the database open needs no list of instances.

use async_trait::async_trait;

use super::audit::audit;
use super::rows::{self, Columns, key_columns};
use super::{SqliteStore, WriteTransaction, store_error};
use keyward_core::key::KeyId;
use keyward_crypto::{CheckValue, KeyKind, KeyName};
use keyward_store::keyring::{Needs, answer_to_retirement, unchanged_by_activation};
use keyward_store::rows::Row as _;
use keyward_store::{
    Activation, Actor, AuditAction, KeyringChecks, KeyringUse, KnownKey, KnownState, Result,
    Retirement, SealMove, StoredKey, raw,
};

#[async_trait]
impl KeyringChecks for SqliteStore {
    async fn known_keys(&self) -> Result<Vec<KnownKey>> {
        let all =
            sqlx::query("SELECT kind, number, check_value, state, active FROM keyring_checks");
        self.read_all(all).await
    }

    async fn add_check_values(&self, values: &[CheckValue]) -> Result<()> {
        let insert = "INSERT INTO keyring_checks (kind, number, check_value) VALUES (?, ?, ?)";
        self.insert_checks(insert, values).await
    }

    async fn note_loaded(&self, values: &[CheckValue]) -> Result<()> {
        let insert = "INSERT OR IGNORE INTO keyring_checks (kind, number, check_value, state)
                      VALUES (?, ?, ?, 'loaded')";
        self.insert_checks(insert, values).await
    }

    async fn activate(&self, name: KeyName, actor: &Actor) -> Result<Activation> {
        let mut tx = self.write().await?;
        let state = state_of(&mut tx, name).await?;
        if let Some(answer) = unchanged_by_activation(state, name, &[]) {
            tx.rollback().await?;
            return Ok(answer);
        }
        for statement in [
            "UPDATE keyring_checks SET active = 0 WHERE kind = ?1 AND active = 1 AND number <> ?2",
            "UPDATE keyring_checks SET active = ?1 IN ('generation', 'seal', 'audit'), state = 'required'
              WHERE kind = ?1 AND number = ?2",
        ] {
            let statement = sqlx::query(statement).bind(name.kind.name());
            tx.execute(statement.bind(name.number)).await?;
        }
        let entry = AuditAction::KeyringActivate.entry(name.to_string());
        audit(&mut tx, &entry, actor).await?;
        tx.commit().await?;
        Ok(Activation::Done)
    }

    async fn retire(&self, name: KeyName, actor: &Actor) -> Result<Retirement> {
        // One transaction at a time: none can store something made with the key meanwhile.
        let mut tx = self.write().await?;
        let state = state_of(&mut tx, name).await?;
        if let Some(answer) = answer_to_retirement(state, name, &[]) {
            tx.rollback().await?;
            return Ok(answer);
        }
        let needs = needs(&mut tx, name).await?;
        if needs != Needs::default() {
            tx.rollback().await?;
            return Ok(Retirement::Needed(needs));
        }
        let retire = match state {
            // Nothing was ever made with it, so its number is free again.
            Some(KnownState::Loaded) => "DELETE FROM keyring_checks WHERE kind = ? AND number = ?",
            _ => "UPDATE keyring_checks SET state = 'retired' WHERE kind = ? AND number = ?",
        };
        let retire = sqlx::query(retire).bind(name.kind.name()).bind(name.number);
        tx.execute(retire).await?;
        let entry = AuditAction::KeyringRetire.entry(name.to_string());
        audit(&mut tx, &entry, actor).await?;
        tx.commit().await?;
        Ok(Retirement::Done)
    }

    async fn keyring_use(&self) -> Result<KeyringUse> {
        let mut found = KeyringUse::default();
        let rows = sqlx::query(
            "SELECT 'keys' AS what, generation AS number, count(*) AS count FROM api_keys NOT INDEXED
              WHERE revoked = 0 AND generation IS NOT NULL
                AND (expire_time IS NULL OR expire_time > ?1) GROUP BY generation
             UNION ALL
             SELECT 'tokens', generation, count(*) FROM caller_tokens
              WHERE revoked = 0 AND generation IS NOT NULL
                AND (expire_time IS NULL OR expire_time > ?1) GROUP BY generation
             UNION ALL
             SELECT 'seals', key_version, count(*) FROM audit_seals GROUP BY key_version",
        )
        .bind(self.now().as_micros())
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        for row in &rows {
            found.add_row(&Columns(row))?;
        }
        let rows = sqlx::query(
            "SELECT substr(sealed, 1, 4) AS version, count(*) AS count FROM api_keys
              WHERE sealed IS NOT NULL GROUP BY substr(sealed, 1, 4)",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        for row in &rows {
            let number = raw::seal_version(rows::column(row, "version")?)?;
            let count = Columns(row).revision("count")?;
            found.add(KeyKind::Seal, number, |needs| needs.copies = count);
        }
        Ok(found)
    }

    async fn sealed_under(
        &self,
        seal: u32,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<StoredKey>> {
        let found = sqlx::query(concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys
              WHERE sealed IS NOT NULL AND substr(sealed, 1, 4) = ? AND key_id > ?
              ORDER BY key_id LIMIT ?"
        ))
        .bind(seal.to_be_bytes().to_vec())
        .bind(after.map_or_else(Vec::new, rows::id))
        .bind(limit);
        self.read_all(found).await
    }

    async fn move_seals(&self, moves: Vec<SealMove>) -> Result<u64> {
        let mut tx = self.write().await?;
        let mut moved = 0;
        for copy in moves {
            let update =
                sqlx::query("UPDATE api_keys SET sealed = ?3 WHERE key_id = ?1 AND sealed = ?2")
                    .bind(rows::id(copy.id))
                    .bind(copy.old.as_bytes().to_vec())
                    .bind(copy.new.as_bytes().to_vec());
            moved += tx.execute(update).await?;
        }
        tx.commit().await?;
        Ok(moved)
    }
}

impl SqliteStore {
    async fn insert_checks(&self, insert: &'static str, values: &[CheckValue]) -> Result<()> {
        // A start writes nothing, so that it succeeds with a full disk.
        if values.is_empty() {
            return Ok(());
        }
        let mut tx = self.write().await?;
        for check in values {
            let insert = sqlx::query(insert)
                .bind(check.kind.name())
                .bind(check.number)
                .bind(check.value.to_vec());
            tx.execute(insert).await?;
        }
        tx.commit().await
    }
}

async fn state_of(tx: &mut WriteTransaction, name: KeyName) -> Result<Option<KnownState>> {
    let read = sqlx::query(
        "SELECT kind, number, check_value, state, active FROM keyring_checks
          WHERE kind = ? AND number = ?",
    );
    let row = tx
        .fetch_optional(read.bind(name.kind.name()).bind(name.number))
        .await?;
    let known: Option<KnownKey> = row.as_ref().map(rows::read).transpose()?;
    Ok(known.map(|key| key.state))
}

/// What needs a key. An expired key does not: its expiry is final.
async fn needs(tx: &mut WriteTransaction, name: KeyName) -> Result<Needs> {
    let mut needs = Needs::default();
    if name.kind == KeyKind::Seal {
        let count = sqlx::query(
            "SELECT count(*) AS copies FROM api_keys
              WHERE sealed IS NOT NULL AND substr(sealed, 1, 4) = ?",
        )
        .bind(name.number.to_be_bytes().to_vec());
        needs.copies = Columns(&tx.fetch_one(count).await?).revision("copies")?;
        return Ok(needs);
    }
    if name.kind == KeyKind::Audit {
        let count = sqlx::query("SELECT count(*) AS seals FROM audit_seals WHERE key_version = ?");
        let row = tx.fetch_one(count.bind(name.number)).await?;
        needs.seals = Columns(&row).revision("seals")?;
        return Ok(needs);
    }
    let now = tx.now.as_micros();
    let count = sqlx::query(
        "SELECT (SELECT count(*) FROM api_keys NOT INDEXED
                  WHERE generation = ?1 AND revoked = 0
                    AND (expire_time IS NULL OR expire_time > ?2)) AS keys,
                (SELECT count(*) FROM caller_tokens
                  WHERE generation = ?1 AND revoked = 0
                    AND (expire_time IS NULL OR expire_time > ?2)) AS tokens",
    )
    .bind(name.number)
    .bind(now);
    let row = tx.fetch_one(count).await?;
    needs.keys = Columns(&row).revision("keys")?;
    needs.tokens = Columns(&row).revision("tokens")?;
    Ok(needs)
}
