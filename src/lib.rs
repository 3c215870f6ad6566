//! Keyward: an API-key authority whose revocations hold everywhere once they return.
//!
//! Data flows one way, `grpc` → `service` → `cache` → `store`; a module knows only what is below
//! it. `ARCHITECTURE.md` draws the flow and names the line that upholds each invariant.

pub mod app;
pub mod auth;
pub mod cache;
pub mod cli;
pub mod config;
pub mod grpc;
pub mod replication;
pub mod service;
pub mod system;
