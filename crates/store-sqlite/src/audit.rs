//! The audit on SQLite: each event is a row in the transaction of the change that it records.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteRow;

use super::{SqliteStore, Statement, WriteTransaction, rows, store_error};
use keyward_store::audit::{AuditParameter, COLUMNS, TrimState};
use keyward_store::{
    Actor, Audit, AuditAction, AuditEntry, AuditEvent, AuditPage, AuditPart, AuditQuery, AuditSeal,
    Result, Sealing, Trimming, raw,
};

#[async_trait]
impl Audit for SqliteStore {
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()> {
        let mut tx = self.write().await?;
        audit(&mut tx, &entry, actor).await?;
        tx.commit().await
    }

    async fn list_events(&self, query: &AuditQuery) -> Result<AuditPage> {
        let (text, parameters) = query.statement();
        let mut statement = sqlx::query(AssertSqlSafe(text));
        for parameter in parameters {
            statement = match parameter {
                AuditParameter::Text(text) => statement.bind(text),
                AuditParameter::Id(id) => statement.bind(rows::id(id)),
                AuditParameter::Time(time) => statement.bind(time.as_micros()),
                AuditParameter::Number(number) => statement.bind(number),
            };
        }
        let found = statement.fetch_all(&self.readers).await;
        let read = |row| Ok((rows::read(row)?, rows::column(row, "matches")?));
        let found: Result<Vec<_>> = found.map_err(store_error)?.iter().map(read).collect();
        Ok(query.page(found?))
    }

    async fn seal_events(&self, sealing: &Sealing) -> Result<Option<(AuditSeal, usize)>> {
        let mut tx = self.write().await?;
        let last = sqlx::query("SELECT * FROM audit_seals ORDER BY number DESC LIMIT 1");
        let last = tx.fetch_optional(last).await?;
        let last = last.as_ref().map(rows::read).transpose()?;
        let unsealed = unsealed(Sealing::LIMIT);
        let mut events = events(&tx.fetch_all(unsealed).await?)?;
        if !sealing.is_due(last.as_ref(), tx.now, events.len()) {
            tx.rollback().await?;
            return Ok(None);
        }
        let seal = sealing.seal(last.as_ref(), &mut events, tx.now);
        tx.execute(insert_seal(&seal)).await?;
        for event in &events {
            if let Some(link) = &event.link {
                let place = sqlx::query(
                    "UPDATE audit SET position = ?, salt = ?, personal = ?, mac = ? WHERE id = ?",
                )
                .bind(link.position)
                .bind(link.salt.clone())
                .bind(link.personal.clone())
                .bind(link.mac.clone())
                .bind(event.id);
                tx.execute(place).await?;
            }
        }
        tx.commit().await?;
        Ok(Some((seal, events.len())))
    }

    async fn audit_part(&self, known: i64, limit: usize) -> Result<AuditPart> {
        // One transaction, so one snapshot.
        let mut tx = self.readers.begin().await.map_err(store_error)?;
        let mut fetch = async |statement: Statement| {
            let found = statement.fetch_all(&mut *tx).await;
            found.map_err(store_error)
        };
        let limit = raw::limit(limit);
        let state = fetch(sqlx::query("SELECT first_seal, proof FROM audit_state")).await?;
        let trimmed: Option<TrimState> = state.first().map(rows::read).transpose()?;
        let seals =
            sqlx::query("SELECT * FROM audit_seals WHERE number >= ? ORDER BY number LIMIT ?");
        let seals = fetch(seals.bind(known).bind(raw::limit(AuditPart::SEALS + 1))).await?;
        let seals = seals.iter().map(rows::read).collect::<Result<_>>()?;
        let mut part = AuditPart::new(seals, known, limit, trimmed.unwrap_or_default());
        let (from, to, most) = part.places(known, limit);
        let chained = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE position > ? AND position <= ? ORDER BY position LIMIT ?"
        )));
        part.events = events(&fetch(chained.bind(from).bind(to).bind(most)).await?)?;
        if part.is_last {
            part.unsealed = events(&fetch(unsealed(AuditPart::UNSEALED)).await?)?;
        }
        Ok(part)
    }

    async fn trim_events(&self, trimming: &Trimming) -> Result<u64> {
        let mut tx = self.write().await?;
        let kept = raw::micros(trimming.kept);
        let first = sqlx::query(AssertSqlSafe(format!(
            "SELECT * FROM audit_seals WHERE {}",
            Trimming::FIRST
        )))
        .bind(tx.now.as_micros().saturating_sub(kept))
        .bind(Trimming::STEP);
        let first = tx.fetch_optional(first).await?;
        let first = first.as_ref().map(rows::read).transpose()?;
        let Some((first, proof)) = trimming.proven(first) else {
            tx.rollback().await?;
            return Ok(0);
        };
        let state = sqlx::query("UPDATE audit_state SET first_seal = ?, proof = ?");
        tx.execute(state.bind(first.number).bind(proof)).await?;
        let events = sqlx::query("DELETE FROM audit WHERE position <= ?");
        let trimmed = tx.execute(events.bind(first.last_position)).await?;
        let seals = sqlx::query("DELETE FROM audit_seals WHERE number < ?");
        tx.execute(seals.bind(first.number)).await?;
        let entry = AuditAction::AuditTrim.entry(Trimming::detail(trimmed, first.number));
        audit(&mut tx, &entry, &Actor::service()).await?;
        tx.commit().await?;
        Ok(trimmed)
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
            "INSERT INTO audit (time, actor_id, actor, action, subject_id, account_id, detail, peer,
                client, request_id)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(tx.now.as_micros())
        .bind(actor.token.map(rows::id))
        .bind(actor.name.clone())
        .bind(entry.action.name())
        .bind(entry.id.map(rows::id))
        .bind(account.map(|account| account.as_str().to_owned()))
        .bind(entry.detail.clone())
        .bind(actor.origin.peer.clone())
        .bind(actor.origin.client.clone())
        .bind(actor.origin.request.clone()),
    )
    .await
    .map(drop)
}

/// The first events that no seal covers.
fn unsealed(limit: usize) -> Statement {
    let text = format!("SELECT {COLUMNS} FROM audit WHERE position IS NULL ORDER BY id LIMIT ?");
    sqlx::query(AssertSqlSafe(text)).bind(raw::limit(limit))
}

fn insert_seal(seal: &AuditSeal) -> Statement {
    sqlx::query(
        "INSERT INTO audit_seals (number, time, last_position, last_event, complete, key_version, previous,
            mac)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(seal.number)
    .bind(seal.time.as_micros())
    .bind(seal.last_position)
    .bind(seal.last_event.clone())
    .bind(seal.is_complete)
    .bind(seal.key)
    .bind(seal.previous.clone())
    .bind(seal.mac.clone())
}

fn events(found: &[SqliteRow]) -> Result<Vec<AuditEvent>> {
    found.iter().map(rows::read).collect()
}
