//! The audit on SQLite: each entry is a row in the transaction of the change that it records.

use async_trait::async_trait;

use super::{SqliteStore, WriteTransaction, rows};
use keyward_store::{Actor, Audit, AuditEntry, Result};

#[async_trait]
impl Audit for SqliteStore {
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()> {
        let mut tx = self.write().await?;
        audit(&mut tx, &entry, actor).await?;
        tx.commit().await
    }
}

/// Writes an audit row within the transaction of the change that it records.
pub(super) async fn audit(
    tx: &mut WriteTransaction,
    entry: &AuditEntry,
    actor: &Actor,
) -> Result<()> {
    let account = entry.account.as_ref();
    tx.execute(
        sqlx::query(
            "INSERT INTO audit (time, actor_id, actor, action, subject_id, account_id, detail)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(tx.now.as_micros())
        .bind(actor.token.map(rows::id))
        .bind(actor.name.clone())
        .bind(entry.action.name())
        .bind(entry.id.map(rows::id))
        .bind(account.map(|account| account.as_str().to_owned()))
        .bind(entry.detail.clone()),
    )
    .await
    .map(drop)
}
