//! The events for webhooks on Postgres. The triggers of the schema write them. Their states are written on the
//! connection of the use of keys, and these commits do not wait for the disk.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::PostgresStore;
use super::failure::Failure;
use super::pool::{Lease, Statement};
use super::rows::{self, Columns};
use keyward_store::rows::Row as _;
use keyward_store::webhooks::{
    Dialect, EXPIRING_LOOKED_AT, EXPIRING_STEP, KEPT, REVIVE, WITH_WAITING, status,
};
use keyward_store::{
    Attempt, AttemptOutcome, ClaimedEvent, EventPlace, ExpiryPlace, ExpiryStep, Outbox, Replay,
    Replayed, Result, Webhook, WebhookStatus,
};

const DIALECT: Dialect = Dialect {
    now: "(SELECT store_time())",
    lock: "FOR UPDATE SKIP LOCKED",
    lock_in_order: "FOR UPDATE",
    attempts: "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::interval[])
                   AS o(id, claims, failures, state, pause)",
};

/// Instances that note at the same time wait for each other, and only the first one writes an event. The answer
/// has the last key that the step has looked at, if it has looked at as many as it may.
const NOTE_EXPIRING: &str = "
    WITH clock AS MATERIALIZED (SELECT store_time() AS now),
         looked_at AS MATERIALIZED (
        SELECT key_id, expire_time FROM api_keys
         WHERE (expire_time, key_id) > (greatest($2, (SELECT now FROM clock)), $3)
           AND expire_time > (SELECT now FROM clock) AND expire_time <= (SELECT now + $1 FROM clock)
           AND revoke_time IS NULL
         ORDER BY expire_time, key_id LIMIT $5),
         soon AS MATERIALIZED (
        SELECT key_id, expire_time FROM looked_at AS k
         WHERE EXISTS (SELECT FROM webhooks WHERE 'key.expiring' = ANY (events))
           AND NOT EXISTS (SELECT FROM expiry_notices AS n
                            WHERE n.key_id = k.key_id AND n.expire_time = k.expire_time)
         ORDER BY expire_time, key_id LIMIT $4),
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
    SELECT noted, expire_time, key_id FROM (SELECT count(*) AS noted FROM noted) AS n
      LEFT JOIN (SELECT expire_time, key_id FROM looked_at ORDER BY expire_time, key_id OFFSET $5 - 1) AS last
             ON true";

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
        claimed.iter().map(rows::read).collect()
    }

    async fn note_attempts(&self, attempts: &[Attempt]) -> Result<()> {
        let mut transaction = self.begin_notes().await?;
        for text in DIALECT.attempts_end() {
            let (states, pauses): (Vec<_>, Vec<_>) = attempts
                .iter()
                .map(|attempt| {
                    let (state, pause) = attempt.state();
                    (state, rows::interval(pause))
                })
                .unzip();
            let events = attempts.iter().map(|attempt| attempt.event);
            let claims = attempts.iter().map(|attempt| attempt.claims);
            let failures = attempts.iter().map(|attempt| attempt.failures);
            let statement = sqlx::query(AssertSqlSafe(text))
                .bind(events.collect::<Vec<_>>())
                .bind(claims.collect::<Vec<_>>())
                .bind(failures.collect::<Vec<_>>())
                .bind(states)
                .bind(pauses);
            transaction.execute(statement).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn webhook_status(&self) -> Result<Vec<WebhookStatus>> {
        let found = self
            .readers
            .fetch_all(sqlx::query(AssertSqlSafe(status())))
            .await?;
        found.iter().map(rows::read).collect()
    }

    async fn replay_events(&self, replay: &Replay) -> Result<Vec<EventPlace>> {
        let mut transaction = self.writers.begin().await?;
        let revive = sqlx::query(REVIVE).bind(replay.webhook.clone());
        transaction.execute(revive).await?;
        let (time, id) = replay.start();
        let text = DIALECT.replay(&replay.events);
        let statement = about(text, &replay.webhook)
            .bind(rows::instant(replay.until)?)
            .bind(rows::instant(time)?)
            .bind(id);
        let statement = match &replay.events {
            Replayed::Message(id) => statement.bind(Uuid::from_bytes(*id)),
            _ => statement,
        };
        let replayed = transaction.fetch_all(statement).await?;
        transaction.commit().await?;
        replayed.iter().map(rows::read).collect()
    }

    async fn note_expiring(&self, notice: Duration, place: ExpiryPlace) -> Result<ExpiryStep> {
        let note = sqlx::query(NOTE_EXPIRING)
            .bind(rows::interval(notice))
            .bind(rows::instant(place.0)?)
            .bind(rows::uuid(place.1))
            .bind(EXPIRING_STEP)
            .bind(EXPIRING_LOOKED_AT);
        let noted = self.noters.fetch_all(note).await;
        let noted = noted.map_err(Failure::of_a_commit)?;
        let row = rows::first(&noted)?;
        let last = match Columns(row).optional_time("expire_time")? {
            Some(time) => Some((time, rows::id(row, "key_id")?)),
            None => None,
        };
        Ok(ExpiryStep::new(rows::revision(row, "noted")?, place, last))
    }

    async fn trim_outbox(&self) -> Result<u64> {
        let mut trimmed = 0;
        for (text, age) in DIALECT.trim() {
            let mut transaction = self.writers.begin().await?;
            let statement = sqlx::query(AssertSqlSafe(text)).bind(rows::interval(age));
            trimmed += transaction.execute(statement).await?;
            transaction.commit().await?;
        }
        let webhooks = self.readers.fetch_all(sqlx::query(WITH_WAITING)).await?;
        for webhook in &webhooks {
            let old = about(DIALECT.waits_too_long(), rows::column(webhook, "webhook")?);
            let old = self
                .readers
                .fetch_all(old.bind(rows::interval(KEPT)))
                .await?;
            let given_up = |row| Ok(rows::read::<ClaimedEvent>(row)?.ended(AttemptOutcome::Dead));
            let given_up = old.iter().map(given_up).collect::<Result<Vec<_>>>()?;
            if !given_up.is_empty() {
                self.note_attempts(&given_up).await?;
            }
            trimmed += given_up.len() as u64;
        }
        Ok(trimmed)
    }
}

impl PostgresStore {
    /// Begins a transaction whose commit need not be durable.
    async fn begin_notes(&self) -> Result<Lease<'_>, Failure> {
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
