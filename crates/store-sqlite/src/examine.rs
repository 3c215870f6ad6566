//! Opens a database only to examine it: without its lock, also while an instance serves it, and without a
//! change.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqlitePool};

use super::{MIGRATIONS, SqliteStore, WAIT_LIMIT, newest, not_opened, pool, schema_error};
use keyward_core::key::Clock;
use keyward_store::{OpenError, refuse_foreign_schema};

impl SqliteStore {
    /// Opens the existing database at `path` for reading. `None` if its schema is older than this
    /// program's: the next start migrates it.
    ///
    /// # Errors
    ///
    /// A start would refuse the database, too.
    pub async fn examine(path: &Path, clock: Arc<dyn Clock>) -> Result<Option<Self>, OpenError> {
        let not_opened = |error| not_opened(path, &error);
        let wal = path.with_file_name({
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push("-wal");
            name
        });
        let reading = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            // Without a WAL no process has the database open, and SQLite would create one.
            .immutable(!wal.exists())
            .busy_timeout(WAIT_LIMIT)
            .disable_statement_logging();
        let readers = pool(1, reading).await.map_err(not_opened)?;
        // Fails if the file is no database.
        let tables = sqlx::query("SELECT name FROM sqlite_schema");
        tables.fetch_all(&readers).await.map_err(not_opened)?;
        let applied = applied(path, &readers).await?;
        for (version, _, checksum) in &applied {
            let known = MIGRATIONS.iter().find(|known| known.version == *version);
            let refusal = match known {
                None => MigrateError::VersionMissing(*version),
                Some(known) if *known.checksum != **checksum => {
                    MigrateError::VersionMismatch(*version)
                }
                Some(_) => continue,
            };
            return Err(schema_error(path, refusal));
        }
        if applied.len() < MIGRATIONS.iter().count() {
            return Ok(None);
        }
        let newest = newest(&readers).await.map_err(not_opened)?;
        Ok(Some(Self {
            writer: readers.clone(),
            tail: readers.clone(),
            readers,
            last: Mutex::new((newest, clock.boot())),
            clock,
            system: 0,
            lock: None,
        }))
    }
}

/// The migrations of the database: version, description and checksum. Refuses a database of another program.
pub(super) async fn applied(
    path: &Path,
    pool: &SqlitePool,
) -> Result<Vec<(i64, String, Vec<u8>)>, OpenError> {
    let applied: Vec<(i64, String, Vec<u8>)> = sqlx::query_as(
        "SELECT version, description, checksum FROM _sqlx_migrations ORDER BY version",
    )
    .fetch_all(pool)
    .await
    // A new database has no such table; the next statement repeats another error.
    .unwrap_or_default();
    let known = MIGRATIONS
        .iter()
        .map(|known| (known.version, &*known.description));
    let names: Vec<_> = applied
        .iter()
        .map(|(version, name, _)| (*version, name.clone()))
        .collect();
    let place = format!("the database {}", path.display());
    refuse_foreign_schema(&place, known, &names)?;
    Ok(applied)
}
