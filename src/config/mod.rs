//! The settings of a deployment: one table, from which the flags, the variables, the keys of
//! `keyward.toml` and the documentation come. Flags heartbeat variables, variables heartbeat the file, the
//! file heartbeats the defaults; for each setting it is known which of them it came from.

mod parse;
mod postgres;
mod redis;
mod source;
mod table;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyward_core::key::Prefix;
use keyward_ops::LogFormat;

pub use postgres::PostgresUrls;
pub use redis::{RedisKind, RedisServers};
pub use source::{Inputs, Source};
pub use table::{Setting, TABLE, Takes, markdown};

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the gRPC service listens; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where the side port listens; `None` when it is off.
    pub http_listen: Option<SocketAddr>,
    /// The certificate of the gRPC service; with it there is a `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// The directory of what this program writes: the embedded store, the keyring, the first token.
    pub data_dir: PathBuf,
    /// Where keys and tokens are kept.
    pub store: Store,
    /// The cache that instances share; `None`: there is none.
    pub redis: Option<RedisServers>,
    /// How old what an instance knows may be when it answers: 2 s to 60 s.
    pub max_staleness: Duration,
    /// At least one; the first writes, all read.
    pub key_prefixes: Vec<Prefix>,
    /// Whether keys that can be shown again are refused.
    pub forbid_recoverable: bool,
    /// Whether an address that is not loopback may be listened on without TLS, Postgres reached on
    /// another host without proof of who answers there, and Redis sent a password without TLS.
    pub insecure: bool,
    /// The directory of the keyring.
    pub keyring: PathBuf,
    /// Threads that verify, at most 256; 0: one thread does everything.
    pub workers: usize,
    /// How the log is written.
    pub log_format: LogFormat,
    /// Where spans are sent to; `None`: nowhere.
    pub otlp_endpoint: Option<Url>,
}

impl Settings {
    /// The files of the certificate and its key, if the service speaks TLS.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        Some((self.tls_cert.as_deref()?, self.tls_key.as_deref()?))
    }
}

/// Where keys and tokens are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// The embedded store: an SQLite database in this file.
    Sqlite(PathBuf),
    /// One Postgres database, on these hosts.
    Postgres(PostgresUrls),
}

/// An `http` or `https` URL. A password in it is not shown, neither by `Display` nor by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// What it takes, when it is no URL with `http` or `https` and a host.
    pub fn new(text: &str) -> Result<Self, String> {
        parse::url(text)
    }

    /// The URL as it was given, with its password.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&parse::redact(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One setting as it is in force, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in `keyward.toml`.
    pub name: &'static str,
    /// The value as text; a password in a URL is redacted.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// The settings in force, and the provenance of each.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The settings.
    pub settings: Settings,
    /// One entry for each setting, in the order of the table.
    pub entries: Vec<Entry>,
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Errors(pub Vec<String>);

/// Gathers the settings from `inputs`. Reads no other file than the one they name.
///
/// # Errors
///
/// Every unknown name, wrong value and refused combination at once; a file that is named but
/// missing, and one that cannot be read.
pub fn load(inputs: Inputs) -> Result<Effective, Errors> {
    let (given, mut errors) = source::gather(inputs);
    let mut settings = table::blank();
    let mut entries = Vec::with_capacity(TABLE.len());
    for setting in TABLE {
        let (text, source) = match given.get(setting.name) {
            Some((text, source)) => (text.clone(), source.clone()),
            None => (setting.default_text(&settings), Source::Default),
        };
        if let Err(reason) = setting.set(&mut settings, &text) {
            errors.push(wrong(setting.name, &text, &source, &reason));
        }
        entries.push(Entry {
            name: setting.name,
            value: setting.show(&settings),
            source,
        });
    }
    if errors.is_empty() {
        errors.extend(useless(&settings, &entries));
        errors.extend(half(&settings, &entries));
        errors.extend(exposed(&settings, &entries));
    }
    if errors.is_empty() {
        Ok(Effective { settings, entries })
    } else {
        Err(Errors(errors))
    }
}

/// The line that says what is wrong with one setting, whose value is text that somebody gave.
fn wrong(name: &str, value: &str, source: &Source, reason: &str) -> String {
    refused(name, &parse::redact(value), source, reason)
}

/// The same, of a value that can be shown.
fn refused(name: &str, shown: &str, source: &Source, reason: &str) -> String {
    let shown: String = shown.chars().take(200).collect();
    format!("{name} = '{}' ({source}): {reason}", shown.escape_debug())
}

/// The same, of a setting that is refused for what another one says.
fn refused_entry(name: &str, reason: &str, entries: &[Entry]) -> Option<String> {
    let entry = entries.iter().find(|entry| entry.name == name)?;
    Some(refused(name, &entry.value, &entry.source, reason))
}

/// Nothing would use what is given.
fn useless(settings: &Settings, entries: &[Entry]) -> Option<String> {
    match (&settings.store, &settings.redis) {
        (Store::Sqlite(_), Some(_)) => refused_entry(
            "redis",
            "has no use with the embedded store, which one process serves: remove it, or name a \
             Postgres store",
            entries,
        ),
        _ => None,
    }
}

/// A certificate without its key, or the other way round.
fn half(settings: &Settings, entries: &[Entry]) -> Option<String> {
    let (given, missing) = match (&settings.tls_cert, &settings.tls_key) {
        (Some(_), None) => ("tls_cert", "tls_key"),
        (None, Some(_)) => ("tls_key", "tls_cert"),
        _ => return None,
    };
    let reason = format!("is set without {missing}: TLS takes both, or neither");
    refused_entry(given, &reason, entries)
}

/// Tokens, keys and passwords would cross a network in the clear, or go to a server that did not
/// prove who it is.
fn exposed(settings: &Settings, entries: &[Entry]) -> Vec<String> {
    let is_exposed = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let listener = |address: Option<SocketAddr>| {
        let address = address.filter(|address| is_exposed(address) && settings.tls().is_none());
        address.map(|_| {
            "is not a loopback address, and there is no TLS: secrets would cross the network in \
             the clear; set tls_cert and tls_key, listen on 127.0.0.1, or set insecure = true"
                .to_owned()
        })
    };
    let store = match &settings.store {
        Store::Sqlite(_) => None,
        Store::Postgres(urls) => urls.first_unsafe().map(|url| {
            format!(
                "{url} leads to another host without sslmode=verify-full: whoever sits between \
                 could read and change what is stored; write ?sslmode=verify-full after the \
                 database (and &sslrootcert=FILE if the system does not know the CA), or set \
                 insecure = true"
            )
        }),
    };
    let redis = settings
        .redis
        .as_ref()
        .filter(|servers| servers.is_exposed());
    let redis = redis.map(|_| {
        "leads to another host without TLS: its password would cross the network in the clear; \
         write rediss in place of redis (and ?ca=FILE if the system does not know the CA), or set \
         insecure = true"
            .to_owned()
    });
    [
        ("listen", listener(Some(settings.listen))),
        ("http_listen", listener(settings.http_listen)),
        ("store", store),
        ("redis", redis),
    ]
    .into_iter()
    .filter(|_| !settings.insecure)
    .filter_map(|(name, reason)| refused_entry(name, &reason?, entries))
    .collect()
}

#[cfg(test)]
mod tests;
