//! The client against a service in this process that answers what a test wants: every verdict and
//! error, retries, failover, token files, TLS, and the layer before axum and tonic.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
mod failover;
mod fake;
mod grpc;
mod layer;
mod settings;
mod tls;
mod token;
