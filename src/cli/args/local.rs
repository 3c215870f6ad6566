//! Defines the commands that this process executes itself.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::KeyringCommand;
use crate::cli::input::{epoch_reason, service_role};

/// The commands that this process executes itself, without a running instance. The command line knows
/// no store, so the caller of [`run`](crate::cli::run) executes them. For the embedded store, only
/// [`Self::Serve`], [`Self::Clock`], [`Self::Keyring`] and [`Self::Doctor`] are executed.
#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Start the service (the default without a verb)
    Serve,
    /// Update the schema of a Postgres store; the user in `store` must own it
    Migrate {
        /// Postgres role of the service, which gets the rights that it needs
        #[arg(long, value_name = "ROLE", allow_hyphen_values = true, value_parser = service_role)]
        service_role: Option<String>,
    },
    /// Set up a new Postgres store: its schema, its keyring and its first token; also replaces a lost last
    /// admin token
    Init {
        /// Postgres role of the service, which gets the rights that it needs
        #[arg(long, value_name = "ROLE", allow_hyphen_values = true, value_parser = service_role)]
        service_role: Option<String>,
        /// New file for the first token; it must not exist [default: admin.token in data_dir]
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Succeed if the store already has its keyring and tokens; only update its schema
        #[arg(long)]
        if_new: bool,
    },
    /// Manage the epoch of a Postgres store after a restore or failover
    #[command(subcommand)]
    Epoch(EpochCommand),
    /// Repair the store's time after a clock was ahead
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Changes the keyring on this machine
    #[command(skip)]
    Keyring(KeyringCommand),
    /// Examines the deployment
    #[command(skip)]
    Doctor,
}

/// The commands for the epoch.
#[derive(Debug, Subcommand)]
pub enum EpochCommand {
    /// Begin a new epoch after the log lost its last changes: instances that refused to serve, serve
    /// again; the lost changes stay lost
    Advance {
        /// Reason, stored in the audit log
        #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = epoch_reason)]
        reason: String,
    },
}

/// The commands for the store's time.
#[derive(Debug, Subcommand)]
pub enum ClockCommand {
    /// Lower the store's time to the clock of its server, after that clock was ahead. Stop all instances
    /// first. Every grace ends at once, so that no dead key lives again
    Lower {
        /// Reason, stored in the audit log
        #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = epoch_reason)]
        reason: String,
        /// What to do with keys that expired only because the clock was ahead
        #[arg(long, value_enum, value_name = "DECISION")]
        expired: Option<ExpiredKeys>,
    },
}

/// What to do with keys that have expired by the store's time, but not by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExpiredKeys {
    /// Let them live until they expire
    Revive,
    /// Revoke them
    Revoke,
}
