//! The log: start, tail, trim.

use std::time::Duration;

use async_trait::async_trait;

use super::MemoryStore;
use super::server::{Transaction, Transport};
use keyward_core::fence::{Change, Page, START_BEHIND, Start};
use keyward_store::{Log, Result};

/// How long a log row is kept.
const RETENTION: Duration = Duration::from_secs(24 * 3_600);

#[async_trait]
impl<T: Transport> Log for MemoryStore<T> {
    async fn start(&self) -> Result<Start> {
        let taken_at = self.session.clock.boot();
        let read = move |tx: &mut Transaction<'_>| {
            let database = &*tx.database;
            let behind = database.head().saturating_sub(START_BEHIND);
            let applied = database.pruned_to().max(behind);
            Ok(Start {
                epoch: database.epoch,
                floor: applied,
                applied,
                mark: database.mark_at(applied).unwrap_or_default(),
                database_time: tx.now,
                taken_at,
            })
        };
        self.read("start", read).await
    }

    async fn tail(&self, applied: u64) -> Result<Page> {
        self.read("tail", move |tx| Ok(tx.page(applied))).await
    }

    async fn trim(&self) -> Result<u64> {
        let work = |tx: &mut Transaction<'_>| {
            let (database, now) = (&mut *tx.database, tx.now);
            let before = database.pruned_to();
            let rows = database.log.iter();
            let old = rows.take_while(|row| row.time.plus(RETENTION) < now);
            let old = u64::try_from(old.count()).unwrap_or(u64::MAX);
            database.trim_to(before + old);
            Ok(database.pruned_to() - before)
        };
        self.write("trim", work).await
    }

    async fn near_bound(&self) -> Result<Option<Duration>> {
        Ok(None)
    }

    async fn set_near_bound(&self, _: Option<Duration>) -> Result<()> {
        Ok(())
    }
}

impl Transaction<'_> {
    pub(crate) fn page(&self, applied: u64) -> Page {
        let database = &*self.database;
        let change = |(revision, row): (u64, &super::LogRow)| {
            let id = row.id?;
            Some(Change {
                revision,
                mark: row.mark,
                id,
            })
        };
        Page {
            epoch: database.epoch,
            head: database.head(),
            head_mark: database.mark_at(database.head()).unwrap_or_default(),
            pruned_to: database.pruned_to(),
            mark_at_applied: database.mark_at(applied),
            database_time: self.now,
            rows: database
                .rows_after(applied)
                .take(database.page_rows)
                .filter_map(change)
                .collect(),
        }
    }
}
