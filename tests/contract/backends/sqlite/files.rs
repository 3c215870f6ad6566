//! The files of the embedded store: its directory, its lock and its database.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use keyward_store::Store;
use keyward_store_sqlite::SqliteStore;

use super::{Sqlite, fresh};
use crate::doubles::{Counting, ManualClock};
use crate::world::Backend;

async fn open(path: &Path) -> Result<SqliteStore, String> {
    SqliteStore::open(path, Arc::new(ManualClock::new()), &Counting::default())
        .await
        .map_err(|error| error.to_string())
}

async fn refusal(path: &Path) -> String {
    open(path).await.err().unwrap()
}

/// Runs `sql` on the database of `backend`.
async fn by_hand(backend: &Sqlite, sql: &str) {
    backend.connect().await.run(sql).await.unwrap();
}

#[tokio::test]
async fn only_the_owner_can_read_the_database_files() {
    let backend = fresh().await;
    let _store = open(&backend.path()).await.unwrap();
    for file in ["keyward.db", "keyward.db-wal", "keyward.db-shm"] {
        let mode = fs::metadata(backend.directory.path().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn a_second_opening_is_refused_and_names_the_process() {
    let backend = fresh().await;
    let first = open(&backend.path()).await.unwrap();
    for path in [backend.path(), backend.directory.path().join("other.db")] {
        let refusal = refusal(&path).await;
        assert!(refusal.contains("is held by another keyward"), "{refusal}");
        assert!(
            refusal.contains(&format!("(process {})", std::process::id())),
            "{refusal}"
        );
        assert!(refusal.contains("data_dir"), "{refusal}");
    }
    first.close().await;
    drop(first);
    open(&backend.path()).await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_unchanged() {
    let backend = fresh().await;
    open(&backend.path()).await.unwrap().close().await;
    by_hand(
        &backend,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', TRUE, x'00', 0)",
    )
    .await;
    let message = refusal(&backend.path()).await;
    assert!(message.contains("has schema 9999"), "{message}");
    assert!(
        message.contains("used by a newer keyward: run that version"),
        "{message}"
    );
    by_hand(
        &backend,
        "DELETE FROM _sqlx_migrations WHERE version = 9999",
    )
    .await;
    open(&backend.path()).await.unwrap();
}

#[tokio::test]
async fn a_schema_of_another_build_is_refused() {
    let backend = fresh().await;
    open(&backend.path()).await.unwrap().close().await;
    by_hand(&backend, "UPDATE _sqlx_migrations SET checksum = x'00'").await;
    let message = refusal(&backend.path()).await;
    assert!(message.contains("made by another build"), "{message}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_unchanged() {
    let backend = fresh().await;
    let text = "this is no database".repeat(1_000);
    fs::write(backend.path(), &text).unwrap();
    let message = refusal(&backend.path()).await;
    assert!(message.contains("file is not a database"), "{message}");
    assert!(message.contains("keyward.db"), "{message}");
    assert_eq!(fs::read_to_string(backend.path()).unwrap(), text);
}

#[tokio::test]
async fn a_missing_directory_is_refused() {
    let backend = fresh().await;
    fs::write(backend.directory.path().join("file"), "").unwrap();
    for directory in ["missing", "file"] {
        let message = refusal(&backend.directory.path().join(directory).join("keyward.db")).await;
        assert!(
            message.contains("the data directory must exist and belong to the user"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_directory_at_the_path_of_the_database_is_refused() {
    let backend = fresh().await;
    fs::create_dir(backend.path()).unwrap();
    let message = refusal(&backend.path()).await;
    assert!(message.contains("cannot be written"), "{message}");
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let backend = fresh().await;
    open(&backend.path()).await.unwrap().close().await;
    by_hand(
        &backend,
        "UPDATE _sqlx_migrations SET version = version + 2024, description = 'users'",
    )
    .await;
    let message = refusal(&backend.path()).await;
    assert!(message.contains("belongs to another program"), "{message}");
    assert!(!message.contains("newer keyward"), "{message}");
}
