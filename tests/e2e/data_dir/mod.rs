//! The data directory of the real process: starts that are refused, a keyring or a database that is
//! not the one it was, and a full disk.

mod database;
mod disk;
mod keyring;
mod start;

use std::path::Path;
use std::process::Command;

use keyward_proto::v1;
use keyward_testkit::{Client, Process};

use crate::BINARY;

/// What a strong read says of a key.
async fn strong(client: &Client, api_key: &str) -> v1::Verdict {
    let request = v1::VerifyRequest {
        api_key: api_key.to_owned(),
        consistency: v1::Consistency::Strong.into(),
        ..Default::default()
    };
    let verified = client.keys.clone().verify(request).await.unwrap();
    verified.into_inner().verdict()
}

async fn get(client: &Client, key_id: &str) -> v1::ApiKey {
    let target = Some(v1::get_request::Target::KeyId(key_id.to_owned()));
    let found = client.keys.clone().get(v1::GetRequest { target }).await;
    found.unwrap().into_inner().key.unwrap()
}

/// Keyward as a process on `data_dir`.
fn serve(data_dir: &Path) -> Process {
    Process::start(Process::command(BINARY, data_dir), data_dir)
}

/// Runs a start that must be refused; gives what it said.
#[track_caller]
fn refusal_of(command: Command) -> String {
    let (status, said) = Process::run_to_end(command);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("error: "), "{said}");
    said
}

/// A data directory that does not exist yet, in a directory that goes at the end.
fn fresh_directory() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    (directory, data_dir)
}

/// Runs SQL that passes the service by.
async fn by_hand(data_dir: &Path, sql: &'static str) {
    let database = data_dir.join("keyward.db").display().to_string();
    let store = sqlx::SqlitePool::connect(&database).await.unwrap();
    sqlx::query(sql).execute(&store).await.unwrap();
    store.close().await;
}
