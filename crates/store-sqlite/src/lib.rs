//! The embedded store: SQLite in WAL mode, for one process. The triggers in `migrations/sqlite`
//! write the log. A write transaction either ends cleanly or is rolled back with its connection.

mod audit;
mod erase;
mod examine;
mod graces;
mod import;
mod keyring;
mod keys;
mod listing;
mod lock;
mod log;
mod lookups;
mod outbox;
mod revoke;
mod rows;
mod selection;
mod time_repair;
mod tokens;
mod uses;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, SqliteConnection};

use keyward_core::fence::Epoch;
use keyward_core::key::{BootTime, Clock, Entropy, Timestamp};
use keyward_store::rows::FromRow;
use keyward_store::{Cluster, OpenError, Result, Store, StoreError, raw};
use lock::DatabaseLock;

pub use lock::holder;

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// Connections for reads, such as cache misses of Verify.
const READERS: u32 = 4;
/// How long a call waits for a connection, and a statement for the lock of another process.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// The embedded store. It holds the lock of its database until it is dropped.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    /// The connection of the tail alone: reads under load must not make the instance stale.
    tail: SqlitePool,
    clock: Arc<dyn Clock>,
    /// The last time that this store used, and the boot time at that moment.
    last: Mutex<(Timestamp, BootTime)>,
    /// Random at each start, so that entries of an earlier process have another epoch.
    system: u64,
    /// A store that is only examined has none.
    lock: Option<DatabaseLock>,
}

impl SqliteStore {
    /// Opens or creates the database at `path`, and migrates its schema. Fails if another process
    /// has it open, if the schema is newer than this program, or if the directory is not writable.
    pub async fn open(
        path: &Path,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Result<Self, OpenError> {
        let lock = DatabaseLock::acquire(path)?;
        let not_opened = |error| not_opened(path, &error);
        let writing = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // A wiped sealed copy must leave no bytes in free pages.
            .pragma("secure_delete", "ON")
            .busy_timeout(WAIT_LIMIT)
            // `Instrumentation` logs each call.
            .disable_statement_logging();
        let writer = pool(1, writing.clone()).await.map_err(not_opened)?;
        examine::applied(path, &writer).await?;
        MIGRATIONS
            .run(&writer)
            .await
            .map_err(|error| schema_error(path, error))?;
        let newest = newest(&writer).await.map_err(not_opened)?;
        let reading = writing.pragma("query_only", "ON");
        let mut system = [0; 8];
        entropy.fill(&mut system);
        let store = Self {
            writer,
            readers: pool(READERS, reading.clone()).await.map_err(not_opened)?,
            tail: pool(1, reading).await.map_err(not_opened)?,
            last: Mutex::new((newest, clock.boot())),
            clock,
            system: u64::from_be_bytes(system),
            lock: Some(lock),
        };
        store.save_time().await;
        Ok(store)
    }

    /// Begins a write transaction. Its time is never before a stored time.
    async fn write(&self) -> Result<WriteTransaction> {
        let connection = self.writer.acquire().await.map_err(store_error)?;
        self.check_lock()?;
        let mut tx = WriteTransaction {
            connection: Some(connection),
            now: Timestamp::default(),
        };
        tx.execute(sqlx::query("BEGIN IMMEDIATE")).await?;
        let newest = sqlx::query("UPDATE store_clock SET newest = max(newest, ?) RETURNING newest")
            .bind(self.now().as_micros());
        let newest = tx.fetch_one(newest).await?;
        tx.now = Timestamp::from_micros(rows::column(&newest, "newest")?);
        Ok(tx)
    }

    /// Reads what the rows of a statement hold, on a connection of the readers.
    async fn read_all<T: FromRow>(&self, statement: Statement) -> Result<Vec<T>> {
        let found = statement.fetch_all(&self.readers).await;
        found.map_err(store_error)?.iter().map(rows::read).collect()
    }

    /// Fails if the database file was replaced.
    fn check_lock(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), DatabaseLock::check)
    }

    /// Stores the time, so that a key that has ended stays ended after a restart with the wall
    /// clock set back. After a crash, the stored time is that of the last write. Only logs a
    /// failure: the service must start and stop with a full disk, too.
    async fn save_time(&self) {
        let saved = async { self.write().await?.commit().await };
        if let Err(error) = saved.await {
            tracing::warn!(%error, "the store's time could not be saved");
        }
    }

    /// The wall clock, but at least the last used time plus the boot time since then. So an ended
    /// key stays ended, and keys end in time, even if the wall clock is set back.
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
            incarnation: raw::revision(incarnation)?,
        })
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        None
    }

    async fn close(&self) {
        if self.lock.is_some() {
            self.save_time().await;
        }
        self.tail.close().await;
        self.readers.close().await;
        // Closed last: the last connection writes the WAL back into the database.
        self.writer.close().await;
    }
}

type Statement = Query<'static, Sqlite, SqliteArguments>;

/// A write transaction. If it is dropped before its end, its connection is closed, which rolls it
/// back: the pool never hands out an unfinished transaction.
struct WriteTransaction {
    connection: Option<PoolConnection<Sqlite>>,
    /// The store's time in this transaction.
    now: Timestamp,
}

impl WriteTransaction {
    fn connection(&mut self) -> Result<&mut SqliteConnection> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            None => Err(StoreError::Unavailable(
                "the transaction has ended".to_owned(),
            )),
        }
    }

    /// Runs a statement and returns the number of changed rows.
    async fn execute(&mut self, statement: Statement) -> Result<u64> {
        let done = statement.execute(self.connection()?).await;
        Ok(done.map_err(store_error)?.rows_affected())
    }

    async fn fetch_optional(&mut self, statement: Statement) -> Result<Option<SqliteRow>> {
        let row = statement.fetch_optional(self.connection()?).await;
        row.map_err(store_error)
    }

    async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<SqliteRow>> {
        let rows = statement.fetch_all(self.connection()?).await;
        rows.map_err(store_error)
    }

    async fn fetch_one(&mut self, statement: Statement) -> Result<SqliteRow> {
        let row = statement.fetch_one(self.connection()?).await;
        row.map_err(store_error)
    }

    /// Makes the changes durable. After an error, the outcome is unknown.
    async fn commit(mut self) -> Result<()> {
        let outcome = sqlx::query("COMMIT").execute(self.connection()?).await;
        self.end(outcome.map(drop)).await
    }

    /// Ends a transaction that changed nothing.
    async fn rollback(mut self) -> Result<()> {
        let outcome = sqlx::query("ROLLBACK").execute(self.connection()?).await;
        self.end(outcome.map(drop)).await
    }

    async fn end(&mut self, outcome: Result<(), sqlx::Error>) -> Result<()> {
        let connection = self.connection.take();
        let Err(error) = outcome else { return Ok(()) };
        tracing::error!(%error, "a transaction could not be ended; its connection is closed");
        if let Some(connection) = connection
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "a connection could not be closed");
        }
        Err(StoreError::OutcomeUnknown(error.to_string()))
    }
}

impl Drop for WriteTransaction {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

async fn pool(connections: u32, options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(WAIT_LIMIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
}

/// The latest time that the store has saved.
async fn newest(pool: &SqlitePool) -> Result<Timestamp, sqlx::Error> {
    let newest = sqlx::query_scalar("SELECT newest FROM store_clock");
    newest.fetch_one(pool).await.map(Timestamp::from_micros)
}

fn not_opened(path: &Path, error: &sqlx::Error) -> OpenError {
    let path = path.display();
    OpenError(format!("the database {path} cannot be opened: {error}"))
}

/// The error of a statement that failed before its commit.
fn store_error(error: sqlx::Error) -> StoreError {
    match &error {
        // A constraint or a trigger of the schema refused a statement that the service must not send.
        // A trigger refused a key of the keyring that was retired while the call ran.
        sqlx::Error::Database(refused) if refused.message().ends_with(" is retired") => {
            StoreError::Unavailable(error.to_string())
        }
        sqlx::Error::Database(refused) if is_constraint(refused.code().as_deref()) => {
            StoreError::Damaged(error.to_string())
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            StoreError::Damaged(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Whether the low byte of SQLite's extended result code is SQLITE_CONSTRAINT.
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
            "the database {path} has schema {found}, but this program knows schemas up to {known}. \
             It was used by a newer keyward: run that version"
        ),
        MigrateError::VersionMismatch(version) => format!(
            "schema {version} of the database {path} differs from this program's. It was made by \
             another build: run that build"
        ),
        other => format!("the schema of the database {path} cannot be migrated: {other}"),
    })
}
