//! Verifies API keys with Keyward, and guards services with the verdicts.
//!
#![doc = include_str!("../README.md")]
//!
//! # Overview
//!
//! [`Builder`] sets up a [`Client`], whose calls return a [`Verdict`], a message of [`v1`], or an
//! [`Error`]. `layer::RequireApiKey` (feature `layer`, on by default) guards a service of http
//! requests.
//!
//! Invariant: only the verdict VALID makes a key valid. A failed call, an unknown verdict and an
//! incomplete response are an [`Error`], which says nothing about the key.

mod balance;
mod builder;
mod call;
mod certificate;
mod client;
mod endpoint;
mod error;
#[cfg(feature = "layer")]
pub mod layer;
#[cfg(feature = "near-cache")]
pub mod near;
mod pass;
mod request;
mod rpc;
mod token;

pub use builder::{BuildError, Builder};
pub use client::Client;
pub use error::{Advice, Error, ErrorKind};
pub use keyward_guard::{DeadKey, Holder, Identity, InvalidResponse, Secret, Verdict};
pub use keyward_proto::v1;
pub use pass::Unanswered;
pub use request::{Consistency, VerifyRequest};
pub use rpc::Rpc;
