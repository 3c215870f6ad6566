//! The audit on SQLite: a row in the very transaction of the change it records.

use async_trait::async_trait;

use super::{SqliteStore, WriteTx, store_error};
use keyward_store::{Actor, Audit, AuditEntry, Result};

#[async_trait]
impl Audit for SqliteStore {
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()> {
        let mut tx = self.write().await?;
        audit(&mut tx, &entry, actor).await?;
        tx.commit().await
    }
}

/// Writes an audit row within the transaction whose change it records.
pub(super) async fn audit(tx: &mut WriteTx, entry: &AuditEntry, actor: &Actor) -> Result<()> {
    let now = tx.now.as_micros();
    sqlx::query(
        "INSERT INTO audit (time, actor_id, actor, action, subject_id, account_id, detail)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(now)
    .bind(actor.token.map(|id| id.as_bytes().to_vec()))
    .bind(actor.name.clone())
    .bind(entry.action.name())
    .bind(entry.id.map(|id| id.as_bytes().to_vec()))
    .bind(
        entry
            .account
            .as_ref()
            .map(|account| account.as_str().to_owned()),
    )
    .bind(entry.detail.clone())
    .execute(tx.on()?)
    .await
    .map(drop)
    .map_err(store_error)
}
