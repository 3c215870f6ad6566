//! The gRPC API of Keyward: messages, clients and servers generated from `proto/keyward/v1`.
//!
//! What is under `gen/` is committed; `tests/bootstrap.rs` compares it with the proto files and
//! rewrites it on request.

pub mod codec;
mod redacted;

/// The package `keyward.v1`.
#[rustfmt::skip]
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code is as its generator writes it"
)]
#[path = "gen/keyward.v1.rs"]
pub mod v1;

/// The compiled proto files with their imports and comments: what server reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");
