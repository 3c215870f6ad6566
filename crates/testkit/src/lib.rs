//! The test harness: Keyward as a process that a test can kill; Keyward in the test process with a
//! clock and a store that the test controls; a client for both; a private Postgres and private
//! Redis servers; a proxy that causes faults; a cluster of instances; a checker for the history of
//! callers, and the load that writes one; a fake Telegram with the bot and an API. No fixed ports;
//! no files or processes remain.
//!
//! A harness cannot return errors to a caller, so it panics and names the cause.
#![expect(
    clippy::expect_used,
    reason = "a harness that cannot start its server fails the test"
)]

mod agent;
mod browser;
mod client;
mod cluster;
mod compose;
mod deadline;
mod deployment;
mod doubles;
mod files;
mod foreign;
mod front;
mod guard;
mod history;
mod http;
mod load;
mod local;
pub mod machine;
mod pgbouncer;
mod polls;
mod port_server;
mod ports;
mod postgres;
mod process;
mod processes;
mod program;
mod programs;
mod proxies;
mod proxy;
mod random;
pub mod raw;
mod receiver;
mod redis;
mod refusal;
pub mod requests;
mod server;
mod sqlite;
mod stage;
mod stalling;
pub mod telegram;
mod tls;
mod turns;
mod web;

pub use agent::AgentProcess;
pub use browser::Browser;
pub use client::{Client, connect, connect_tls, connect_tls_as, http_get, metric};
pub use cluster::{Cluster, Options};
pub use compose::Compose;
pub use deadline::{PATIENCE, eventually, now, wait_until};
pub use deployment::Deployment;
pub use doubles::ManualClock;
pub use foreign::{IMPORT_SECRETS, Scheme, importing, undoing, uuid_v4};
pub use front::{Front, FrontOptions, start_api};
pub use history::{
    Counts, Event, Fault, Recorder, Report, Unreadable, Violation, check, check_events,
};
pub use http::{HttpAnswer, ask as http_ask, ask_unix as http_ask_unix};
pub use load::{
    End, Key, Least, Load, LoadOptions, Outcome, graceful, is_unavailable, left_until, patiently,
};
pub use local::{Local, settings_in};
pub use pgbouncer::PgBouncer;
pub use polls::polled;
pub use port_server::PortServer;
pub use postgres::{Database, Postgres, User};
pub use process::{Process, Starting, without_settings};
pub use program::Program;
pub use programs::Programs;
pub use proxies::{ProxyKind, ProxyOptions};
pub use proxy::{Proxy, Swallowed};
pub use random::Random;
pub use receiver::{Message, Reaction, Receiver, WEBHOOK_SECRET, write_secret};
pub use redis::{Redis, RedisCluster, RedisConnection, RedisOptions, RedisSentinel, Reply};
pub use refusal::{invalid, invalid_fields, refused};
pub use sqlite::{sqlite, sqlite_execute};
pub use stage::Stage;
pub use stalling::{Faults, Gate};
pub use tls::{Authority, ClientFlaw, Identity, connector as tls_connector};
pub use web::Web;
