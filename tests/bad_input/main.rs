//! Bad input, each through gRPC: a clear error, and nothing acknowledged is lost.
#![cfg(test)]

mod callers;
mod clock;
mod crowds;
mod disk;
mod fields;
mod keyring;
mod keys;
mod leavers;
mod pages;
mod place;
mod start;
mod wire;

use std::path::Path;
use std::process::Command;

use keyward_proto::v1;
use keyward_testkit::{Client, Local, Process};

/// The binary under test.
const KEYWARD: &str = env!("CARGO_BIN_EXE_keyward");

/// A service, and a client with every role.
async fn start() -> (Local, Client) {
    let local = Local::start().await;
    let client = local.client().await;
    (local, client)
}

/// The slot `default` of an account.
fn slot(account: &str) -> v1::IssueRequest {
    v1::IssueRequest {
        account_id: account.to_owned(),
        ..Default::default()
    }
}

fn asking(api_key: &str) -> v1::VerifyRequest {
    v1::VerifyRequest {
        api_key: api_key.to_owned(),
        ..Default::default()
    }
}

/// What a strong read says of a key.
async fn strong(client: &Client, api_key: &str) -> v1::Verdict {
    let request = v1::VerifyRequest {
        consistency: v1::Consistency::Strong.into(),
        ..asking(api_key)
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
    Process::start(Process::command(KEYWARD, data_dir), data_dir)
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
