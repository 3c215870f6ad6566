//! The events for webhooks on SQLite. The triggers of the schema write them.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteRow;

use super::{SqliteStore, Statement, rows, store_error};
use keyward_core::key::Timestamp;
use keyward_store::webhooks::{
    Dialect, EXPIRING_STEP, FORGOTTEN_AFTER, GONE, KEPT, REVIVE, STATUS,
};
use keyward_store::{
    Attempt, ClaimedEvent, EventKind, Outbox, Replay, Replayed, Result, Webhook, WebhookStatus, raw,
};

/// A write transaction has stored its time.
const DIALECT: Dialect = Dialect {
    now: "(SELECT newest FROM store_clock)",
    lock: "",
    attempts: "(SELECT value ->> 0 AS id, value ->> 1 AS claims, value ->> 2 AS state, value ->> 3 AS pause
                  FROM json_each($1)) AS o",
};

/// The live keys that expire by parameter 1 and about which no event was written, with their expiry.
macro_rules! expiring {
    () => {
        "FROM api_keys AS k
          WHERE expire_time > $2 AND expire_time <= $1 AND revoke_time IS NULL
            AND NOT EXISTS (SELECT 1 FROM expiry_notices AS n
                             WHERE n.key_id = k.key_id AND n.expire_time = k.expire_time)
          ORDER BY expire_time, key_id LIMIT $3"
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
        let claimed = tx.fetch_all(claim.bind(micros(lease))).await?;
        tx.commit().await?;
        claimed.iter().map(event).collect()
    }

    async fn note_attempts(&self, attempts: &[Attempt]) -> Result<()> {
        let ended = attempts.iter().map(|attempt| {
            let (state, pause) = attempt.state();
            (attempt.event, attempt.claims, state, micros(pause))
        });
        let ended = rows::to_json(&ended.collect::<Vec<_>>())?;
        let mut tx = self.write().await?;
        for text in [DIALECT.note(), DIALECT.release()] {
            tx.execute(about(text, &ended)).await?;
        }
        tx.commit().await
    }

    async fn note_gone(&self, webhook: &str) -> Result<()> {
        let mut tx = self.write().await?;
        tx.execute(sqlx::query(GONE).bind(webhook.to_owned()))
            .await?;
        tx.commit().await
    }

    async fn webhook_status(&self) -> Result<Vec<WebhookStatus>> {
        let found = sqlx::query(STATUS).fetch_all(&self.readers).await;
        let read = |row| {
            let names: Vec<String> = rows::json(row, "events")?;
            Ok(WebhookStatus {
                webhook: Webhook::stored(rows::column(row, "name")?, &names)?,
                waiting: raw::revision(rows::column(row, "waiting")?)?,
                oldest: rows::time(row, "oldest")?,
                dead: raw::revision(rows::column(row, "dead")?)?,
                is_gone: rows::column(row, "gone")?,
            })
        };
        found.map_err(store_error)?.iter().map(read).collect()
    }

    async fn replay_events(&self, replay: &Replay) -> Result<u64> {
        let mut tx = self.write().await?;
        tx.execute(sqlx::query(REVIVE).bind(replay.webhook.clone()))
            .await?;
        let text = DIALECT.replay(&replay.events);
        let statement = about(text, &replay.webhook).bind(replay.until.as_micros());
        let statement = match &replay.events {
            Replayed::Message(id) => statement.bind(id.to_vec()),
            Replayed::Since(time) => statement.bind(time.as_micros()),
            Replayed::Dead => statement,
        };
        let replayed = tx.execute(statement).await?;
        tx.commit().await?;
        Ok(replayed)
    }

    async fn note_expiring(&self, notice: Duration) -> Result<u64> {
        let now = self.now();
        let (end, now) = (now.plus(notice).as_micros(), now.as_micros());
        let bound = |statement: Statement| statement.bind(end).bind(now).bind(EXPIRING_STEP);
        let any = bound(sqlx::query(concat!("SELECT 1 ", expiring!())));
        let any = any.fetch_optional(&self.readers).await;
        if any.map_err(store_error)?.is_none() {
            return Ok(0);
        }
        let mut tx = self.write().await?;
        let tell = concat!(
            "INSERT INTO webhook_event (key_id, type, at) SELECT key_id, 'key.expiring', expire_time ",
            expiring!()
        );
        tx.execute(bound(sqlx::query(tell))).await?;
        let note = concat!(
            "INSERT OR REPLACE INTO expiry_notices (key_id, expire_time) SELECT key_id, expire_time ",
            expiring!()
        );
        let noted = tx.execute(bound(sqlx::query(note))).await?;
        tx.commit().await?;
        Ok(noted)
    }

    async fn trim_outbox(&self) -> Result<u64> {
        let mut tx = self.write().await?;
        let (forgotten, expired) = (DIALECT.forget(), DIALECT.forget_expired());
        for (text, age) in [(forgotten, FORGOTTEN_AFTER), (expired, KEPT)] {
            tx.execute(sqlx::query(AssertSqlSafe(text)).bind(micros(age)))
                .await?;
        }
        let trim = sqlx::query(AssertSqlSafe(DIALECT.trim())).bind(micros(KEPT));
        let trimmed = tx.execute(trim).await?;
        tx.commit().await?;
        Ok(trimmed)
    }
}

/// A statement with its first parameter.
fn about(text: String, first: &str) -> Statement {
    sqlx::query(AssertSqlSafe(text)).bind(first.to_owned())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn event(row: &SqliteRow) -> Result<ClaimedEvent> {
    Ok(ClaimedEvent {
        id: rows::column(row, "id")?,
        message: *raw::id(rows::column(row, "message_id")?)?.as_bytes(),
        key: raw::id(rows::column(row, "key_id")?)?,
        kind: EventKind::stored(rows::column(row, "type")?)?,
        time: Timestamp::from_micros(rows::column(row, "time")?),
        at: rows::time(row, "at")?,
        claims: rows::column(row, "claims")?,
        failures: rows::column(row, "failures")?,
    })
}
