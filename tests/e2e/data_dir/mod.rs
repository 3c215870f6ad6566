//! The data directory of the real process: refused starts, a changed keyring or database, and a
//! full disk.

mod database;
mod disk;
mod keyring;
mod start;
mod warnings;

use std::path::Path;
use std::process::Command;

use keyward_testkit::{Client, Process, sqlite_execute};

use crate::{BINARY, fresh_directory, serve};

/// Runs a start that must be refused, and returns its output.
#[track_caller]
fn refusal_of(command: Command) -> String {
    let (status, said) = Process::run_to_end(command);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("error: "), "{said}");
    said
}

/// Runs manual SQL.
async fn by_hand(data_dir: &Path, sql: &'static str) {
    sqlite_execute(&data_dir.join("keyward.db"), sql).await;
}
