//! What guards an HTTP request with an API key: which header holds the key, which address is the
//! client's, what a refusal says, and which headers name the identity. Pure, without I/O.
//!
//! The layer of `keyward-client` and the service's own answers to proxies share it, so that they
//! cannot differ.

mod address;
pub mod credential;
mod log_limit;
mod refusal;
mod secret;
mod verdict;

pub use address::{InvalidNetwork, TrustedProxies};
pub use log_limit::LogLimit;
pub use refusal::{Refusal, whole_seconds};
pub use secret::Secret;
pub use verdict::{DeadKey, Holder, IDENTITY_HEADERS, Identity, InvalidResponse, Verdict};
