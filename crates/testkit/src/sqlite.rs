//! Manual SQL on the database of an embedded store.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

/// A connection to a database, which may be in use.
pub async fn sqlite(database: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .busy_timeout(Duration::from_secs(5));
    let connection = SqliteConnection::connect_with(&options).await;
    connection.expect("the database can be opened")
}

/// Runs statements on a database, which may be in use.
///
/// # Panics
///
/// A statement fails.
pub async fn sqlite_execute(database: &Path, statements: &str) {
    let mut connection = sqlite(database).await;
    let done = sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut connection)
        .await;
    done.unwrap_or_else(|error| panic!("{statements}: {error}"));
    // Closing cannot lose anything here.
    let _ = connection.close().await;
}
