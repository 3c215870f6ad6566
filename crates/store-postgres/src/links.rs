//! A few links that calls share. A link comes back only after a clean end: one whose call failed,
//! hung or was dropped is closed, which rolls back whatever it was in. So no half-finished
//! transaction and no late answer can meet the next call (a pool that takes back whatever is
//! dropped would hand them on).

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::{Failure, Kind};
use super::link::{Connector, Link};
use keyward_store::StoreError;

/// How long the answer to a COMMIT is waited for.
const COMMIT: Duration = Duration::from_secs(10);
/// How long a call waits for a link.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) type Statement = Query<'static, Postgres, PgArguments>;

/// At most so many links.
pub(super) struct Links {
    connector: Arc<Connector>,
    idle: Mutex<Vec<Link>>,
    permits: Arc<Semaphore>,
    /// How long an answer is waited for.
    limit: Duration,
}

impl Links {
    pub(super) fn new(connector: Arc<Connector>, most: usize, limit: Duration) -> Self {
        Self {
            connector,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(most)),
            limit,
        }
    }

    /// A link, opened if there is none to use again.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, Failure> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = tokio::time::timeout(PATIENCE, permit).await;
        let Ok(Ok(permit)) = permit else {
            let why = format!("no connection became free within {PATIENCE:?}");
            return Err(StoreError::Unavailable(why).into());
        };
        loop {
            let Some(link) = self.idle.lock().pop() else {
                break;
            };
            if self.connector.is_current(&link) {
                return Ok(Lease::new(self, link, true, permit));
            }
        }
        let link = self.connector.open().await?;
        Ok(Lease::new(self, link, false, permit))
    }

    /// One transaction. A deadlock is tried again by the caller, which holds what to do anew.
    pub(super) async fn begin(&self) -> Result<Lease<'_>, Failure> {
        // An idle link may have died unnoticed: nothing was asked of it yet, so try the next.
        loop {
            let mut lease = self.lease().await?;
            match lease.execute(sqlx::query("BEGIN")).await {
                Ok(_) => return Ok(lease),
                Err(failure) if failure.kind == Kind::Broken && lease.reused => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Closes the links that are not in use.
    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        for link in idle {
            link.close().await;
        }
    }
}

/// A link in use. Dropped without [`Lease::done`], its connection is closed.
pub(super) struct Lease<'l> {
    links: &'l Links,
    link: Link,
    /// It was idle, and may have died meanwhile.
    reused: bool,
    _permit: OwnedSemaphorePermit,
}

impl<'l> Lease<'l> {
    fn new(links: &'l Links, link: Link, reused: bool, permit: OwnedSemaphorePermit) -> Self {
        Self {
            links,
            link,
            reused,
            _permit: permit,
        }
    }

    /// The link, for its epoch.
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Waits for an answer, and notes what a failure says about other links.
    async fn answer<T>(
        &mut self,
        limit: Duration,
        ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Failure> {
        let (connector, era) = (&self.links.connector, Connector::era_of(&self.link));
        let outcome = connector.answer(era, limit, ask(self.link.on())).await;
        outcome.inspect_err(|failure| {
            if failure.kind == Kind::Broken {
                connector.broke(era);
            }
        })
    }

    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64, Failure> {
        let limit = self.links.limit;
        let done = self.answer(limit, async |on| statement.execute(on).await);
        Ok(done.await?.rows_affected())
    }

    pub(super) async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<PgRow>, Failure> {
        let limit = self.links.limit;
        self.answer(limit, async |on| statement.fetch_all(on).await)
            .await
    }

    pub(super) async fn fetch_one(&mut self, statement: Statement) -> Result<PgRow, Failure> {
        self.fetch_one_within(self.links.limit, statement).await
    }

    /// The same for a statement that may take longer than others.
    pub(super) async fn fetch_one_within(
        &mut self,
        limit: Duration,
        statement: Statement,
    ) -> Result<PgRow, Failure> {
        self.answer(limit, async |on| statement.fetch_one(on).await)
            .await
    }

    pub(super) async fn fetch_optional(
        &mut self,
        statement: Statement,
    ) -> Result<Option<PgRow>, Failure> {
        let limit = self.links.limit;
        self.answer(limit, async |on| statement.fetch_optional(on).await)
            .await
    }

    /// Makes a transaction durable. Without an answer nobody knows whether it is, and the
    /// connection is closed; the same call again is safe.
    pub(super) async fn commit(mut self) -> Result<(), Failure> {
        self.answer(COMMIT, async |on| sqlx::query("COMMIT").execute(on).await)
            .await
            .map_err(Failure::of_a_commit)?;
        self.done();
        Ok(())
    }

    /// Ends a transaction that changed nothing.
    pub(super) async fn rollback(mut self) -> Result<(), Failure> {
        self.execute(sqlx::query("ROLLBACK")).await?;
        self.done();
        Ok(())
    }

    /// Gives the link back: its last statement has ended, and it is in no transaction.
    pub(super) fn done(self) {
        let Self { links, link, .. } = self;
        links.idle.lock().push(link);
    }
}
