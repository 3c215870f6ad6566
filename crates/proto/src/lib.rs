//! The gRPC API of Keyward: messages, clients and servers generated from `proto/`.
//!
//! The generated files in `gen/` are committed. `tests/bootstrap.rs` compares the code and the
//! descriptors with the proto files and can regenerate them. `make openapi` regenerates the OpenAPI
//! document, and `tests/openapi.rs` compares it with the descriptors.

mod redacted;

/// The package `keyward.v1`.
#[rustfmt::skip]
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "the generator determines the generated code"
)]
#[path = "gen/keyward.v1.rs"]
pub mod v1;

/// The part of Envoy's package `envoy.service.auth.v3` that Keyward serves.
#[rustfmt::skip]
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "the generator determines the generated code"
)]
#[path = "gen/envoy.service.auth.v3.rs"]
pub mod envoy;

/// The compiled proto files with their imports and comments, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");

/// The OpenAPI 3.1 document of the JSON API.
pub const OPENAPI: &str = include_str!("gen/openapi.json");
