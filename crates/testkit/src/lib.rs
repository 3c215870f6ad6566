//! What the tests share: Keyward as a process that can be killed, Keyward in this process with a
//! clock and a store of the test's own, and a client for both. No fixed port, nothing left behind.
//!
//! A harness has nobody to report an error to, so it panics with what went wrong.
#![expect(
    clippy::expect_used,
    reason = "a harness that cannot start its server fails the test"
)]

mod client;
mod doubles;
mod local;
mod postgres;
mod process;
mod refusal;
mod stalling;

pub use client::{Client, connect, http_get};
pub use doubles::{ManualClock, ManualEntropy};
pub use local::{Local, settings_in};
pub use postgres::{Database, Postgres, connect as connect_to_postgres};
pub use process::Process;
pub use refusal::{invalid, refused};
pub use stalling::{Faults, Gate, StallingStore};
