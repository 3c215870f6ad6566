//! The arguments of the verbs about the audit.

use clap::{Args, Subcommand};
use keyward_proto::v1::AuditAction;

use super::super::input::{time, value};

#[derive(Subcommand)]
pub(in crate::cli) enum AuditCall {
    /// List events, the newest first; one page
    List(AuditList),
    /// Print all events as JSON lines, the oldest first
    Export(AuditExport),
    /// Check that no sealed event was altered, removed or put in between; exits with 0 or 1
    Verify(AuditVerify),
}

#[derive(Args)]
pub(in crate::cli) struct AuditFilter {
    /// Only events of this account
    #[arg(long, value_name = "ACCOUNT_ID", allow_hyphen_values = true, value_parser = value)]
    pub(in crate::cli) account: Option<String>,
    /// Only events about the key with this ID
    #[arg(long, value_name = "KEY_ID")]
    pub(in crate::cli) key_id: Option<String>,
    /// Only events of the caller with this name
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, value_parser = value)]
    pub(in crate::cli) caller: Option<String>,
    /// Only events with this action, such as issue, revoke or deny
    #[arg(long, value_name = "ACTION", value_parser = action)]
    pub(in crate::cli) action: Option<AuditAction>,
    /// Only events at this time or later, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(in crate::cli) start_time: Option<prost_types::Timestamp>,
    /// Only events before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(in crate::cli) end_time: Option<prost_types::Timestamp>,
}

#[derive(Args)]
pub(in crate::cli) struct AuditList {
    #[command(flatten)]
    pub(in crate::cli) filter: AuditFilter,
    /// The oldest first
    #[arg(long)]
    pub(in crate::cli) oldest_first: bool,
    /// Entries per page; larger values than 1000 mean 1000 [default: 50]
    #[arg(
        long,
        value_name = "NUMBER",
        allow_negative_numbers = true,
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(in crate::cli) page_size: i32,
    /// The page with this token [default: the first page]
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true, value_parser = value)]
    pub(in crate::cli) page_token: String,
}

#[derive(Args)]
pub(in crate::cli) struct AuditExport {
    #[command(flatten)]
    pub(in crate::cli) filter: AuditFilter,
    /// Go on with new events until the command is stopped
    #[arg(long, conflicts_with = "end_time")]
    pub(in crate::cli) follow: bool,
}

#[derive(Args)]
pub(in crate::cli) struct AuditVerify {
    /// A seal from the log of an instance, which the audit must contain; without it, nothing shows that the
    /// last events were removed
    #[arg(
        long,
        value_name = "NUMBER:MAC",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli) head: String,
}

/// Reads the name of an action, such as `revoke`.
fn action(text: &str) -> Result<AuditAction, String> {
    let known = (1..).map_while(|number| AuditAction::try_from(number).ok());
    let named = known.map(|action| {
        let name = action.as_str_name().trim_start_matches("AUDIT_ACTION_");
        (name.to_lowercase(), action)
    });
    let named: Vec<_> = named.collect();
    match named
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
    {
        Some((_, action)) => Ok(*action),
        None => {
            let names: Vec<_> = named.iter().map(|(name, _)| name.as_str()).collect();
            Err(format!("must be one of {}", names.join(", ")))
        }
    }
}
