//! Asking Keyward about API keys, and guarding a service with the answers.
//!
#![doc = include_str!("../README.md")]
//!
//! # What is where
//!
//! [`Client`] makes calls, [`Builder`] sets it up, [`Verdict`] and [`Error`] are what it answers.
//! `layer::RequireApiKey` (feature `layer`, on by default) guards a service of http requests.
//!
//! One invariant holds throughout: nothing that is not proven to be a valid key is taken for one. A
//! call that failed, a verdict that is not known and an answer that is not whole are an [`Error`],
//! which says nothing about the key.

mod balance;
mod builder;
mod call;
mod client;
mod endpoint;
mod error;
#[cfg(feature = "layer")]
pub mod layer;
mod rpc;
mod secret;
mod token;
mod verdict;

pub use builder::{BuildError, Builder};
pub use client::Client;
pub use error::{Error, ErrorKind};
pub use keyward_proto::v1;
pub use rpc::Rpc;
pub use secret::Secret;
pub use verdict::{Consistency, Identity, Verdict, VerifyRequest};
