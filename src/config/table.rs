//! The table of settings: names, defaults, help, and how each is read and shown.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{RedisServers, Settings, Store, parse};
use keyward_ops::LogFormat;

/// One setting: `max_staleness` in `keyward.toml`, `--max-staleness`, `KEYWARD_MAX_STALENESS`.
#[derive(Debug)]
pub struct Setting {
    /// The name in `keyward.toml`.
    pub name: &'static str,
    /// What kind of value it takes.
    pub takes: Takes,
    /// What it does, its limits included: a sentence without its full stop.
    pub help: &'static str,
    default: Default,
    set: fn(&mut Settings, &str) -> Result<(), String>,
    show: fn(&Settings) -> String,
}

/// The kind of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// One value; the name of it in help texts.
    Value(&'static str),
    /// Several values: separated by commas, or an array in `keyward.toml`.
    List(&'static str),
    /// `true` or `false`; the bare flag means `true`.
    Switch,
}

/// What holds when nothing is given.
#[derive(Debug)]
enum Default {
    Text(&'static str),
    /// Worked out from the settings above it in the table; and how documentation says that.
    Derived(fn(&Settings) -> String, &'static str),
}

impl Setting {
    /// The flag with its two dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The name of the environment variable.
    pub fn variable(&self) -> String {
        format!("KEYWARD_{}", self.name.to_uppercase())
    }

    /// The default as documentation shows it.
    pub fn documented_default(&self) -> &'static str {
        match self.default {
            Default::Text(text) | Default::Derived(_, text) => text,
        }
    }

    pub(super) fn default_text(&self, so_far: &Settings) -> String {
        match self.default {
            Default::Text(text) => text.to_owned(),
            Default::Derived(derive, _) => derive(so_far),
        }
    }

    pub(super) fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        (self.set)(settings, text)
    }

    pub(super) fn show(&self, settings: &Settings) -> String {
        (self.show)(settings)
    }
}

/// All settings. `data_dir` stands before those whose defaults lie in it.
pub const TABLE: &[Setting] = &[
    Setting {
        name: "listen",
        takes: Takes::Value("ADDRESS"),
        help: "Address and port of the gRPC service; port 0 takes a free one",
        default: Default::Text("127.0.0.1:50051"),
        set: |s, text| parse::address(text).map(|address| s.listen = address),
        show: |s| s.listen.to_string(),
    },
    Setting {
        name: "http_listen",
        takes: Takes::Value("ADDRESS"),
        help: "Address and port of /metrics, /livez, /readyz and /version, which hold no secret and are \
               always without TLS; `none` switches it off",
        default: Default::Text("127.0.0.1:9464"),
        set: |s, text| parse::optional(text, parse::address).map(|address| s.http_listen = address),
        show: |s| shown(s.http_listen.as_ref()),
    },
    Setting {
        name: "tls_cert",
        takes: Takes::Value("FILE"),
        help: "Certificate of the gRPC service, with those between it and its authority, in PEM: with \
               it and `tls_key` the service speaks TLS alone; read again when it changes; `none` \
               switches TLS off",
        default: Default::Text("none"),
        set: |s, text| parse::optional(text, parse::path).map(|path| s.tls_cert = path),
        show: |s| shown(s.tls_cert.as_deref().map(text_of).as_ref()),
    },
    Setting {
        name: "tls_key",
        takes: Takes::Value("FILE"),
        help: "Private key of `tls_cert`, in PEM, not readable by every user of the machine; read \
               again when it changes",
        default: Default::Text("none"),
        set: |s, text| parse::optional(text, parse::path).map(|path| s.tls_key = path),
        show: |s| shown(s.tls_key.as_deref().map(text_of).as_ref()),
    },
    Setting {
        name: "data_dir",
        takes: Takes::Value("DIRECTORY"),
        help: "Directory of what this program writes: the embedded store's database, and by default \
               the keyring and the first token",
        default: Default::Text("./keyward-data"),
        set: |s, text| parse::path(text).map(|path| s.data_dir = path),
        show: |s| s.data_dir.display().to_string(),
    },
    Setting {
        name: "store",
        takes: Takes::Value("STORE"),
        help: "Where keys and tokens are kept: `sqlite:PATH`, or `sqlite:` for keyward.db in data_dir; \
               or `postgres://USER:PASSWORD@HOST/DATABASE`, several separated by commas for the \
               hosts of one database, each with `sslmode=verify-full` unless it is this host",
        default: Default::Text("sqlite:"),
        set: |s, text| parse::store(text, &s.data_dir).map(|store| s.store = store),
        show: |s| match &s.store {
            Store::Sqlite(path) => format!("sqlite:{}", path.display()),
            Store::Postgres(urls) => urls.to_string(),
        },
    },
    Setting {
        name: "redis",
        takes: Takes::Value("URL"),
        help: "Cache that instances share, and one more way for hints; nothing depends on it for being right: \
               `redis://USER:PASSWORD@HOST:PORT/DB`, `redis+unix:///SOCKET`, \
               `redis+sentinel://HOST,HOST/SERVICE` or `redis+cluster://HOST,HOST`; `rediss` in \
               place of `redis` means TLS, with `?ca=FILE` for a private CA; with a Postgres store \
               only; `none` switches it off",
        default: Default::Text("none"),
        set: |s, text| parse::optional(text, RedisServers::parse).map(|servers| s.redis = servers),
        show: |s| shown(s.redis.as_ref()),
    },
    Setting {
        name: "keyring",
        takes: Takes::Value("DIRECTORY"),
        help: "Directory of the keyring: made at the first start with the embedded store, with \
               Postgres by `keyward init`; all instances on one database need the same",
        default: Default::Derived(
            |s| text_of(&s.data_dir.join("keyring")),
            "keyring in data_dir",
        ),
        set: |s, text| parse::path(text).map(|path| s.keyring = path),
        show: |s| s.keyring.display().to_string(),
    },
    Setting {
        name: "max_staleness",
        takes: Takes::Value("DURATION"),
        help: "How old what an instance knows may be when it answers, and the longest time that a \
               revocation waits for an instance that is cut off: 2s to 60s",
        default: Default::Text("15s"),
        set: |s, text| parse::staleness(text).map(|duration| s.max_staleness = duration),
        show: |s| humantime::format_duration(s.max_staleness).to_string(),
    },
    Setting {
        name: "key_prefixes",
        takes: Takes::List("PREFIXES"),
        help: "What keys start with: the first is written, all are read; each 1 to 16 of a-z, 0-9 \
               and single underscores between them; `kwt` is taken by callers' tokens",
        default: Default::Text("kw"),
        set: |s, text| parse::prefixes(text).map(|prefixes| s.key_prefixes = prefixes),
        show: |s| {
            s.key_prefixes
                .iter()
                .map(|p| p.as_str())
                .collect::<Vec<_>>()
                .join(",")
        },
    },
    Setting {
        name: "forbid_recoverable",
        takes: Takes::Switch,
        help: "Refuse keys that can be shown again: no copy of a secret is kept",
        default: Default::Text("false"),
        set: |s, text| parse::switch(text).map(|on| s.forbid_recoverable = on),
        show: |s| s.forbid_recoverable.to_string(),
    },
    Setting {
        name: "insecure",
        takes: Takes::Switch,
        help: "Allow listening on an address that is not loopback, without TLS, Postgres on \
               another host without `sslmode=verify-full`, and a password for Redis on another host \
               without TLS",
        default: Default::Text("false"),
        set: |s, text| parse::switch(text).map(|on| s.insecure = on),
        show: |s| s.insecure.to_string(),
    },
    Setting {
        name: "workers",
        takes: Takes::Value("NUMBER"),
        help: "Threads that verify, at most 256; 0: one thread does everything",
        default: Default::Derived(|_| parse::cores().to_string(), "number of cores"),
        set: |s, text| parse::workers(text).map(|workers| s.workers = workers),
        show: |s| s.workers.to_string(),
    },
    Setting {
        name: "log_format",
        takes: Takes::Value("FORMAT"),
        help: "How the log is written to stderr: `text` or `json`; RUST_LOG says what is logged",
        default: Default::Text("text"),
        set: |s, text| parse::log_format(text).map(|format| s.log_format = format),
        show: |s| s.log_format.name().to_owned(),
    },
    Setting {
        name: "otlp_endpoint",
        takes: Takes::Value("URL"),
        help: "OpenTelemetry collector (OTLP over gRPC) that spans are sent to, such as \
               http://127.0.0.1:4317; `none`: they are not sent",
        default: Default::Text("none"),
        set: |s, text| parse::optional(text, parse::url).map(|url| s.otlp_endpoint = url),
        show: |s| shown(s.otlp_endpoint.as_ref()),
    },
];

/// What `load` fills in, setting by setting.
pub(super) fn blank() -> Settings {
    Settings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        http_listen: None,
        tls_cert: None,
        tls_key: None,
        data_dir: PathBuf::new(),
        store: Store::Sqlite(PathBuf::new()),
        redis: None,
        max_staleness: Duration::ZERO,
        key_prefixes: Vec::new(),
        forbid_recoverable: false,
        insecure: false,
        keyring: PathBuf::new(),
        workers: 0,
        log_format: LogFormat::Text,
        otlp_endpoint: None,
    }
}

/// The table as Markdown, for the documentation.
pub fn markdown() -> String {
    let mut text = String::from("| setting | default | meaning |\n|---|---|---|\n");
    for setting in TABLE {
        let default = match setting.default {
            Default::Text(text) => format!("`{text}`"),
            Default::Derived(_, text) => text.to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {default} | {}. |",
            setting.name, setting.help
        );
    }
    text
}

fn shown(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}

/// Settings come as text, so paths in them are text already.
fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
