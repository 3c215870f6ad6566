//! The events for webhooks on SQLite. The triggers of the schema write them.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use super::rows::{self, Columns};
use super::{SqliteStore, Statement, store_error};
use keyward_core::key::KeyId;
use keyward_store::rows::Row as _;
use keyward_store::webhooks::{
    Dialect, EXPIRING_LOOKED_AT, EXPIRING_STEP, KEPT, REVIVE, WITH_WAITING, status,
};
use keyward_store::{
    Attempt, AttemptOutcome, ClaimedEvent, EventPlace, ExpiryPlace, ExpiryStep, Outbox, Replay,
    Replayed, Result, Webhook, WebhookStatus, raw,
};

/// A write transaction has stored its time.
const DIALECT: Dialect = Dialect {
    now: "(SELECT newest FROM store_clock)",
    lock: "",
    lock_in_order: "",
    attempts: "(SELECT value ->> 0 AS id, value ->> 1 AS claims, value ->> 2 AS failures, value ->> 3 AS state,
                       value ->> 4 AS pause FROM json_each($1)) AS o",
};

/// The live keys that expire by parameter 1, behind the place in parameters 2 and 3: as many as one
/// step looks at. Those in `soon` have no event yet, and a webhook gets such events.
macro_rules! expiring {
    () => {
        "WITH looked_at AS MATERIALIZED (
             SELECT key_id, expire_time FROM api_keys
              WHERE (expire_time, key_id) > ($2, $3) AND expire_time <= $1 AND revoke_time IS NULL
              ORDER BY expire_time, key_id LIMIT $5),
              soon AS MATERIALIZED (
             SELECT key_id, expire_time FROM looked_at AS k
              WHERE EXISTS (SELECT 1 FROM webhooks, json_each(events) WHERE value = 'key.expiring')
                AND NOT EXISTS (SELECT 1 FROM expiry_notices AS n
                                 WHERE n.key_id = k.key_id AND n.expire_time = k.expire_time)
              ORDER BY expire_time, key_id LIMIT $4) "
    };
}

#[async_trait]
impl Outbox for SqliteStore {
    async fn name_webhooks(&self, webhooks: &[Webhook]) -> Result<()> {
        let mut tx = self.write().await?;
        let now = tx.now.as_micros();
        for webhook in webhooks {
            let events = webhook.event_names();
            let name = sqlx::query(
                "INSERT INTO webhooks (name, events, seen_time) VALUES ($1, $2, $3)
                     ON CONFLICT (name) DO UPDATE
                    SET events = excluded.events, seen_time = excluded.seen_time",
            );
            let name = name.bind(webhook.name.clone());
            tx.execute(name.bind(rows::to_json(&events)?).bind(now))
                .await?;
        }
        tx.commit().await
    }

    async fn claim_events(
        &self,
        webhook: &str,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedEvent>> {
        // A poll without events takes no turn of the writer.
        let is_due = Dialect {
            now: "$2",
            ..DIALECT
        }
        .is_due();
        let is_due = about(is_due, webhook).bind(self.now().as_micros());
        let is_due = is_due.fetch_optional(&self.readers).await;
        if is_due.map_err(store_error)?.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.write().await?;
        tx.execute(about(DIALECT.queue(), webhook)).await?;
        let claim = about(DIALECT.claim(), webhook).bind(limit);
        let claimed = tx.fetch_all(claim.bind(raw::micros(lease))).await?;
        tx.commit().await?;
        claimed.iter().map(rows::read).collect()
    }

    async fn note_attempts(&self, attempts: &[Attempt]) -> Result<()> {
        let ended = attempts.iter().map(|attempt| {
            let (state, pause) = attempt.state();
            let Attempt {
                event,
                claims,
                failures,
                ..
            } = *attempt;
            (event, claims, failures, state, raw::micros(pause))
        });
        let ended = rows::to_json(&ended.collect::<Vec<_>>())?;
        let mut tx = self.write().await?;
        for text in DIALECT.attempts_end() {
            tx.execute(about(text, &ended)).await?;
        }
        tx.commit().await
    }

    async fn webhook_status(&self) -> Result<Vec<WebhookStatus>> {
        self.read_all(sqlx::query(AssertSqlSafe(status()))).await
    }

    async fn replay_events(&self, replay: &Replay) -> Result<Vec<EventPlace>> {
        let mut tx = self.write().await?;
        tx.execute(sqlx::query(REVIVE).bind(replay.webhook.clone()))
            .await?;
        let (time, id) = replay.start();
        let text = DIALECT.replay(&replay.events);
        let statement = about(text, &replay.webhook)
            .bind(replay.until.as_micros())
            .bind(time.as_micros())
            .bind(id);
        let statement = match &replay.events {
            Replayed::Message(id) => statement.bind(id.to_vec()),
            _ => statement,
        };
        let replayed = tx.fetch_all(statement).await?;
        tx.commit().await?;
        replayed.iter().map(rows::read).collect()
    }

    async fn note_expiring(&self, notice: Duration, place: ExpiryPlace) -> Result<ExpiryStep> {
        let now = self.now();
        let end = now.plus(notice).as_micros();
        let (begin, id) = place.max((now, KeyId::from_bytes([u8::MAX; 16])));
        let bound = |text: &'static str| {
            let statement = sqlx::query(text).bind(end).bind(begin.as_micros());
            let statement = statement.bind(rows::id(id));
            statement.bind(EXPIRING_STEP).bind(EXPIRING_LOOKED_AT)
        };
        let look = bound(concat!(
            expiring!(),
            "SELECT any_soon, expire_time, key_id FROM (SELECT EXISTS (SELECT 1 FROM soon) AS any_soon)
               LEFT JOIN (SELECT expire_time, key_id FROM looked_at ORDER BY expire_time, key_id
                           LIMIT 1 OFFSET $5 - 1)"
        ));
        let look = look.fetch_one(&self.readers).await.map_err(store_error)?;
        let last = match Columns(&look).optional_time("expire_time")? {
            Some(time) => Some((time, Columns(&look).id("key_id")?)),
            None => None,
        };
        let mut noted = 0;
        if rows::column(&look, "any_soon")? {
            let mut tx = self.write().await?;
            tx.execute(bound(concat!(
                expiring!(),
                "INSERT INTO webhook_event (key_id, type, at) SELECT key_id, 'key.expiring', expire_time FROM soon"
            )))
            .await?;
            let note = bound(concat!(
                expiring!(),
                "INSERT OR REPLACE INTO expiry_notices (key_id, expire_time) SELECT key_id, expire_time FROM soon"
            ));
            noted = tx.execute(note).await?;
            tx.commit().await?;
        }
        Ok(ExpiryStep::new(noted, place, last))
    }

    async fn trim_outbox(&self) -> Result<u64> {
        let mut trimmed = 0;
        for (text, age) in DIALECT.trim() {
            let mut tx = self.write().await?;
            let statement = sqlx::query(AssertSqlSafe(text)).bind(raw::micros(age));
            trimmed += tx.execute(statement).await?;
            tx.commit().await?;
        }
        let webhooks = sqlx::query(WITH_WAITING).fetch_all(&self.readers).await;
        for webhook in &webhooks.map_err(store_error)? {
            let old = about(DIALECT.waits_too_long(), rows::column(webhook, "webhook")?);
            let old: Vec<ClaimedEvent> = self.read_all(old.bind(raw::micros(KEPT))).await?;
            let given_up = old.iter().map(|event| event.ended(AttemptOutcome::Dead));
            let given_up: Vec<_> = given_up.collect();
            if !given_up.is_empty() {
                self.note_attempts(&given_up).await?;
            }
            trimmed += given_up.len() as u64;
        }
        Ok(trimmed)
    }
}

/// A statement with its first parameter.
fn about(text: String, first: &str) -> Statement {
    sqlx::query(AssertSqlSafe(text)).bind(first.to_owned())
}

#[cfg(test)]
mod tests;
