//! Lowers the time of an embedded store. The store is open, so no other process uses it.

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;

use super::audit::audit;
use super::rows::{self, Columns};
use super::{SqliteStore, store_error};
use keyward_core::key::Timestamp;
use keyward_store::plan::{key_entry, token_entry};
use keyward_store::rows::Row as _;
use keyward_store::{Actor, AuditAction, ExpiringKeys, Result, TimeRepair, TimeSurvey, raw};

/// Keys and tokens without revoke time that expire, with their number on each row. The argument is their
/// condition.
macro_rules! expiring {
    ($condition:literal) => {
        concat!(
            "SELECT key_id, account_id, name, create_time, expire_time, count(*) OVER () AS count
               FROM (SELECT key_id, account_id, name, create_time, expire_time, revoke_time
                       FROM api_keys NOT INDEXED
                     UNION ALL
                     SELECT token_id, NULL, name, create_time, expire_time, revoke_time
                       FROM caller_tokens)
              WHERE revoke_time IS NULL AND ",
            $condition,
            " ORDER BY expire_time, key_id LIMIT ?3"
        )
    };
}

#[async_trait]
impl TimeRepair for SqliteStore {
    async fn survey(&mut self) -> Result<TimeSurvey> {
        let (stored, clock) = (self.now(), self.clock.wall());
        let find = async |text: &'static str| {
            let found = sqlx::query(text)
                .bind(clock.as_micros())
                .bind(stored.as_micros())
                .bind(raw::limit(ExpiringKeys::LISTED))
                .fetch_all(&self.readers)
                .await;
            keys(&found.map_err(store_error)?)
        };
        Ok(TimeSurvey {
            expired: find(expiring!("expire_time > ?1 AND expire_time <= ?2")).await?,
            issued: find(expiring!("create_time > ?1 AND expire_time > ?2")).await?,
            stored,
            clock,
        })
    }

    async fn end_all_graces(&mut self, survey: &TimeSurvey) -> Result<u64> {
        let all = Timestamp::from_micros(i64::MAX);
        self.end_graces_until(all, survey.clock).await
    }

    async fn revoke_expired(&mut self, survey: &TimeSurvey) -> Result<u64> {
        let mut tx = self.write().await?;
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(
            "UPDATE api_keys SET revoke_time = ?1, revoked = 1, changed_by = 'keyward'
              WHERE key_id IN (SELECT key_id FROM api_keys
                                WHERE revoke_time IS NULL AND expire_time > ?1 AND expire_time <= ?2
                                LIMIT 500)
             RETURNING key_id",
        )
        .bind(survey.clock.as_micros())
        .bind(survey.stored.as_micros())
        .fetch_all(tx.connection()?)
        .await
        .map_err(store_error)?;
        for id in &ids {
            let row = tx.fetch_one(super::keys::id_query(raw::id(id)?)).await?;
            let detail = Some("expired".to_owned());
            let entry = key_entry(AuditAction::Revoke, &rows::read(&row)?, detail);
            audit(&mut tx, &entry, &Actor::service()).await?;
        }
        let tokens: Vec<Vec<u8>> = sqlx::query_scalar(
            "UPDATE caller_tokens SET revoke_time = ?1, revoked = 1, changed_by = 'keyward'
              WHERE revoke_time IS NULL AND expire_time > ?1 AND expire_time <= ?2
             RETURNING token_id",
        )
        .bind(survey.clock.as_micros())
        .bind(survey.stored.as_micros())
        .fetch_all(tx.connection()?)
        .await
        .map_err(store_error)?;
        for token in &tokens {
            let detail = Some("expired".to_owned());
            let entry = token_entry(AuditAction::TokenRevoke, raw::id(token)?, detail);
            audit(&mut tx, &entry, &Actor::service()).await?;
        }
        tx.commit().await?;
        Ok((ids.len() + tokens.len()) as u64)
    }

    async fn lower(&mut self, survey: &TimeSurvey, reason: &str) -> Result<()> {
        let mut tx = self.write().await?;
        let lower = sqlx::query("UPDATE store_clock SET newest = ?, lowered = lowered + 1");
        tx.execute(lower.bind(survey.clock.as_micros())).await?;
        for text in [
            "UPDATE key_uses SET last_use = min(last_use, ?1), last_refused = min(last_refused, ?1)
              WHERE last_use > ?1 OR last_refused > ?1",
            "UPDATE webhook_events
                SET time = min(time, ?1), due = min(due, ?1), done_time = min(done_time, ?1)
              WHERE time > ?1 OR due > ?1 OR done_time > ?1",
            "UPDATE webhooks SET seen_time = ?1 WHERE seen_time > ?1",
        ] {
            let statement = sqlx::query(text).bind(survey.clock.as_micros());
            tx.execute(statement).await?;
        }
        let entry = sqlx::query(
            "INSERT INTO audit (time, actor, action, detail) VALUES (?, ?, 'clock_lower', ?)",
        );
        let entry = entry
            .bind(survey.clock.as_micros())
            .bind(Actor::service().name)
            .bind(reason.to_owned());
        tx.execute(entry).await?;
        tx.commit().await?;
        *self.last.lock() = (survey.clock, self.clock.boot());
        Ok(())
    }
}

fn keys(found: &[SqliteRow]) -> Result<ExpiringKeys> {
    Ok(ExpiringKeys {
        listed: found.iter().map(rows::read).collect::<Result<_>>()?,
        count: match found.first() {
            Some(row) => Columns(row).revision("count")?,
            None => 0,
        },
    })
}
