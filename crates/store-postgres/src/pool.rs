//! A pool of connections. A connection returns to the pool only after its last statement has
//! ended. If a call fails, hangs or is dropped, its connection is closed, which rolls back its
//! transaction. So no unfinished transaction and no late answer can reach the next call. (The pool
//! of the driver takes back connections that were dropped.)

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::{Connection, Connector};
use super::failure::{Failure, Kind, closed};
use super::locks::Locks;
use keyward_store::StoreError;

/// How long a call waits for the answer to COMMIT.
const COMMIT_LIMIT: Duration = Duration::from_secs(10);
/// How long a call waits for a free connection.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

pub(super) type Statement = Query<'static, Postgres, PgArguments>;

/// At most `size` connections.
pub(super) struct Pool {
    connector: Arc<Connector>,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    /// How long a call waits for the answer to a statement.
    limit: Duration,
    /// Reports who holds up a statement, in a pool whose statements wait for locks.
    locks: Option<Arc<Locks>>,
}

impl Pool {
    pub(super) fn new(connector: Arc<Connector>, size: usize, limit: Duration) -> Self {
        Self {
            connector,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(size)),
            limit,
            locks: None,
        }
    }

    /// The same pool, whose statements may wait for locks.
    pub(super) fn with(self, locks: &Arc<Locks>) -> Self {
        let locks = Some(Arc::clone(locks));
        Self { locks, ..self }
    }

    /// Takes an idle connection, or opens a new one.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, Failure> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = match tokio::time::timeout(WAIT_LIMIT, permit).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(closed().into()),
            Err(_) => {
                let why = format!("no connection became free within {WAIT_LIMIT:?}");
                let are_held = self.locks.as_ref().is_some_and(|locks| locks.are_held());
                return Err(match are_held {
                    true => StoreError::Locked(why),
                    false => StoreError::Unavailable(why),
                }
                .into());
            }
        };
        loop {
            let Some(connection) = self.idle.lock().pop() else {
                break;
            };
            if self.connector.is_current(&connection) {
                return Ok(Lease::new(self, connection, true, permit));
            }
        }
        let connection = self.connector.open().await?;
        Ok(Lease::new(self, connection, false, permit))
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Lease<'_>, Failure> {
        // An idle connection may have died unnoticed. BEGIN is its first statement, so try the next.
        loop {
            let mut lease = self.lease().await?;
            match lease.execute(sqlx::query("BEGIN")).await {
                Ok(_) => return Ok(lease),
                Err(failure) if failure.kind == Kind::Broken && lease.was_idle => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Runs one statement outside a transaction and reads all its rows.
    pub(super) async fn fetch_all(&self, statement: Statement) -> Result<Vec<PgRow>, Failure> {
        let mut lease = self.lease().await?;
        let rows = lease.fetch_all(statement).await?;
        lease.done();
        Ok(rows)
    }

    /// Runs one statement outside a transaction and reads its first row.
    pub(super) async fn fetch_optional(
        &self,
        statement: Statement,
    ) -> Result<Option<PgRow>, Failure> {
        let mut lease = self.lease().await?;
        let row = lease.fetch_optional(statement).await?;
        lease.done();
        Ok(row)
    }

    /// Closes the idle connections now, and the others when their calls end.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for connection in idle {
            connection.close().await;
        }
    }
}

/// A connection in use. It is closed if the lease is dropped without [`Lease::done`].
pub(super) struct Lease<'p> {
    pool: &'p Pool,
    connection: Connection,
    /// Whether it was idle before, and so may have died unnoticed.
    was_idle: bool,
    _permit: OwnedSemaphorePermit,
}

impl<'p> Lease<'p> {
    fn new(
        pool: &'p Pool,
        connection: Connection,
        was_idle: bool,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            pool,
            connection,
            was_idle,
            _permit: permit,
        }
    }

    /// The connection, for its epoch.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits for an answer. A broken connection makes all of its era suspect.
    async fn answer<T>(
        &mut self,
        limit: Duration,
        ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Failure> {
        let (connector, era) = (&self.pool.connector, self.connection.era);
        let pid = self.connection.pid();
        let answer = connector.answer(era, limit, self.connection.ask(ask));
        let outcome = match &self.pool.locks {
            Some(locks) => locks.watch(pid, answer).await,
            None => answer.await,
        };
        outcome.inspect_err(|failure| {
            if failure.kind == Kind::Broken {
                connector.note_broken(era);
            }
        })
    }

    /// Runs a statement and returns the number of changed rows.
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64, Failure> {
        let limit = self.pool.limit;
        let done = self.answer(limit, async |driver| statement.execute(driver).await);
        Ok(done.await?.rows_affected())
    }

    pub(super) async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<PgRow>, Failure> {
        self.fetch_all_within(self.pool.limit, statement).await
    }

    /// Like `fetch_all`, for a statement that may take longer than others.
    pub(super) async fn fetch_all_within(
        &mut self,
        limit: Duration,
        statement: Statement,
    ) -> Result<Vec<PgRow>, Failure> {
        self.answer(limit, async |driver| statement.fetch_all(driver).await)
            .await
    }

    pub(super) async fn fetch_one(&mut self, statement: Statement) -> Result<PgRow, Failure> {
        self.fetch_one_within(self.pool.limit, statement).await
    }

    /// Like `fetch_one`, for a statement that may take longer than others.
    pub(super) async fn fetch_one_within(
        &mut self,
        limit: Duration,
        statement: Statement,
    ) -> Result<PgRow, Failure> {
        self.answer(limit, async |driver| statement.fetch_one(driver).await)
            .await
    }

    pub(super) async fn fetch_optional(
        &mut self,
        statement: Statement,
    ) -> Result<Option<PgRow>, Failure> {
        let limit = self.pool.limit;
        self.answer(limit, async |driver| statement.fetch_optional(driver).await)
            .await
    }

    /// Makes the transaction durable. Without an answer the outcome is unknown and the connection
    /// is closed; repeating the call is safe.
    pub(super) async fn commit(mut self) -> Result<(), Failure> {
        let commit = sqlx::query("COMMIT");
        self.answer(COMMIT_LIMIT, async |driver| commit.execute(driver).await)
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

    /// Returns the connection to the pool. Its last statement has ended, and it is in no
    /// transaction.
    pub(super) fn done(self) {
        let Self {
            pool, connection, ..
        } = self;
        let mut idle = pool.idle.lock();
        // `close` takes the idle ones after it has closed the permits.
        if !pool.permits.is_closed() {
            idle.push(connection);
        }
    }
}
