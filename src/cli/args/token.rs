//! The arguments of the verbs for callers' tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyward_proto::v1::Role;

use super::Page;
use crate::cli::input::{role, time, wire_duration};

#[derive(Subcommand)]
pub(in crate::cli) enum TokenCall {
    /// Create a token for a caller; it is shown only once. With --san, the caller has a client certificate
    /// instead
    Create(TokenCreate),
    /// List the tokens without their secrets
    List(Page),
    /// Revoke a token; on success, it is dead everywhere
    Revoke {
        /// ID of the token, a UUID
        #[arg(value_name = "TOKEN_ID")]
        token_id: String,
    },
}

#[derive(Args)]
pub(in crate::cli) struct TokenCreate {
    /// Name of the caller; several tokens may share it
    #[arg(value_name = "NAME", allow_negative_numbers = true)]
    pub(in crate::cli) name: String,
    /// A role of the caller; repeat for more: issuer, verifier, revealer, reader, editor, reporter,
    /// admin
    #[arg(long, value_name = "ROLE", required = true, value_parser = role)]
    pub(in crate::cli) role: Vec<Role>,
    /// Lifetime of the token, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = wire_duration, group = "expiry")]
    pub(in crate::cli) ttl: Option<prost_types::Duration>,
    /// Time at which the token expires, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time, group = "expiry")]
    pub(in crate::cli) expire_time: Option<prost_types::Timestamp>,
    /// URI or DNS name in the caller's client certificate, such as spiffe://corp/billing; the caller then
    /// needs no secret
    #[arg(long, value_name = "SAN", conflicts_with = "into")]
    pub(in crate::cli) san: Option<String>,
    /// Write the token to this file, with mode 0600, instead of showing it; if the file already holds
    /// a token, create nothing
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) into: Option<PathBuf>,
}
