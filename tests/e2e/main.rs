//! Keyward, the bot and the callers as processes, with the servers that they need.
#![cfg(test)]

mod canary;
mod cli;
mod client;
mod cluster;
mod data_dir;
mod deploy;
mod durability;
mod python;
mod shutdown;
mod story;
mod telemetry;
mod tls;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_keyward");
