//! The verbs and their arguments.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Command, Subcommand, ValueEnum};

use super::flags;
use super::input::{KeyText, key_text, pair, reason, role, service_role, time};
use crate::config::Url;
use keyward_ops::VERSION;
use keyward_proto::v1::Role;

const AFTER_HELP: &str = "\
Exit codes:
  0   done
  1   failed: the reason is on stderr
  2   a key was judged, and its verdict is not VALID
  64  the command line or a setting is wrong

A setting is a flag, a variable or a key of keyward.toml; a flag beats a variable, a variable the file.
An argument is visible to other users of this machine while the command runs: pass secrets through
stdin, as `-`.
With `--output json` a command prints one object. Its names are those of the API, its times RFC 3339,
its enum values stand without their prefix (VALID, ACTIVE), and what is absent is null.";

/// The whole command line.
pub(super) fn command() -> Command {
    let command = Verb::augment_subcommands(Command::new("keyward"))
        .version(VERSION)
        .about("An API-key authority whose revocations hold everywhere once they return")
        .after_help(AFTER_HELP)
        .mut_subcommands(|verb| match verb.get_name() {
            "serve" | "config" | "migrate" | "init" => flags::all(verb),
            "epoch" | "keyring" => verb.mut_subcommands(flags::all),
            "token" => verb.mut_subcommands(flags::for_clients),
            _ => flags::for_clients(verb),
        });
    flags::all(command)
}

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Start the service; the same as no verb
    Serve,
    /// Show the settings in force, and where each came from
    Config(Config),
    #[command(flatten)]
    Direct(Direct),
    #[command(flatten)]
    Call(Box<Call>),
}

/// The verbs that go straight to the store: for when no instance can serve.
#[derive(Subcommand)]
pub(super) enum Direct {
    /// Bring the schema of a Postgres store up to date; `store` names its owner as the user
    Migrate(Migrate),
    /// Migrate a new Postgres store, and make its keyring and its first token
    Init(Init),
    /// Manage the epoch of a Postgres store
    Epoch(Epoch),
    /// Manage the keyring on this machine
    Keyring(Keyring),
}

/// The verbs that call the service.
#[derive(Subcommand)]
pub(super) enum Call {
    /// Show the key of a slot; create it if there is none
    Issue(Issue),
    /// Show what is known of a key, never its secret
    Get(Get),
    /// List the keys of an account
    List(List),
    /// Revoke a key, or all keys of an account; when this returns, they are dead everywhere
    Revoke(Revoke),
    /// Change a key; when this returns, the change is in force everywhere
    Update(Update),
    /// Judge a key: exits with 0 if it is VALID, with 2 if it is not
    Verify(Verify),
    /// Manage the tokens of callers
    Token(Token),
    /// Ask whether the service serves, which takes no token: exits with 0 if it does, with 1 if not
    Health(Health),
}

impl Call {
    /// How to reach the service, and how to print its answer.
    pub(super) fn client_args(&self) -> &ClientArgs {
        match self {
            Self::Issue(args) => &args.client,
            Self::Get(args) => &args.client,
            Self::List(args) => &args.client,
            Self::Revoke(args) => &args.client,
            Self::Update(args) => &args.client,
            Self::Verify(args) => &args.client,
            Self::Health(args) => &args.client,
            Self::Token(args) => match &args.verb {
                TokenVerb::Create(args) => &args.client,
                TokenVerb::List(args) => &args.client,
                TokenVerb::Revoke(args) => &args.client,
            },
        }
    }
}

/// How a result is printed: lines for people, or one JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Args)]
#[command(next_help_heading = "Client")]
pub(super) struct ClientArgs {
    /// The service, http:// or https:// [env: KEYWARD_ENDPOINT] [default: where `listen` and
    /// `tls_cert` say that it is]
    #[arg(long, value_name = "URL", value_parser = Url::new)]
    pub(super) endpoint: Option<Url>,
    /// File of the authorities that are believed in place of the system's, in PEM [env:
    /// KEYWARD_CA_FILE]
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// File that holds the caller's token [env: KEYWARD_TOKEN_FILE] [default: admin.token in
    /// data_dir]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// How long to wait for the answer; a revoke may take as long as `max_staleness`
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    /// How to print the result
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(super) output: Format,
}

#[derive(Args)]
#[command(group = ArgGroup::new("expiry"))]
pub(super) struct Issue {
    /// Whose key it is
    #[arg(long, value_name = "ACCOUNT_ID")]
    pub(super) account: String,
    /// The slot of the account [default: default]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// What the key may do; once for each scope
    #[arg(long, value_name = "SCOPE")]
    pub(super) scope: Vec<String>,
    /// A note that the key carries; once for each
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) metadata: Vec<(String, String)>,
    /// A network from which the key may be used; once for each [default: any]
    #[arg(long, value_name = "NETWORK")]
    pub(super) cidr: Vec<String>,
    /// Keep a sealed copy, so that the key can be shown again
    #[arg(long)]
    pub(super) recoverable: bool,
    /// How long the key lives, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, group = "expiry")]
    pub(super) ttl: Option<Duration>,
    /// When the key expires, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time, group = "expiry")]
    pub(super) expire_time: Option<prost_types::Timestamp>,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
#[command(group = ArgGroup::new("target").required(true))]
pub(super) struct Get {
    /// The public name of the key, a UUID
    #[arg(value_name = "KEY_ID", group = "target")]
    pub(super) key_id: Option<String>,
    /// The key itself; `-` reads it from stdin
    #[arg(long, value_name = "KEY|-", value_parser = key_text, group = "target")]
    pub(super) key: Option<KeyText>,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
pub(super) struct List {
    /// Whose keys
    #[arg(long, value_name = "ACCOUNT_ID")]
    pub(super) account: String,
    #[command(flatten)]
    pub(super) page: Page,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
pub(super) struct Page {
    /// Show revoked ones, too
    #[arg(long)]
    pub(super) all: bool,
    /// How many to ask for at a time, at most 1000
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(super) page_size: i32,
    /// Show only the page of this token, '' for the first one; without it, all pages
    #[arg(long, value_name = "TOKEN")]
    pub(super) page_token: Option<String>,
}

#[derive(Args)]
#[command(group = ArgGroup::new("target").required(true))]
pub(super) struct Revoke {
    /// The public name of the key, a UUID
    #[arg(value_name = "KEY_ID", group = "target")]
    pub(super) key_id: Option<String>,
    /// The key itself; `-` reads it from stdin
    #[arg(long, value_name = "KEY|-", value_parser = key_text, group = "target")]
    pub(super) key: Option<KeyText>,
    /// All keys of this account
    #[arg(long, value_name = "ACCOUNT_ID", group = "target")]
    pub(super) account: Option<String>,
    /// Make a successor and show it; only with KEY_ID
    #[arg(long, conflicts_with_all = ["key", "account"])]
    pub(super) replace: bool,
    /// How long the key lives on, such as 10m, at most 30 days; only with KEY_ID
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, conflicts_with_all = ["key", "account"])]
    pub(super) grace: Option<Duration>,
    /// Why; kept with the key
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
#[command(group = ArgGroup::new("expiry"))]
pub(super) struct Update {
    /// The public name of the key, a UUID
    #[arg(value_name = "KEY_ID")]
    pub(super) key_id: String,
    /// The scopes that replace those it has; once for each
    #[arg(long, value_name = "SCOPE", conflicts_with = "clear_scopes")]
    pub(super) scope: Vec<String>,
    /// Take all scopes away
    #[arg(long)]
    pub(super) clear_scopes: bool,
    /// The notes that replace those it has; once for each
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, conflicts_with = "clear_metadata")]
    pub(super) metadata: Vec<(String, String)>,
    /// Take all notes away
    #[arg(long)]
    pub(super) clear_metadata: bool,
    /// The networks that replace those it has; once for each
    #[arg(long, value_name = "NETWORK", conflicts_with = "clear_cidrs")]
    pub(super) cidr: Vec<String>,
    /// Let it be used from anywhere
    #[arg(long)]
    pub(super) clear_cidrs: bool,
    /// When the key expires, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time, group = "expiry")]
    pub(super) expire_time: Option<prost_types::Timestamp>,
    /// How long the key lives from now on (by the clock of this machine), such as 30d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, group = "expiry")]
    pub(super) ttl: Option<Duration>,
    /// Take the expiry away
    #[arg(long, group = "expiry")]
    pub(super) never_expires: bool,
    /// Switch the key off, for now
    #[arg(long, conflicts_with = "enable")]
    pub(super) disable: bool,
    /// Switch the key on again
    #[arg(long)]
    pub(super) enable: bool,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
pub(super) struct Verify {
    /// The key; `-` reads it from stdin
    #[arg(value_name = "KEY|-", value_parser = key_text)]
    pub(super) key: KeyText,
    /// A scope that the key must hold; once for each
    #[arg(long, value_name = "SCOPE")]
    pub(super) scope: Vec<String>,
    /// The address of the end user
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) client_ip: String,
    /// Read the store, even if the answer is known from memory
    #[arg(long)]
    pub(super) strong: bool,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
pub(super) struct Health {
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
pub(super) struct Token {
    #[command(subcommand)]
    pub(super) verb: TokenVerb,
}

#[derive(Subcommand)]
pub(super) enum TokenVerb {
    /// Make a token for a caller; it is shown once
    Create(TokenCreate),
    /// List the tokens, never their secrets
    List(TokenList),
    /// Revoke a token; when this returns, it is dead everywhere
    Revoke(TokenRevoke),
}

#[derive(Args)]
pub(super) struct TokenCreate {
    /// The caller's name; several tokens may share it
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// What the caller may do; once for each role: issuer, verifier, revealer, reader, editor,
    /// reporter, admin
    #[arg(long, value_name = "ROLE", required = true, value_parser = role)]
    pub(super) role: Vec<Role>,
    /// Write the token into this file, with mode 0600, and do not show it; if the file is there,
    /// nothing is made
    #[arg(long, value_name = "FILE")]
    pub(super) into: Option<PathBuf>,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
pub(super) struct TokenList {
    #[command(flatten)]
    pub(super) page: Page,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
pub(super) struct TokenRevoke {
    /// The public name of the token, a UUID
    #[arg(value_name = "TOKEN_ID")]
    pub(super) token_id: String,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(Args)]
pub(super) struct Migrate {
    /// The Postgres role that the service runs as; it is granted what it needs
    #[arg(long, value_name = "ROLE", value_parser = service_role)]
    pub(super) service_role: Option<String>,
}

#[derive(Args)]
pub(super) struct Init {
    #[command(flatten)]
    pub(super) migrate: Migrate,
    /// Where the first token is written; it must not exist [default: admin.token in data_dir]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Exit with 0 if the store has its keyring and tokens already; its schema is brought up to date
    #[arg(long)]
    pub(super) if_new: bool,
}

#[derive(Args)]
pub(super) struct Epoch {
    #[command(subcommand)]
    pub(super) verb: EpochVerb,
}

#[derive(Subcommand)]
pub(super) enum EpochVerb {
    /// Begin a new epoch after the log lost its tail: instances that refused serve again, and what
    /// was lost with the old primary stays lost
    Advance(EpochAdvance),
}

#[derive(Args)]
pub(super) struct EpochAdvance {
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(super) reason: String,
}

#[derive(Args)]
pub(super) struct Keyring {
    #[command(subcommand)]
    pub(super) verb: KeyringVerb,
}

#[derive(Subcommand)]
pub(super) enum KeyringVerb {
    /// Add a new version of the cache key, which `redis` needs: instances use the newest one that
    /// they find at their start, and share nothing with those that use another
    Cache,
}

#[derive(Args)]
pub(super) struct Config {
    /// How to print the settings
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(super) output: Format,
}
