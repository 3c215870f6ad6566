//! The settings of a deployment: their table, and the checks that concern several settings.

mod agent;
mod keys;
mod names;
mod postgres;
mod redis;
mod table;
mod values;
mod webhooks;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use keyward_guard::TrustedProxies;

use crate::cache::l2::Address;
use crate::webhooks::Endpoint;
use keyward_core::key::{ForeignFormat, Prefix};
pub use keyward_ops::settings::values::Url;
use keyward_ops::settings::{self, HasTelemetry, Schema, Setting, Telemetry};
pub use keyward_ops::settings::{Entry, Errors, Inputs, Source};

pub use agent::{AgentSettings, agent_markdown, load_agent};
pub use postgres::PostgresUrls;
pub use table::TABLE;

/// The settings in force, with the source of each.
pub type Effective = settings::Effective<Settings>;

/// The settings in force.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where the gRPC service listens.
    pub listen: Listen,
    /// The address of the JSON port; `None` switches it off.
    pub rest_listen: Option<SocketAddr>,
    /// The origins whose pages may read the answers of the JSON port.
    pub rest_cors_origins: Vec<HeaderValue>,
    /// The proxies whose `x-forwarded-for` counts.
    pub trusted_proxies: TrustedProxies,
    /// The address of the side port; `None` switches it off.
    pub http_listen: Option<SocketAddr>,
    /// The names of this host by which a browser may open the status page.
    pub http_hosts: Vec<String>,
    /// The certificate of the gRPC service and of the JSON port; set together with `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// The authorities that vouch for client certificates.
    pub tls_client_ca: Option<PathBuf>,
    /// The directory of the files that Keyward writes: the embedded store, the keyring, the first token.
    pub data_dir: PathBuf,
    /// The file of the password for Postgres.
    pub store_password_file: Option<PathBuf>,
    /// Where keys and tokens are stored.
    pub store: Store,
    /// The file of the password for Redis.
    pub redis_password_file: Option<PathBuf>,
    /// The cache that instances share.
    pub redis: Option<Address>,
    /// The longest time for which an instance answers without news from the store: 2 s to 60 s.
    pub max_staleness: Duration,
    /// The longest time for which a near-cache in a caller answers without news from this instance: less than
    /// `max_staleness`.
    pub near_max_staleness: Duration,
    /// The most near-caches that this instance keeps fresh.
    pub max_near_caches: usize,
    /// Whether the operator declares that a failover of Postgres loses no commit.
    pub failover_loses_nothing: bool,
    /// At least one prefix: new keys get the first, all are accepted.
    pub key_prefixes: Vec<Prefix>,
    /// The formats of foreign keys. No text has one and starts like a key or a token of our own.
    pub foreign_formats: Vec<ForeignFormat>,
    /// Whether recoverable keys are refused.
    pub forbid_recoverable: bool,
    /// The longest life of a key.
    pub max_key_age: Option<Duration>,
    /// How many secrets of recoverable keys each caller may see again within a minute.
    pub max_reveals_per_minute: Option<u32>,
    /// How often the use of a key is written to the store.
    pub use_interval: Duration,
    /// How long events of the audit are kept; `None` for ever.
    pub audit_retention: Option<Duration>,
    /// The webhooks that get events.
    pub webhooks: Vec<Endpoint>,
    /// How long an attempt to send an event takes at most.
    pub webhook_timeout: Duration,
    /// The time before the expiry of a key at which an event tells it.
    pub expiry_notice: Duration,
    /// Whether connections to other hosts may run without protection: a listener without TLS,
    /// Postgres without proof of its identity, a Redis password without TLS.
    pub insecure: bool,
    /// The directory of the keyring.
    pub keyring: PathBuf,
    /// The number of verifying threads, at most 256; with 0 one thread does everything.
    pub workers: usize,
    /// The maximum number of connections of the gRPC port.
    pub max_connections: usize,
    /// The maximum number of bytes that all connections together buffer.
    pub max_buffered_bytes: usize,
    /// The limit for records in memory, in bytes.
    pub max_cached_bytes: usize,
    /// The age at which a client of the gRPC port must open another connection.
    pub max_connection_age: Option<Duration>,
    /// How long an instance keeps serving after SIGTERM, while its health is NOT_SERVING.
    pub drain_delay: Duration,
    /// The log, and what a collector receives.
    pub telemetry: Telemetry,
}

impl Settings {
    /// The files of the certificate and of its key, if the service uses TLS.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        Some((self.tls_cert.as_deref()?, self.tls_key.as_deref()?))
    }
}

/// Where the gRPC service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port; port 0 takes any free port.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl Listen {
    /// The address, unless it is a socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self::Unix(PathBuf::new())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where keys and tokens are stored.
#[derive(Clone, Debug)]
pub enum Store {
    /// The embedded store: an SQLite database in this file.
    Sqlite(PathBuf),
    /// The shared store: one Postgres database on these hosts.
    Postgres(PostgresUrls),
}

impl Default for Store {
    fn default() -> Self {
        Self::Sqlite(PathBuf::new())
    }
}

impl HasTelemetry for Settings {
    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn telemetry_mut(&mut self) -> &mut Telemetry {
        &mut self.telemetry
    }
}

impl Schema for Settings {
    const PREFIX: &'static str = "KEYWARD_";
    const FILE: &'static str = "keyward.toml";
    const FOREIGN: &'static [&'static str] = &[
        "KEYWARD_ENDPOINT",
        "KEYWARD_TOKEN_FILE",
        "KEYWARD_CA_FILE",
        "KEYWARD_CLIENT_CERTIFICATE",
        "KEYWARD_CLIENT_KEY",
        "KEYWARD_AGENT_*",
        "KEYWARD_BOT_*",
    ];
    const TABLE: &'static [Setting<Self>] = TABLE;

    fn check(&mut self, entries: &[Entry], errors: &mut Vec<String>) {
        // A wrong value has left a blank one, which says nothing about the combination.
        if errors.is_empty() {
            let refused = combinations(self);
            errors.extend(refused.filter_map(|(name, reason)| {
                Entry::find(entries, name).map(|entry| entry.refused(&reason))
            }));
        }
    }
}

/// Loads the settings from `inputs`. Reads only the settings file.
///
/// # Errors
///
/// Every unknown name, wrong value and refused combination, and an unreadable file, at once.
pub fn load(inputs: Inputs) -> Result<Effective, Errors> {
    settings::load(inputs)
}

/// The table of settings as Markdown, for the documentation.
pub fn markdown() -> String {
    settings::markdown::<Settings>()
}

/// The errors that concern several settings: the setting at fault, and the reason.
fn combinations(settings: &Settings) -> impl Iterator<Item = (&'static str, String)> {
    unused(settings)
        .chain(incomplete_tls(settings))
        .chain(exposed(settings))
}

/// Settings that have no effect.
fn unused(settings: &Settings) -> impl Iterator<Item = (&'static str, String)> {
    let is_embedded = matches!(settings.store, Store::Sqlite(_));
    let embedded = "has no use with the embedded store, which only one process serves: remove it, or \
                    use a Postgres store";
    let is_local = matches!(settings.listen, Listen::Unix(_)) && settings.rest_listen.is_none();
    let has_unused_tls = is_local && settings.tls_cert.is_some();
    let all = [
        (
            "tls_cert",
            has_unused_tls,
            "has no use with a Unix socket, which no network carries: remove it and tls_key",
        ),
        (
            "tls_client_ca",
            settings.tls_client_ca.is_some() && settings.tls_cert.is_none(),
            "has no use without TLS: set tls_cert and tls_key, or remove this",
        ),
        (
            "rest_cors_origins",
            settings.rest_listen.is_none() && !settings.rest_cors_origins.is_empty(),
            "has no use without `rest_listen`: set that, or remove this",
        ),
        (
            "http_hosts",
            settings.http_listen.is_none() && !settings.http_hosts.is_empty(),
            "has no use without `http_listen`: set that, or remove this",
        ),
        ("redis", is_embedded && settings.redis.is_some(), embedded),
        (
            "store_password_file",
            is_embedded && settings.store_password_file.is_some(),
            embedded,
        ),
        (
            "failover_loses_nothing",
            is_embedded && settings.failover_loses_nothing,
            embedded,
        ),
        (
            "redis_password_file",
            settings.redis.is_none() && settings.redis_password_file.is_some(),
            "has no use without `redis`: set that, or remove this",
        ),
    ];
    let all = all.into_iter().filter(|(_, is_unused, _)| *is_unused);
    all.map(|(name, _, reason)| (name, reason.to_owned()))
}

/// A certificate without its key, or a key without its certificate.
fn incomplete_tls(settings: &Settings) -> Option<(&'static str, String)> {
    let (given, missing) = match (&settings.tls_cert, &settings.tls_key) {
        (Some(_), None) => ("tls_cert", "tls_key"),
        (None, Some(_)) => ("tls_key", "tls_cert"),
        _ => return None,
    };
    let reason = format!("is set without {missing}: TLS needs both");
    Some((given, reason))
}

/// Settings that would send tokens, keys or passwords over a network in the clear, or to a server
/// that does not prove its identity.
fn exposed(settings: &Settings) -> impl Iterator<Item = (&'static str, String)> {
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    let listener = |address: Option<SocketAddr>| {
        let address = address.filter(|address| !is_loopback(address) && settings.tls().is_none());
        address.map(|_| {
            "is not a loopback address, and TLS is off: secrets would cross the network in the \
             clear; set tls_cert and tls_key, listen on 127.0.0.1, or set insecure = true"
                .to_owned()
        })
    };
    let store = match &settings.store {
        Store::Sqlite(_) => None,
        Store::Postgres(urls) => urls.first_unsafe().map(|url| {
            format!(
                "{url} leads to another host without sslmode=verify-full: an attacker on the \
                 network could read and change the store; write ?sslmode=verify-full after the \
                 database (and &sslrootcert=FILE if the system does not know the CA), or set \
                 insecure = true"
            )
        }),
    };
    let redis = settings
        .redis
        .as_ref()
        .filter(|redis| redis.has_password() && !redis.tls && !redis.nodes.is_local());
    let redis = redis.map(|_| {
        "leads to another host without TLS: its password would cross the network in the clear; \
         write rediss in place of redis (and ?ca=FILE if the system does not know the CA), or set \
         insecure = true"
            .to_owned()
    });
    let all = [
        ("listen", listener(settings.listen.address())),
        ("rest_listen", listener(settings.rest_listen)),
        ("http_listen", listener(settings.http_listen)),
        ("store", store),
        ("redis", redis),
    ];
    let is_insecure = settings.insecure;
    let all = all.into_iter().filter(move |_| !is_insecure);
    all.filter_map(|(name, reason)| Some((name, reason?)))
}

#[cfg(test)]
mod tests;
