//! The embedded store: SQLite in WAL mode, one process. The triggers of `migrations/sqlite` write
//! the log; here are connections, the lock that proves there is no second instance, and writing
//! transactions that end either committed or with their connection.

mod audit;
mod keys;
mod log;
mod place;
mod revoke;
mod rows;
mod tokens;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, SqliteConnection};

use keyward_core::fence::Epoch;
use keyward_core::key::{BootTime, Clock, Entropy, Timestamp};
use keyward_store::{OpenError, Result, Store, StoreError};
use place::Place;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// Connections for reads; verifies that miss the cache share them.
const READERS: u32 = 4;
/// How long a call waits for a connection, and a statement for another process's lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The embedded store. Holds the lock of its directory for as long as it lives.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    /// The tail's own connection: reads under load must not make the instance stale.
    tail: SqlitePool,
    clock: Arc<dyn Clock>,
    /// The time this store used last, and the boot time of that.
    last: Mutex<(Timestamp, BootTime)>,
    /// Drawn at each start: entries of an earlier process are of another epoch.
    system: u64,
    place: Place,
}

impl SqliteStore {
    /// Opens or creates the database at `path`, and brings its schema up to date. Refuses when
    /// another process has it open, when the schema is newer than this program, and when the
    /// directory cannot be written.
    pub async fn open(
        path: &Path,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> std::result::Result<Self, OpenError> {
        let place = Place::take(path)?;
        let cannot = |error: sqlx::Error| {
            OpenError(format!(
                "the database {} cannot be opened: {error}",
                path.display()
            ))
        };
        let writing = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // A wiped seal leaves no bytes behind in free pages.
            .pragma("secure_delete", "ON")
            .busy_timeout(PATIENCE)
            // `Instrumented` tells of each call.
            .disable_statement_logging();
        let writer = pool(1, writing.clone()).await.map_err(cannot)?;
        MIGRATIONS
            .run(&writer)
            .await
            .map_err(|error| schema_error(path, error))?;
        let newest: i64 = sqlx::query_scalar("SELECT newest FROM store_clock")
            .fetch_one(&writer)
            .await
            .map_err(cannot)?;
        let reading = writing.pragma("query_only", "ON");
        let mut system = [0; 8];
        entropy.fill(&mut system);
        let store = Self {
            writer,
            readers: pool(READERS, reading.clone()).await.map_err(cannot)?,
            tail: pool(1, reading).await.map_err(cannot)?,
            last: Mutex::new((Timestamp::from_micros(newest), clock.boot())),
            clock,
            system: u64::from_be_bytes(system),
            place,
        };
        // What was found ended in an earlier life of the store stays ended in this one.
        store.note_time().await;
        Ok(store)
    }

    /// Begins a writing transaction; its time never falls below any time stored before.
    async fn write(&self) -> Result<WriteTx> {
        let connection = self.writer.acquire().await.map_err(store_error)?;
        self.place.check()?;
        let mut tx = WriteTx {
            connection: Some(connection),
            now: Timestamp::default(),
        };
        sqlx::query("BEGIN IMMEDIATE")
            .execute(tx.on()?)
            .await
            .map_err(store_error)?;
        let newest: i64 =
            sqlx::query_scalar("UPDATE store_clock SET newest = max(newest, ?) RETURNING newest")
                .bind(self.now().as_micros())
                .fetch_one(tx.on()?)
                .await
                .map_err(store_error)?;
        tx.now = Timestamp::from_micros(newest);
        Ok(tx)
    }

    /// Stores the time, so that after a restart with a wall clock set back nothing that had ended
    /// lives again; what is left open after a crash is the time since the last write. A full disk
    /// must not keep the service from starting or stopping.
    async fn note_time(&self) {
        let noted = async { self.write().await?.commit().await };
        if let Err(error) = noted.await {
            tracing::warn!(%error, "the time could not be stored");
        }
    }

    /// The wall clock, but never behind the time that was used last plus the boot time since: what
    /// was found ended stays ended, and ends come, whatever happens to the wall clock.
    fn now(&self) -> Timestamp {
        let mut last = self.last.lock();
        let boot = self.clock.boot();
        let now = self.clock.wall().max(last.0.plus(boot.since(last.1)));
        *last = (now, boot);
        now
    }

    fn epoch(&self, incarnation: i64) -> Result<Epoch> {
        Ok(Epoch {
            system: self.system,
            timeline: 1,
            incarnation: rows::revision(incarnation)?,
        })
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SqliteStore")
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn close(&self) {
        self.note_time().await;
        self.tail.close().await;
        self.readers.close().await;
        // The last connection writes the log of the WAL back into the database.
        self.writer.close().await;
    }
}

/// A writing transaction. Dropped before its end, its connection is closed, which rolls it back:
/// no half-finished transaction can come back from the pool.
struct WriteTx {
    connection: Option<PoolConnection<Sqlite>>,
    /// The time of this transaction.
    now: Timestamp,
}

impl WriteTx {
    fn on(&mut self) -> Result<&mut SqliteConnection> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            None => Err(StoreError::Unavailable(
                "the transaction has ended".to_owned(),
            )),
        }
    }

    /// Makes the changes durable. After an error nobody knows whether they are.
    async fn commit(mut self) -> Result<()> {
        let outcome = sqlx::query("COMMIT").execute(self.on()?).await;
        self.end(outcome.map(drop)).await
    }

    /// Ends a transaction that changed nothing.
    async fn rollback(mut self) -> Result<()> {
        let outcome = sqlx::query("ROLLBACK").execute(self.on()?).await;
        self.end(outcome.map(drop)).await
    }

    async fn end(&mut self, outcome: std::result::Result<(), sqlx::Error>) -> Result<()> {
        let connection = self.connection.take();
        let Err(error) = outcome else { return Ok(()) };
        tracing::error!(%error, "the end of a transaction failed; its connection is closed");
        if let Some(connection) = connection
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "closing a connection failed");
        }
        Err(StoreError::OutcomeUnknown(error.to_string()))
    }
}

impl Drop for WriteTx {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

async fn pool(
    connections: u32,
    options: SqliteConnectOptions,
) -> std::result::Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
}

/// A statement failed before anything was made durable: an outage, or damage.
fn store_error(error: sqlx::Error) -> StoreError {
    match &error {
        // A constraint or a trigger of the schema refused: the service asked for the impossible.
        sqlx::Error::Database(refused) if is_constraint(refused.code().as_deref()) => {
            StoreError::Damaged(error.to_string())
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            StoreError::Damaged(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Whether an extended result code of SQLite is one of SQLITE_CONSTRAINT, its low byte.
fn is_constraint(code: Option<&str>) -> bool {
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| code & 0xff == 19)
}

fn schema_error(path: &Path, error: MigrateError) -> OpenError {
    let path = path.display();
    let known = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    OpenError(match error {
        MigrateError::VersionMissing(found) | MigrateError::VersionTooNew(found, _) => format!(
            "the database {path} has schema {found}, this program knows schemas up to {known}: \
             it was used by a newer keyward; run that one"
        ),
        MigrateError::VersionMismatch(version) => format!(
            "schema {version} of the database {path} is not the one this program knows; it was \
             made by another build: run that one, or restore a backup"
        ),
        other => format!("the schema of the database {path} cannot be brought up to date: {other}"),
    })
}
