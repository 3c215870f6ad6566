//! Defines the verbs about the keyring and about the data of accounts.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::input::value;

/// The commands for the files of the keyring on this machine.
#[derive(Debug, Subcommand)]
pub enum KeyringCommand {
    /// Add a new file to the keyring on this machine, with the next number of its kind. It replaces no
    /// file. Copy it to the keyring of every instance
    Add {
        /// Kind of the key
        #[arg(value_enum, value_name = "KIND")]
        kind: AddedKind,
        /// Number of the new file, if the next one was used before
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
        number: Option<u32>,
        /// File with the secret of another product; only for `import`
        #[arg(long, value_name = "FILE", required_if_eq("kind", "import"))]
        secret_file: Option<PathBuf>,
    },
}

/// The kinds of files that can be added to a keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AddedKind {
    /// Mints keys and tokens, and recognises them
    Generation,
    /// Seals copies of recoverable keys
    Seal,
    /// Protects a shared cache; an instance uses the newest one at its start
    Cache,
    /// The pepper of foreign keys, for a keyring that was made without one
    Foreign,
    /// The secret with which another product computed the digests of its keys
    Import,
    /// Seals the audit
    Audit,
}

#[derive(Subcommand)]
pub(in crate::cli) enum KeyringVerb {
    #[command(flatten)]
    Local(KeyringCommand),
    #[command(flatten)]
    Call(KeyringCall),
}

/// The calls about the keyring.
#[derive(Subcommand)]
pub(in crate::cli) enum KeyringCall {
    /// Make a key the active one; every instance must have loaded it. A generation mints all new keys and
    /// tokens, a seal seals all new copies, an audit key seals the audit
    Activate(KeyringKey),
    /// Retire a key that nothing needs any more; then its file can be deleted
    Retire(KeyringKey),
    /// Show each key: its state, the instances that have loaded it, and what needs it
    Status,
}

#[derive(Args)]
pub(in crate::cli) struct KeyringKey {
    /// Kind of the key
    #[arg(value_enum, value_name = "KIND")]
    pub(in crate::cli) kind: KeyringKind,
    /// Number in the name of the key's file
    #[arg(value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) number: u32,
}

/// The kinds of keys that a store knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum KeyringKind {
    Generation,
    Seal,
    Foreign,
    Import,
    Audit,
}

#[derive(Subcommand)]
pub(in crate::cli) enum AccountCall {
    /// Revoke all keys of an account, then remove its personal data: a random pseudonym replaces the account
    /// and the names of its keys, also in the audit; metadata, networks and reasons are dropped
    Erase {
        /// The account
        #[arg(value_name = "ACCOUNT_ID", allow_hyphen_values = true, value_parser = value)]
        account: String,
    },
}
