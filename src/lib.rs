//! Keyward: an API-key authority. After Revoke returns, no instance accepts the key.
//!
//! Data flows in one direction: `rest` → `grpc` → `service` → `cache` → `store`. A module uses only modules
//! below it. `ARCHITECTURE.md` shows the flow and names the line that upholds each invariant.

pub mod app;
pub mod auth;
pub mod cache;
pub mod cli;
pub mod config;
pub mod grpc;
pub mod replication;
pub mod rest;
pub mod service;
pub mod system;
pub mod webhooks;
