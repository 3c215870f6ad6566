//! The arguments of the verbs that move keys in and out.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::super::input::reason;

/// The format of an import file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum FileFormat {
    Csv,
    Jsonl,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(in crate::cli) struct Import {
    #[command(subcommand)]
    pub(in crate::cli) call: Option<ImportCall>,
    /// File with the keys, CSV with a header or JSON lines; `-` reads stdin
    #[arg(value_name = "FILE|-", required = true)]
    pub(in crate::cli) file: Option<PathBuf>,
    /// Format of the file [default: jsonl if it starts with a brace, otherwise csv]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(in crate::cli) format: Option<FileFormat>,
    /// Change nothing; only report what would happen
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// ID of the import, a UUID, to add to an earlier one [default: a new one]
    #[arg(long, value_name = "BATCH_ID")]
    pub(in crate::cli) batch: Option<String>,
    /// Write what happened to each line to this file, as JSON lines, instead of the bad ones to stderr
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) report: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(in crate::cli) enum ImportCall {
    /// Revoke all keys of an import, for ever: they cannot be imported again
    Undo {
        /// ID of the import, a UUID
        #[arg(value_name = "BATCH_ID")]
        batch_id: String,
        /// Reason, stored with each key
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true,
            allow_hyphen_values = true,
            value_parser = reason
        )]
        reason: String,
    },
}

#[derive(Args)]
pub(in crate::cli) struct Export {
    /// Include revoked ones
    #[arg(long)]
    pub(in crate::cli) include_revoked: bool,
}
