//! Defines the verbs, their arguments and their help texts.

mod audit;
mod keyring;
mod local;
mod moves;
mod token;
mod webhooks;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{ArgGroup, Args, Command, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::input::{
    KeyText, duration, endpoints, key_text, pair, reason, state, time, value, wire_duration,
};
use crate::config::{AgentSettings, Settings};
pub(super) use audit::{AuditCall, AuditExport, AuditFilter, AuditList, AuditVerify};
pub(super) use keyring::{AccountCall, KeyringCall, KeyringKey, KeyringKind, KeyringVerb};
pub use keyring::{AddedKind, KeyringCommand};
use keyward_ops::VERSION;
use keyward_ops::settings::{flags, flags_of};
use keyward_proto::v1::State;
pub use local::{ClockCommand, EpochCommand, ExpiredKeys, LocalCommand};

pub(super) use moves::{Export, FileFormat, Import, ImportCall};
pub(super) use token::{TokenCall, TokenCreate};
pub(super) use webhooks::WebhookCall;

const AFTER_HELP: &str = "\
Exit codes:
  0   success
  1   failure: stderr shows the reason
  2   the verdict on a key is not VALID
  64  the command line or a setting is wrong

Set a setting by a flag, an environment variable or a key in keyward.toml. A flag overrides a \
variable, and a variable overrides the file.
Other users of this machine can see the arguments of a command. Pass secrets on stdin, as `-`.
With `--output json`, a command prints one object with the names of the API. Times are in RFC 3339 \
format, enum values have no prefix (VALID, ACTIVE), and absent values are null.";

/// The whole command line.
pub(super) fn command() -> Command {
    let command = Verb::augment_subcommands(Command::new("keyward"))
        .version(VERSION)
        .about("An API-key authority: when a revocation returns, the key is dead everywhere")
        .after_help(AFTER_HELP)
        .mut_subcommands(|verb| match verb.get_name() {
            "serve" | "config" | "doctor" | "migrate" | "init" => with_settings(verb),
            "agent" => verb.args(flags::<AgentSettings>()),
            "epoch" | "clock" => verb.mut_subcommands(with_settings),
            "keyring" => verb.mut_subcommands(|verb| match verb.get_name() {
                "add" => with_settings(verb),
                _ => for_client(verb),
            }),
            "token" | "account" | "webhook" => verb.mut_subcommands(for_client),
            "completions" | "man" => verb,
            "top" => verb.args(flags_of::<Settings>(&["http_listen"])),
            "import" => for_client(verb.mut_subcommands(for_client)),
            "audit" => verb.mut_subcommands(|verb| match verb.get_name() {
                "export" => as_lines(verb),
                _ => for_client(verb),
            }),
            "export" => as_lines(verb),
            _ => for_client(verb),
        });
    with_settings(command)
}

fn with_settings(command: Command) -> Command {
    command.args(flags::<Settings>())
}

/// Adds the options of a client, and the settings that locate the service and its first token.
fn for_client(command: Command) -> Command {
    ClientArgs::augment_args(command).args(flags_of::<Settings>(&["listen", "data_dir"]))
}

/// For a client that prints JSON lines.
fn as_lines(command: Command) -> Command {
    for_client(command).mut_arg("output", |output| {
        let only = PossibleValuesParser::new(["jsonl"]).map(|_| Format::Jsonl);
        output.value_parser(only).default_value("jsonl")
    })
}

/// Whether `text` is the name of a flag of any verb.
pub(super) fn is_flag(text: &str) -> bool {
    fn has(command: &Command, name: &str) -> bool {
        let mut flags = command.get_arguments();
        flags.any(|flag| flag.get_long() == Some(name))
            || command.get_subcommands().any(|verb| has(verb, name))
    }
    let name = text.strip_prefix("--");
    matches!(text, "-h" | "--help") || name.is_some_and(|name| has(&command(), name))
}

#[derive(Subcommand)]
pub(super) enum Verb {
    #[command(flatten)]
    Local(LocalCommand),
    /// Show the effective settings and the source of each
    Config {
        /// Output format
        #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
        output: Format,
    },
    /// Check what the service needs: settings, data directory, TLS, store, keyring, Redis, clock; changes
    /// nothing, and exits with 1 if something would stop the service
    Doctor {
        /// Output format
        #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
        output: Format,
    },
    /// Verify keys for the programs on this machine from a near-cache, and pass on their other calls
    Agent,
    /// Manage the keyring: its files on this machine, and which keys are in use
    #[command(subcommand)]
    Keyring(KeyringVerb),
    /// Show what an instance does, each second until Ctrl-C: its status page in the terminal
    Top {
        /// Host and port of the instance's side port [default: from `http_listen`]
        #[arg(long, value_name = "HOST:PORT", value_parser = value)]
        http_endpoint: Option<String>,
        /// Print the numbers of one second and end, as without a terminal
        #[arg(long)]
        once: bool,
    },
    /// Print the completions of this command line for a shell
    Completions {
        /// The shell
        #[arg(value_enum, value_name = "SHELL")]
        shell: Shell,
    },
    /// Write the manual, one page for each command, to a directory
    Man {
        /// The directory, such as /usr/local/share/man/man1
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
    },
    #[command(flatten)]
    Call(Box<Call>),
}

/// The verbs that call the service.
#[derive(Subcommand)]
pub(super) enum Call {
    /// Show the key of a slot; create the key if the slot is empty
    Issue(Issue),
    /// Show a key without its secret
    Get(Get),
    /// List the keys of an account, or of all accounts
    List(List),
    /// Revoke a key, or all keys of an account; on success, they are dead everywhere
    Revoke(Revoke),
    /// Change a key; on success, the change is in force everywhere
    Update(Update),
    /// Check whether a key is valid; exits with 0 if it is VALID, otherwise with 2
    Verify(Verify),
    /// Manage the tokens with which programs call Keyward
    #[command(subcommand)]
    Token(TokenCall),
    /// Import keys that another system issued, or undo an import
    Import(Import),
    /// Print all keys of all accounts without their secrets, one JSON object a line
    Export(Export),
    #[command(skip)]
    Keyring(KeyringCall),
    /// Manage the personal data of accounts
    #[command(subcommand)]
    Account(AccountCall),
    /// Show who did what, and check that nobody has changed this record
    #[command(subcommand)]
    Audit(AuditCall),
    /// Show what waits for the webhooks, test them, and send events again
    #[command(subcommand)]
    Webhook(WebhookCall),
    /// Check whether the service serves, without a token; exits with 0 or 1
    Health,
}

/// The output format: lines for people, or one JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
    /// Only for exports.
    #[value(skip)]
    Jsonl,
}

#[derive(Args)]
#[command(next_help_heading = "Client")]
pub(super) struct ClientArgs {
    /// URL of the service, http:// or https://; of several, separated by commas, the next is tried
    /// if one is unavailable [env: KEYWARD_ENDPOINT] [default: from `listen` and `tls_cert`]
    #[arg(long, value_name = "URLS", value_parser = endpoints)]
    pub(super) endpoint: Option<String>,
    /// PEM file with the authorities to trust instead of the system's [env: KEYWARD_CA_FILE]
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// File with your token [env: KEYWARD_TOKEN_FILE] [default: admin.token in data_dir]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// PEM file with your client certificate, instead of a token [env: KEYWARD_CLIENT_CERTIFICATE]
    #[arg(long, value_name = "FILE")]
    pub(super) client_certificate: Option<PathBuf>,
    /// PEM file with the key of your client certificate [env: KEYWARD_CLIENT_KEY]
    #[arg(long, value_name = "FILE")]
    pub(super) client_key: Option<PathBuf>,
    /// Time limit of each call; a change can take 5s more than the longest bound of all instances: their
    /// `max_staleness`, plus 2 %, plus 100ms [default: 75s, or 24h for a change of many keys]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
    /// Output format
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(super) output: Format,
}

#[derive(Args)]
#[command(group = ArgGroup::new("expiry"))]
pub(super) struct Issue {
    /// The account that owns the key
    #[arg(long, value_name = "ACCOUNT_ID", allow_hyphen_values = true, value_parser = value)]
    pub(super) account: String,
    /// The slot of the account [default: default]
    #[arg(long, allow_hyphen_values = true, value_parser = value)]
    pub(super) name: Option<String>,
    /// A scope of the key; repeat for more
    #[arg(long, value_name = "SCOPE", allow_hyphen_values = true, value_parser = value)]
    pub(super) scope: Vec<String>,
    /// Metadata of the key; repeat for more
    #[arg(long, value_name = "NAME=VALUE", allow_hyphen_values = true, value_parser = pair)]
    pub(super) metadata: Vec<(String, String)>,
    /// A network from which the key may be used; repeat for more [default: any network]
    #[arg(long, value_name = "NETWORK")]
    pub(super) cidr: Vec<String>,
    /// Keep a sealed copy, so that the secret can be shown again
    #[arg(long)]
    pub(super) recoverable: bool,
    /// Lifetime of the key, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = wire_duration, group = "expiry")]
    pub(super) ttl: Option<prost_types::Duration>,
    /// Time at which the key expires, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time, group = "expiry")]
    pub(super) expire_time: Option<prost_types::Timestamp>,
}

#[derive(Args)]
#[command(group = ArgGroup::new("target").required(true))]
pub(super) struct Get {
    /// ID of the key, a UUID
    #[arg(value_name = "KEY_ID", group = "target")]
    pub(super) key_id: Option<String>,
    /// The key itself; `-` reads it from stdin
    #[arg(long, value_name = "KEY|-", value_parser = key_text, group = "target")]
    pub(super) key: Option<KeyText>,
}

#[derive(Args)]
pub(super) struct List {
    /// The account that owns the keys [default: all accounts]
    #[arg(long, value_name = "ACCOUNT_ID", allow_hyphen_values = true, value_parser = value)]
    pub(super) account: Option<String>,
    /// Only keys in this state: active, disabled, expired or revoked
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub(super) state: Option<State>,
    /// Only keys whose names begin with this
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = value)]
    pub(super) name_prefix: Option<String>,
    /// Only keys that were created at least this long ago, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = wire_duration)]
    pub(super) older_than: Option<prost_types::Duration>,
    /// Only keys that were not used for this long, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = wire_duration)]
    pub(super) unused_for: Option<prost_types::Duration>,
    #[command(flatten)]
    pub(super) page: Page,
}

#[derive(Args)]
pub(super) struct Page {
    /// Include revoked ones
    #[arg(long)]
    pub(super) all: bool,
    /// Entries per page; larger values than 1000 mean 1000
    #[arg(
        long,
        value_name = "NUMBER",
        allow_negative_numbers = true,
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(super) page_size: i32,
    /// Show only the page with this token, '' for the first page [default: all pages]
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, value_parser = value)]
    pub(super) page_token: Option<String>,
}

#[derive(Args)]
#[command(group = ArgGroup::new("target").required(true))]
pub(super) struct Revoke {
    /// ID of the key, a UUID
    #[arg(value_name = "KEY_ID", group = "target")]
    pub(super) key_id: Option<String>,
    /// The key itself; `-` reads it from stdin
    #[arg(long, value_name = "KEY|-", value_parser = key_text, group = "target")]
    pub(super) key: Option<KeyText>,
    /// Revoke all keys of this account
    #[arg(long, value_name = "ACCOUNT_ID", group = "target", allow_hyphen_values = true, value_parser = value)]
    pub(super) account: Option<String>,
    /// Create a successor and show it; only with KEY_ID
    #[arg(long, conflicts_with_all = ["key", "account"])]
    pub(super) replace: bool,
    /// Time for which the key stays alive, such as 10m, at most 30 days; only with KEY_ID
    #[arg(long, value_name = "DURATION", value_parser = wire_duration, conflicts_with_all = ["key", "account"])]
    pub(super) grace: Option<prost_types::Duration>,
    /// Reason, stored with the key
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        value_parser = reason
    )]
    pub(super) reason: String,
}

#[derive(Args)]
#[command(group = ArgGroup::new("expiry"))]
pub(super) struct Update {
    /// ID of the key, a UUID
    #[arg(value_name = "KEY_ID")]
    pub(super) key_id: String,
    /// Replace all scopes with this one; repeat for more
    #[arg(long, value_name = "SCOPE", conflicts_with = "clear_scopes", allow_hyphen_values = true, value_parser = value)]
    pub(super) scope: Vec<String>,
    /// Remove all scopes
    #[arg(long)]
    pub(super) clear_scopes: bool,
    /// Replace all metadata with this entry; repeat for more
    #[arg(long, value_name = "NAME=VALUE", allow_hyphen_values = true, value_parser = pair, conflicts_with = "clear_metadata")]
    pub(super) metadata: Vec<(String, String)>,
    /// Remove all metadata
    #[arg(long)]
    pub(super) clear_metadata: bool,
    /// Replace all allowed networks with this one; repeat for more
    #[arg(long, value_name = "NETWORK", conflicts_with = "clear_cidrs")]
    pub(super) cidr: Vec<String>,
    /// Allow the key from any network
    #[arg(long)]
    pub(super) clear_cidrs: bool,
    /// Time at which the key expires, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time, group = "expiry")]
    pub(super) expire_time: Option<prost_types::Timestamp>,
    /// Lifetime of the key from now, such as 30d; uses the clock of this machine
    #[arg(long, value_name = "DURATION", value_parser = duration, group = "expiry")]
    pub(super) ttl: Option<Duration>,
    /// Remove the expiry
    #[arg(long, group = "expiry")]
    pub(super) never_expires: bool,
    /// Disable the key until you enable it again
    #[arg(long, conflicts_with = "enable")]
    pub(super) disable: bool,
    /// Enable the key again
    #[arg(long)]
    pub(super) enable: bool,
}

#[derive(Args)]
pub(super) struct Verify {
    /// The key; `-` reads it from stdin
    #[arg(value_name = "KEY|-", value_parser = key_text)]
    pub(super) key: KeyText,
    /// A scope that the key must have; repeat for more
    #[arg(long, value_name = "SCOPE", allow_hyphen_values = true, value_parser = value)]
    pub(super) scope: Vec<String>,
    /// IP address of the end user
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) client_ip: String,
    /// Read the store instead of a cache
    #[arg(long)]
    pub(super) strong: bool,
}
