//! The log on SQLite: start, tail, trim. A tail is a plain read, because the database lock proves
//! what a heartbeat's write proves on a shared store. So a full disk stops only writes.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};

use super::{SqliteStore, rows, store_error};
use keyward_core::fence::{MAX_ROWS, Page, Start};
use keyward_core::key::Timestamp;
use keyward_store::{Log, Result, raw};

/// How long a log row is kept.
const RETENTION: Duration = Duration::from_secs(24 * 3_600);
/// The most rows that one trim deletes.
const TRIM_STEP: u32 = 10_000;

#[async_trait]
impl Log for SqliteStore {
    async fn start(&self) -> Result<Start> {
        let (taken_at, now) = (self.clock.boot(), self.now());
        let mut connection = self.tail.acquire().await.map_err(store_error)?;
        let head = self.head(&mut connection, 0, now).await?;
        // A start has empty caches, so no change before the head matters to it.
        Ok(Start {
            epoch: head.epoch,
            floor: head.head,
            applied: head.head,
            mark: head.head_mark,
            database_time: head.database_time,
            taken_at,
        })
    }

    async fn tail(&self, applied: u64) -> Result<Page> {
        self.check_lock()?;
        // Before the read: the page's time must not include the duration of the read.
        let now = self.now();
        let mut connection = self.tail.acquire().await.map_err(store_error)?;
        // One transaction, so one snapshot.
        let mut tx = connection.begin().await.map_err(store_error)?;
        let mut page = self.head(&mut tx, applied, now).await?;
        if page.head > applied {
            let limit = raw::limit(MAX_ROWS);
            let rows = sqlx::query(
                "SELECT revision, mark, key_id FROM key_changes
                  WHERE revision > ? ORDER BY revision LIMIT ?",
            )
            .bind(raw::parameter(applied)?)
            .bind(limit)
            .fetch_all(&mut *tx)
            .await
            .map_err(store_error)?;
            page.rows = rows.iter().map(rows::read).collect::<Result<_>>()?;
        }
        tx.rollback().await.map_err(store_error)?;
        Ok(page)
    }

    async fn trim(&self) -> Result<u64> {
        let mut tx = self.write().await?;
        let retention = raw::micros(RETENTION);
        let now = tx.now.as_micros();
        let oldest = now.saturating_sub(retention);
        // `pruned_to` becomes the first row that is young enough, or else the last row of the step. A row
        // from the future was written before an operator lowered the time: its age is unknown.
        tx.execute(
            sqlx::query(
                "UPDATE log_state SET pruned_to = (
                 SELECT coalesce(min(revision) FILTER (WHERE time BETWEEN ? AND ?), max(revision))
                   FROM (SELECT revision, time FROM key_changes
                          WHERE revision >= pruned_to ORDER BY revision LIMIT ? + 1))",
            )
            .bind(oldest)
            .bind(now)
            .bind(TRIM_STEP),
        )
        .await?;
        let trimmed = tx
            .execute(sqlx::query(
                "DELETE FROM key_changes WHERE revision < (SELECT pruned_to FROM log_state)",
            ))
            .await?;
        tx.commit().await?;
        Ok(trimmed)
    }

    async fn near_bound(&self) -> Result<Option<Duration>> {
        let bound = sqlx::query("SELECT near_bound FROM log_state");
        let mut connection = self.tail.acquire().await.map_err(store_error)?;
        let row = bound
            .fetch_one(&mut *connection)
            .await
            .map_err(store_error)?;
        let micros: Option<i64> = rows::column(&row, "near_bound")?;
        Ok(micros.map(|micros| Duration::from_micros(micros.unsigned_abs())))
    }

    async fn set_near_bound(&self, bound: Option<Duration>) -> Result<()> {
        let micros = bound.map(raw::micros);
        let mut tx = self.write().await?;
        let set = sqlx::query("UPDATE log_state SET near_bound = ?");
        tx.execute(set.bind(micros)).await?;
        tx.commit().await
    }
}

impl SqliteStore {
    /// The page of an instance at `applied`, without its rows.
    async fn head(
        &self,
        connection: &mut SqliteConnection,
        applied: u64,
        now: Timestamp,
    ) -> Result<Page> {
        let state = sqlx::query(
            "SELECT head.revision AS head, head.mark AS head_mark, pruned_to, incarnation, newest,
                    (SELECT mark FROM key_changes WHERE revision = ?) AS mark_at_applied
               FROM log_state, store_clock,
                    (SELECT revision, mark FROM key_changes ORDER BY revision DESC LIMIT 1) AS head",
        )
        .bind(raw::parameter(applied)?)
        .fetch_one(connection)
        .await
        .map_err(store_error)?;
        let newest = Timestamp::from_micros(rows::column(&state, "newest")?);
        let mark_at_applied = rows::column::<Option<&[u8]>>(&state, "mark_at_applied")?;
        Ok(Page {
            epoch: self.epoch(rows::column(&state, "incarnation")?)?,
            head: raw::revision(rows::column(&state, "head")?)?,
            head_mark: raw::mark(rows::column(&state, "head_mark")?)?,
            pruned_to: raw::revision(rows::column(&state, "pruned_to")?)?,
            mark_at_applied: mark_at_applied.map(raw::mark).transpose()?,
            database_time: newest.max(now),
            rows: Vec::new(),
        })
    }
}
