//! The log on Postgres: where a start begins, one page of it, and trimming. All that decides comes
//! from one statement, which is one snapshot.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;

use super::link::Link;
use super::links::Statement;
use super::{LONG, LONG_ANSWER, PostgresStore, rows};
use keyward_core::fence::{Change, MAX_ROWS, Page, Start};
use keyward_core::key::KeyId;
use keyward_store::{Log, Result};

/// How long a log row is kept.
const KEPT: Duration = Duration::from_secs(24 * 3_600);

/// What stands in each row of a page beside the change, and how the changes come with it: the
/// first parameter is `applied`, the second how many rows at most.
macro_rules! page {
    ($from:literal) => {
        concat!(
            "SELECT head.revision AS head, head.mark AS head_mark, pruned_to, incarnation,
                    store_time() AS now,
                    (SELECT mark FROM key_changes WHERE revision = $1) AS mark_at_applied,
                    changes.revision, changes.mark, changes.key_id
               FROM log_state
              CROSS JOIN (SELECT revision, mark FROM key_changes
                           ORDER BY revision DESC LIMIT 1) AS head ",
            $from,
            " LEFT JOIN LATERAL (SELECT revision, mark, key_id FROM key_changes
                                  WHERE revision > $1 ORDER BY revision LIMIT $2) AS changes ON true
              ORDER BY changes.revision"
        )
    };
}

pub(super) use page;

#[async_trait]
impl Log for PostgresStore {
    /// From `pruned_to` on: the first heartbeat reads all that the log still holds.
    async fn start(&self) -> Result<Start> {
        let taken_at = self.clock.boot();
        let mut lease = self.members.lease().await?;
        let row = lease
            .fetch_one(sqlx::query(
                "SELECT pruned_to, incarnation, mark, store_time() AS now
                   FROM log_state JOIN key_changes ON revision = pruned_to",
            ))
            .await?;
        let pruned_to = rows::revision(&row, "pruned_to")?;
        let start = Start {
            epoch: lease.link().epoch(rows::revision(&row, "incarnation")?),
            floor: pruned_to,
            applied: pruned_to,
            mark: rows::mark(rows::column(&row, "mark")?)?,
            database_time: rows::time(&row, "now")?,
            taken_at,
        };
        lease.done();
        Ok(start)
    }

    async fn tail(&self, applied: u64) -> Result<Page> {
        let statement = with_place(sqlx::query(page!("")), applied)?;
        self.on_tail(statement).await
    }

    async fn trim(&self) -> Result<u64> {
        let kept = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
        let kept = PgInterval {
            months: 0,
            days: 0,
            microseconds: kept,
        };
        let mut lease = self.writers.begin().await?;
        lease.execute(sqlx::query(LONG)).await?;
        let trimmed = sqlx::query("SELECT trim_log($1) AS trimmed").bind(kept);
        let row = lease.fetch_one_within(LONG_ANSWER, trimmed).await?;
        lease.commit().await?;
        rows::revision(&row, "trimmed")
    }
}

/// Binds the place that a page is read from.
pub(super) fn with_place(statement: Statement, applied: u64) -> Result<Statement> {
    let most = i64::try_from(MAX_ROWS + 1).unwrap_or(i64::MAX);
    Ok(statement.bind(rows::bindable(applied)?).bind(most))
}

/// The page in the rows of a `page!` statement.
pub(super) fn read_page(found: &[PgRow], link: &Link) -> Result<Page> {
    let first = found
        .first()
        .ok_or_else(|| rows::damaged("log_state or key_changes is empty"))?;
    let mut changes = Vec::with_capacity(found.len());
    for row in found {
        if rows::column::<Option<i64>>(row, "revision")?.is_some() {
            changes.push(change(row)?);
        }
    }
    Ok(Page {
        epoch: link.epoch(rows::revision(first, "incarnation")?),
        head: rows::revision(first, "head")?,
        head_mark: rows::mark(rows::column(first, "head_mark")?)?,
        pruned_to: rows::revision(first, "pruned_to")?,
        mark_at_applied: rows::column::<Option<&[u8]>>(first, "mark_at_applied")?
            .map(rows::mark)
            .transpose()?,
        database_time: rows::time(first, "now")?,
        rows: changes,
    })
}

fn change(row: &PgRow) -> Result<Change> {
    let id: KeyId = rows::id(row, "key_id")?;
    Ok(Change {
        revision: rows::revision(row, "revision")?,
        mark: rows::mark(rows::column(row, "mark")?)?,
        id,
    })
}
