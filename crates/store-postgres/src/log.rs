//! The log on Postgres: start, tail, trim. One statement, so one snapshot, reads all that a
//! decision depends on.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::connection::Connection;
use super::failure::Failure;
use super::pool::{Lease, Statement};
use super::{PostgresStore, rows};
use keyward_core::fence::{Epoch, MAX_ROWS, Page, START_BEHIND, Start};
use keyward_store::{Log, Result, raw};

/// How long a log row is kept.
const RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// The query of a page: each row holds the state of the log and one change. The first parameter is
/// `applied`, the second the maximal number of rows.
macro_rules! page {
    ($from:literal) => {
        concat!(
            "SELECT head.revision AS head, head.mark AS head_mark, pruned_to, incarnation,
                    (SELECT store_time()) AS now,
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
    /// Starts so far before the head that an instance reads the rest in some pages, and learns which
    /// entries of a shared cache are outdated.
    async fn start(&self) -> Result<Start> {
        let taken_at = self.clock.boot();
        let mut lease = self.cluster.members.lease().await?;
        let row = lease
            .fetch_one(
                sqlx::query(
                    "SELECT start.revision, start.mark, incarnation, store_time() AS now
                   FROM log_state
                  CROSS JOIN (SELECT revision FROM key_changes
                               ORDER BY revision DESC LIMIT 1) AS head
                   JOIN key_changes AS start
                     ON start.revision = greatest(pruned_to, head.revision - $1)",
                )
                .bind(raw::parameter(START_BEHIND)?),
            )
            .await?;
        let applied = rows::revision(&row, "revision")?;
        let incarnation = rows::revision(&row, "incarnation")?;
        let start = Start {
            epoch: lease.connection().epoch(incarnation),
            floor: applied,
            applied,
            mark: rows::mark(&row, "mark")?,
            database_time: rows::time(&row, "now")?,
            taken_at,
        };
        lease.done();
        Ok(start)
    }

    async fn tail(&self, applied: u64) -> Result<Page> {
        let statement = bind_position(sqlx::query(page!("")), applied)?;
        Ok(self.cluster.tail.run(statement, read_page).await?)
    }

    async fn trim(&self) -> Result<u64> {
        let trim = sqlx::query("SELECT trim_log($1) AS trimmed").bind(rows::interval(RETENTION));
        let mut lease = self.writers.lease().await?;
        let row = lease.fetch_one(trim).await?;
        lease.done();
        rows::revision(&row, "trimmed")
    }

    async fn near_bound(&self) -> Result<Option<Duration>> {
        Ok(None)
    }

    async fn set_near_bound(&self, _: Option<Duration>) -> Result<()> {
        Ok(())
    }
}

/// The epoch of what was read over this connection: a server keeps its history as long as the connection
/// lasts.
pub(super) async fn epoch(lease: &mut Lease<'_>) -> Result<Epoch, Failure> {
    let row = lease
        .fetch_one(sqlx::query("SELECT incarnation FROM log_state"))
        .await?;
    let incarnation = rows::revision(&row, "incarnation")?;
    Ok(lease.connection().epoch(incarnation))
}

/// Binds the parameters of a `page!` query.
pub(super) fn bind_position(statement: Statement, applied: u64) -> Result<Statement> {
    let limit = raw::limit(MAX_ROWS);
    Ok(statement.bind(raw::parameter(applied)?).bind(limit))
}

/// The page in the rows of a `page!` query.
pub(super) fn read_page(found: &[PgRow], connection: &Connection) -> Result<Page> {
    let first = rows::first(found)?;
    let mut changes = Vec::with_capacity(found.len());
    for row in found {
        if rows::column::<Option<i64>>(row, "revision")?.is_some() {
            changes.push(rows::read(row)?);
        }
    }
    let mark_at_applied: Option<&[u8]> = rows::column(first, "mark_at_applied")?;
    Ok(Page {
        epoch: connection.epoch(rows::revision(first, "incarnation")?),
        head: rows::revision(first, "head")?,
        head_mark: rows::mark(first, "head_mark")?,
        pruned_to: rows::revision(first, "pruned_to")?,
        mark_at_applied: mark_at_applied.map(raw::mark).transpose()?,
        database_time: rows::time(first, "now")?,
        rows: changes,
    })
}
