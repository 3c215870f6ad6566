//! The events for webhooks on Postgres. The triggers of the schema write them. Their states are written on the
//! connection of the use of keys, and these commits do not wait for the disk.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::failure::Failure;
use super::pool::{Lease, Statement};
use super::{PostgresStore, rows};
use keyward_store::webhooks::{
    Dialect, EXPIRING_STEP, FORGOTTEN_AFTER, GONE, KEPT, REVIVE, STATUS,
};
use keyward_store::{
    Attempt, ClaimedEvent, EventKind, Outbox, Replay, Replayed, Result, Webhook, WebhookStatus,
};

const DIALECT: Dialect = Dialect {
    now: "(SELECT store_time())",
    lock: "FOR UPDATE SKIP LOCKED",
    attempts: "unnest($1::bigint[], $2::bigint[], $3::text[], $4::interval[]) AS o(id, claims, state, pause)",
};

/// Instances that note at the same time wait for each other, and only the first one writes an event.
const NOTE_EXPIRING: &str = "
    WITH clock AS MATERIALIZED (SELECT store_time() AS now),
         soon AS MATERIALIZED (
        SELECT key_id, expire_time FROM api_keys AS k
         WHERE expire_time > (SELECT now FROM clock) AND expire_time <= (SELECT now + $1 FROM clock)
           AND revoke_time IS NULL
           AND NOT EXISTS (SELECT FROM expiry_notices AS n
                            WHERE n.key_id = k.key_id AND n.expire_time = k.expire_time)
         ORDER BY expire_time, key_id LIMIT $2),
         noted AS (
        INSERT INTO expiry_notices AS n (key_id, expire_time)
        SELECT key_id, expire_time FROM soon ORDER BY key_id
            ON CONFLICT (key_id) DO UPDATE SET expire_time = excluded.expire_time
         WHERE n.expire_time <> excluded.expire_time
        RETURNING key_id, expire_time),
         told AS (
        INSERT INTO webhook_events (webhook, key_id, type, time, at, due)
        SELECT w.name, key_id, 'key.expiring', now, expire_time, now FROM noted, clock, webhooks AS w
         WHERE 'key.expiring' = ANY (w.events))
    SELECT count(*) AS noted FROM noted";

#[async_trait]
impl Outbox for PostgresStore {
    async fn name_webhooks(&self, webhooks: &[Webhook]) -> Result<()> {
        for webhook in webhooks {
            let events = webhook.event_names();
            let name = sqlx::query(
                "INSERT INTO webhooks (name, events, seen_time) VALUES ($1, $2, store_time())
                     ON CONFLICT (name) DO UPDATE
                    SET events = excluded.events, seen_time = excluded.seen_time",
            );
            let name = name.bind(webhook.name.clone()).bind(events);
            let named = self.noters.fetch_all(name).await;
            named.map_err(Failure::of_a_commit)?;
        }
        Ok(())
    }

    async fn claim_events(
        &self,
        webhook: &str,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedEvent>> {
        // Most polls find nothing, and take one round trip.
        let is_due = about(DIALECT.is_due(), webhook);
        if self.readers.fetch_optional(is_due).await?.is_none() {
            return Ok(Vec::new());
        }
        let mut transaction = self.begin_notes().await?;
        let queue = about(DIALECT.queue(), webhook);
        transaction.execute(queue).await?;
        let claim = about(DIALECT.claim(), webhook).bind(i64::from(limit));
        let claim = claim.bind(rows::interval(lease));
        let claimed = transaction.fetch_all(claim).await?;
        transaction.commit().await?;
        claimed.iter().map(event).collect()
    }

    async fn note_attempts(&self, attempts: &[Attempt]) -> Result<()> {
        let mut transaction = self.begin_notes().await?;
        for text in [DIALECT.note(), DIALECT.release()] {
            let (states, pauses): (Vec<_>, Vec<_>) = attempts
                .iter()
                .map(|attempt| {
                    let (state, pause) = attempt.state();
                    (state, rows::interval(pause))
                })
                .unzip();
            let events = attempts.iter().map(|attempt| attempt.event);
            let claims = attempts.iter().map(|attempt| attempt.claims);
            let statement = sqlx::query(AssertSqlSafe(text))
                .bind(events.collect::<Vec<_>>())
                .bind(claims.collect::<Vec<_>>())
                .bind(states)
                .bind(pauses);
            transaction.execute(statement).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn note_gone(&self, webhook: &str) -> Result<()> {
        let gone = sqlx::query(GONE).bind(webhook.to_owned());
        let noted = self.noters.fetch_all(gone).await;
        Ok(noted.map(drop).map_err(Failure::of_a_commit)?)
    }

    async fn webhook_status(&self) -> Result<Vec<WebhookStatus>> {
        let found = self.readers.fetch_all(sqlx::query(STATUS)).await?;
        let read = |row| {
            let names: Vec<String> = rows::column(row, "events")?;
            Ok(WebhookStatus {
                webhook: Webhook::stored(rows::column(row, "name")?, &names)?,
                waiting: rows::revision(row, "waiting")?,
                oldest: rows::optional_time(row, "oldest")?,
                dead: rows::revision(row, "dead")?,
                is_gone: rows::column(row, "gone")?,
            })
        };
        found.iter().map(read).collect()
    }

    async fn replay_events(&self, replay: &Replay) -> Result<u64> {
        let mut transaction = self.writers.begin().await?;
        let revive = sqlx::query(REVIVE).bind(replay.webhook.clone());
        transaction.execute(revive).await?;
        let text = DIALECT.replay(&replay.events);
        let statement = about(text, &replay.webhook).bind(rows::instant(replay.until)?);
        let statement = match &replay.events {
            Replayed::Message(id) => statement.bind(Uuid::from_bytes(*id)),
            Replayed::Since(time) => statement.bind(rows::instant(*time)?),
            Replayed::Dead => statement,
        };
        let replayed = transaction.execute(statement).await?;
        transaction.commit().await?;
        Ok(replayed)
    }

    async fn note_expiring(&self, notice: Duration) -> Result<u64> {
        let note = sqlx::query(NOTE_EXPIRING)
            .bind(rows::interval(notice))
            .bind(EXPIRING_STEP);
        let noted = self.noters.fetch_all(note).await;
        let noted = noted.map_err(Failure::of_a_commit)?;
        rows::revision(rows::first(&noted)?, "noted")
    }

    async fn trim_outbox(&self) -> Result<u64> {
        let mut transaction = self.writers.begin().await?;
        let (forgotten, expired) = (DIALECT.forget(), DIALECT.forget_expired());
        for (text, age) in [(forgotten, FORGOTTEN_AFTER), (expired, KEPT)] {
            let statement = sqlx::query(AssertSqlSafe(text)).bind(rows::interval(age));
            transaction.execute(statement).await?;
        }
        let trim = sqlx::query(AssertSqlSafe(DIALECT.trim())).bind(rows::interval(KEPT));
        let trimmed = transaction.execute(trim).await?;
        transaction.commit().await?;
        Ok(trimmed)
    }
}

impl PostgresStore {
    /// Begins a transaction whose commit need not be durable.
    async fn begin_notes(&self) -> std::result::Result<Lease<'_>, Failure> {
        let mut lease = self.noters.begin().await?;
        let set = sqlx::query("SET LOCAL synchronous_commit = 'off'");
        lease.execute(set).await?;
        Ok(lease)
    }
}

/// A statement with its first parameter.
fn about(text: String, first: &str) -> Statement {
    sqlx::query(AssertSqlSafe(text)).bind(first.to_owned())
}

fn event(row: &PgRow) -> Result<ClaimedEvent> {
    Ok(ClaimedEvent {
        id: rows::column(row, "id")?,
        message: rows::column::<Uuid>(row, "message_id")?.into_bytes(),
        key: rows::id(row, "key_id")?,
        kind: EventKind::stored(rows::column(row, "type")?)?,
        time: rows::time(row, "time")?,
        at: rows::optional_time(row, "at")?,
        claims: rows::column(row, "claims")?,
        failures: rows::column(row, "failures")?,
    })
}
