//! What the tests share: Keyward as a process that can be killed, Keyward in this process with a
//! clock and a store of the test's own, and a client for both; a private Postgres, private Redis
//! servers, a proxy before either, and many instances on Postgres; a history of what callers saw; a
//! fake Telegram, and with it the bot and an API on Keyward. No fixed port, nothing left behind.
//!
//! A harness has nobody to report an error to, so it panics with what went wrong.
#![expect(
    clippy::expect_used,
    reason = "a harness that cannot start its server fails the test"
)]

mod client;
mod cluster;
mod compose;
mod deadline;
mod deployment;
mod doubles;
mod front;
mod guard;
mod history;
mod http;
mod local;
mod ports;
mod postgres;
mod process;
mod processes;
mod program;
mod programs;
mod proxy;
mod redis;
mod refusal;
mod stage;
mod stalling;
pub mod telegram;
mod tls;

pub use client::{Client, connect, connect_tls, http_get};
pub use cluster::{Cluster, Options};
pub use compose::Compose;
pub use deadline::{eventually, now, wait_until};
pub use deployment::Deployment;
pub use doubles::{ManualClock, ManualEntropy};
pub use front::{Front, FrontOptions};
pub use history::{Counts, Fault, Recorder, Report, Unreadable, Violation, check};
pub use http::{HttpAnswer, ask as http_ask};
pub use local::{Local, settings_in};
pub use postgres::{Database, Postgres, User};
pub use process::{Process, Starting};
pub use program::Program;
pub use programs::Programs;
pub use proxy::{Proxy, Swallowed};
pub use redis::{Redis, RedisCluster, RedisConnection, RedisOptions, RedisSentinel, Reply};
pub use refusal::{invalid, refused};
pub use stage::Stage;
pub use stalling::{Faults, Gate};
pub use tls::{Authority, Identity};
