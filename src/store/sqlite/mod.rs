//! The embedded store: SQLite in WAL mode, one process. The triggers of `migrations/sqlite` write
//! the log; here are connections, the lock that proves there is no second instance, and writing
//! transactions that end either committed or with their connection.

mod keys;
mod log;
mod revoke;
mod rows;
mod tokens;

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
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

use super::{OpenError, Result, Store, StoreError};
use crate::fence::Epoch;
use crate::key::{BootTime, Clock, Entropy, Timestamp};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

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
    _lock: File,
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
        let lock = lock_directory_of(path)?;
        let cannot = |error: sqlx::Error| {
            OpenError(format!(
                "the database {} cannot be opened: {error}",
                path.display()
            ))
        };
        create_private(path)?;
        let writing = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
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
        Ok(Self {
            writer,
            readers: pool(READERS, reading.clone()).await.map_err(cannot)?,
            tail: pool(1, reading).await.map_err(cannot)?,
            last: Mutex::new((Timestamp::from_micros(newest), clock.boot())),
            clock,
            system: u64::from_be_bytes(system),
            _lock: lock,
        })
    }

    /// Begins a writing transaction; its time never falls below any time stored before.
    async fn write(&self) -> Result<WriteTx> {
        let connection = self.writer.acquire().await.map_err(unavailable)?;
        let mut tx = WriteTx {
            connection: Some(connection),
            now: Timestamp::default(),
        };
        sqlx::query("BEGIN IMMEDIATE")
            .execute(tx.on()?)
            .await
            .map_err(unavailable)?;
        let newest: i64 =
            sqlx::query_scalar("UPDATE store_clock SET newest = max(newest, ?) RETURNING newest")
                .bind(self.now().as_micros())
                .fetch_one(tx.on()?)
                .await
                .map_err(unavailable)?;
        tx.now = Timestamp::from_micros(newest);
        Ok(tx)
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

/// A statement failed before anything was made durable.
fn unavailable(error: sqlx::Error) -> StoreError {
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

/// Creates the database file readable by its owner only; what SQLite puts beside it inherits that.
fn create_private(path: &Path) -> std::result::Result<(), OpenError> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|error| {
            OpenError(format!(
                "the database {} cannot be written: {error}",
                path.display()
            ))
        })
}

/// Takes the lock of the database's directory. While it is held no other process is an instance
/// on this database: that is what a committed beat proves on a shared store (I5).
fn lock_directory_of(path: &Path) -> std::result::Result<File, OpenError> {
    let directory = path
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    let name = directory.join("lock");
    let cannot = |error: std::io::Error| {
        OpenError(format!(
            "{} cannot be opened for writing: {error}; the data directory must exist and belong \
             to the user that keyward runs as",
            name.display()
        ))
    };
    let mut lock = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&name)
        .map_err(cannot)?;
    match lock.try_lock() {
        Ok(()) => {
            // Who holds it, for the message that the next process prints.
            let note = lock
                .set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| writeln!(lock, "{}", std::process::id()));
            if let Err(error) = note {
                tracing::debug!(%error, "the process id could not be noted in the lock");
            }
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let known = lock.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
            let holder = if known { holder.trim() } else { "unknown" };
            Err(OpenError(format!(
                "{} is held by another keyward (process {holder}): the embedded store serves one \
                 process; stop that one, or give this one another data_dir",
                name.display()
            )))
        }
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}
