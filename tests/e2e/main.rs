//! Keyward, the bot and the callers as processes, with the servers that they need.
#![cfg(test)]

mod agent;
mod canary;
mod cli;
mod client;
mod clock;
mod cluster;
mod collector;
mod data_dir;
mod deploy;
mod doctor;
mod doors;
mod durability;
mod failover;
mod monitoring;
mod proxies;
mod python;
mod rotation;
mod runbooks;
mod secure;
mod shutdown;
mod status_page;
mod story;
mod telemetry;
mod tls;
mod uses;
mod webhooks;

use std::num::ParseIntError;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keyward_testkit::Process;
use tempfile::TempDir;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_keyward");

/// Keyward as a process on `data_dir`.
fn serve(data_dir: &Path) -> Process {
    Process::start(Process::command(BINARY, data_dir), data_dir)
}

/// How often a test repeats its faults: `KEYWARD_SOAK_ROUNDS`, or `default`.
fn rounds<N: FromStr<Err = ParseIntError>>(default: N) -> N {
    let rounds = std::env::var("KEYWARD_SOAK_ROUNDS");
    rounds.map_or(default, |rounds| rounds.parse().unwrap())
}

/// A data directory that does not exist yet, in a temporary directory.
fn fresh_directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    (directory, data_dir)
}
