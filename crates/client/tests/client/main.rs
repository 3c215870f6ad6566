//! The client against a scripted service in this process: every verdict and error, retries,
//! failover, token files, TLS, and the layer in front of axum and tonic.
#![expect(clippy::unwrap_used, reason = "an unexpected error fails the test")]

mod calls;
mod failover;
mod fake;
mod grpc;
mod layer;
#[cfg(feature = "near-cache")]
mod near;
mod settings;
mod tls;
mod token;
