//! What the tests share: Keyward as a process that can be killed, Keyward in this process with a
//! clock and a store of the test's own, and a client for both; a private Postgres, a proxy before
//! it, and many instances on it; a history of what callers saw. No fixed port, nothing left behind.
//!
//! A harness has nobody to report an error to, so it panics with what went wrong.
#![expect(
    clippy::expect_used,
    reason = "a harness that cannot start its server fails the test"
)]

mod client;
mod cluster;
mod deadline;
mod doubles;
mod history;
mod local;
mod postgres;
mod process;
mod proxy;
mod refusal;
mod stalling;

pub use client::{Client, connect, http_get};
pub use cluster::{Cluster, Options};
pub use deadline::{eventually, now, wait_until};
pub use doubles::{ManualClock, ManualEntropy};
pub use history::{Counts, Fault, Recorder, Report, Unreadable, Violation, check};
pub use local::{Local, settings_in};
pub use postgres::{Database, Postgres, User};
pub use process::{Process, Starting};
pub use proxy::Proxy;
pub use refusal::{invalid, refused};
pub use stalling::{Faults, Gate, StallingStore};
