//! The settings of an agent.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use keyward_guard::TrustedProxies;
use keyward_ops::settings::values::{address, duration, number, optional, path, size, switch};
use keyward_ops::settings::{
    Entry, Errors, HasTelemetry, Inputs, Schema, Setting, Takes, Telemetry, key_of,
};

use super::Listen;
use super::values::{MAX_WORKERS, listen, trusted_proxies};

const CACHED: RangeInclusive<usize> = 1 << 20..=1 << 40;
const BUFFERED: RangeInclusive<usize> = 16 << 20..=1 << 40;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
/// The bits of a socket's mode that let every user of the machine connect.
const OTHERS: u32 = 0o006;

/// The settings in force of an agent.
#[derive(Clone, Debug, Default)]
pub struct AgentSettings {
    /// The instances of Keyward.
    pub endpoints: Vec<String>,
    /// The files with the agent's own certificate and its key.
    pub client_certificate: Option<PathBuf>,
    /// See `client_certificate`.
    pub client_key: Option<PathBuf>,
    /// The file with the agent's own token.
    pub token_file: Option<PathBuf>,
    /// The file with the authorities to trust for Keyward; `None` means the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether `http://` URLs may lead to another host.
    pub insecure: bool,
    /// Where local programs call the agent by gRPC: loopback, or a socket.
    pub listen: Listen,
    /// Where they call it by HTTP.
    pub http_listen: Option<Listen>,
    /// The file with the token that they send; `None` if the permissions of the sockets stand alone.
    pub local_token_file: Option<PathBuf>,
    /// The mode of the sockets.
    pub socket_mode: u32,
    /// The proxies whose `x-forwarded-for` counts.
    pub trusted_proxies: TrustedProxies,
    /// The address of the side port; `None` switches it off.
    pub side_listen: Option<SocketAddr>,
    /// The limit for keys in memory, in bytes.
    pub max_cached_bytes: usize,
    /// Whether keys are verified by calls while the agent is not fresh.
    pub calls_if_not_fresh: bool,
    /// The time limit of a call to Keyward that verifies keys.
    pub timeout: Duration,
    /// The number of serving threads; with 0 one thread does everything.
    pub workers: usize,
    /// The maximum number of connections.
    pub max_connections: usize,
    /// The maximum number of bytes that all connections together buffer.
    pub max_buffered_bytes: usize,
    /// The log, and what a collector receives.
    pub telemetry: Telemetry,
}

type Row = Setting<AgentSettings>;

const TABLE: &[Setting<AgentSettings>] = &[
    Row::new(
        "endpoint",
        Takes::List("URLS"),
        "",
        "Keyward: https://HOST:PORT, the instances separated by commas",
        |s, text| match text {
            "" => Err("is missing: name Keyward, such as https://keyward.internal:50051".into()),
            _ => {
                s.endpoints = vec![text.trim_end_matches(',').to_owned()];
                Ok(())
            }
        },
    )
    .of_clients()
    .confidential(),
    Row::client_certificate(|s, text| {
        optional(text, path).map(|path| s.client_certificate = path)
    }),
    Row::client_key(|s, text| {
        key_of(s.client_certificate.as_ref(), text).map(|key| s.client_key = key)
    }),
    Row::new(
        "token_file",
        Takes::Value("FILE"),
        "",
        "File with the agent's own token, which has the roles `near_cache` and `verifier`; read again when it \
         changes; not needed with `client_certificate`",
        |s, text| match text {
            "" if s.client_certificate.is_some() => Ok(()),
            "" => Err("is missing: name the file with the agent's own token".into()),
            _ => path(text).map(|path| s.token_file = Some(path)),
        },
    )
    .of_clients(),
    Row::ca_file(|s, text| optional(text, path).map(|path| s.ca_file = path)),
    Row::insecure_client(|s, text| switch(text).map(|on| s.insecure = on)),
    Row::new(
        "listen",
        Takes::Value("ADDRESS"),
        "127.0.0.1:50061",
        "Loopback address and port for calls by gRPC; port 0 takes a free port; or `unix:PATH` for a socket",
        |s, text| local(text).map(|listen| s.listen = listen),
    ),
    Row::new(
        "http_listen",
        Takes::Value("ADDRESS"),
        "none",
        "Loopback address and port, or `unix:PATH`, for the JSON form of the API and for `/auth`",
        |s, text| optional(text, local).map(|listen| s.http_listen = listen),
    ),
    Row::new(
        "local_token_file",
        Takes::Value("FILE"),
        "none",
        "File with the token that local programs send: 16 to 256 visible characters; other users must not be \
         able to read it; read again when it changes; `none` only with sockets, whose permissions then say who may ask",
        |s, text| optional(text, path).map(|path| s.local_token_file = path),
    ),
    Row::new(
        "socket_mode",
        Takes::Value("MODE"),
        "0600",
        "Mode of the sockets: `0600` for this user, `0660` for its group too, `0666` for all users, which \
         needs `local_token_file`",
        |s, text| mode(text).map(|mode| s.socket_mode = mode),
    ),
    Row::new(
        "trusted_proxies",
        Takes::Value("NETWORKS"),
        "none",
        "Networks of the proxies before the proxy that asks, separated by commas, as for the service",
        |s, text| trusted_proxies(text).map(|proxies| s.trusted_proxies = proxies),
    ),
    Row::new(
        "side_listen",
        Takes::Value("ADDRESS"),
        "127.0.0.1:9466",
        "Address and port of /metrics, /livez, /readyz and /version, which contain no secrets; `none` \
         switches it off",
        |s, text| optional(text, address).map(|address| s.side_listen = address),
    ),
    Row::new(
        "max_cached_bytes",
        Takes::Value("SIZE"),
        "64MiB",
        "Maximum size of the keys in memory, of which each takes about 600 bytes: 1MiB to 1TiB",
        |s, text| size(text, CACHED, "1MiB to 1TiB").map(|size| s.max_cached_bytes = size),
    ),
    Row::new(
        "fallback",
        Takes::Value("MODE"),
        "call",
        "What happens while the agent is not fresh: `call` asks Keyward, `fail` answers UNAVAILABLE at once",
        |s, text| {
            s.calls_if_not_fresh = match text {
                "call" => true,
                "fail" => false,
                _ => return Err("takes call or fail".to_owned()),
            };
            Ok(())
        },
    ),
    Row::new(
        "timeout",
        Takes::Value("DURATION"),
        "1s",
        "Time limit for a verdict of Keyward, repetitions included: 10ms to 60s",
        |s, text| duration(text, TIMEOUT, "10ms to 60s").map(|timeout| s.timeout = timeout),
    ),
    Row::new(
        "workers",
        Takes::Value("NUMBER"),
        "1",
        "Number of serving threads, at most 256; with 0 one thread does everything",
        |s, text| number(text, 0..=MAX_WORKERS).map(|workers| s.workers = workers),
    ),
    Row::new(
        "max_connections",
        Takes::Value("NUMBER"),
        "1024",
        "Maximum number of connections: 16 to 1000000; one more closes the oldest connection without a \
         valid caller",
        |s, text| number(text, 16..=1_000_000).map(|number| s.max_connections = number),
    ),
    Row::new(
        "max_buffered_bytes",
        Takes::Value("SIZE"),
        "64MiB",
        "Maximum size of unfinished requests and unread responses of all connections: 16MiB to 1TiB",
        |s, text| size(text, BUFFERED, "16MiB to 1TiB").map(|size| s.max_buffered_bytes = size),
    ),
    Row::log_format(),
    Row::otlp_endpoint(),
    Row::otlp_signals(),
    Row::trace_ratio(
        "Part of the calls whose spans are sent to the collector: 0 to 1. A call with a `traceparent` \
         is traced if its caller traces it",
    ),
];

impl HasTelemetry for AgentSettings {
    fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    fn telemetry_mut(&mut self) -> &mut Telemetry {
        &mut self.telemetry
    }
}

impl Schema for AgentSettings {
    const PREFIX: &'static str = "KEYWARD_AGENT_";
    const FILE: &'static str = "keyward-agent.toml";
    const TABLE: &'static [Setting<Self>] = TABLE;

    fn check(&mut self, entries: &[Entry], errors: &mut Vec<String>) {
        if !errors.is_empty() || self.local_token_file.is_some() {
            return;
        }
        let needs = |name| Entry::find(entries, name);
        let ports = [
            ("listen", Some(&self.listen)),
            ("http_listen", self.http_listen.as_ref()),
        ];
        let ports = ports.into_iter().filter(|(_, at)| {
            let address = at.and_then(Listen::address);
            address.is_some()
        });
        errors.extend(ports.filter_map(|(name, _)| {
            let reason = "every program on this machine can connect to a port: name the token that yours \
                          send with local_token_file, or listen on unix:PATH";
            needs(name).map(|entry| entry.refused(reason))
        }));
        if self.socket_mode & OTHERS != 0 {
            let reason = "lets every user of this machine ask: name a token with local_token_file, or use 0660";
            errors.extend(needs("socket_mode").map(|entry| entry.refused(reason)));
        }
    }
}

/// Loads the settings of an agent from `inputs`.
///
/// # Errors
///
/// Every unknown name, wrong value and refused combination, and an unreadable file, at once.
pub fn load_agent(inputs: Inputs) -> Result<AgentSettings, Errors> {
    keyward_ops::settings::load(inputs).map(|effective| effective.settings)
}

/// The table of an agent's settings as Markdown, for the documentation.
pub fn agent_markdown() -> String {
    keyward_ops::settings::markdown::<AgentSettings>()
}

fn local(text: &str) -> Result<Listen, String> {
    let at = listen(text)?;
    match at.address() {
        Some(address) if !address.ip().to_canonical().is_loopback() => Err(
            "is not a loopback address: an agent answers programs on its own machine only; listen on \
             127.0.0.1, [::1] or unix:PATH"
                .to_owned(),
        ),
        _ => Ok(at),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match text {
        "0600" | "600" => Ok(0o600),
        "0660" | "660" => Ok(0o660),
        "0666" | "666" => Ok(0o666),
        _ => Err("takes 0600, 0660 or 0666".to_owned()),
    }
}
