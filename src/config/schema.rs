//! The settings as `keyward_ops::settings` reads them: where they come from, and the values before that.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use keyward_guard::TrustedProxies;

use super::{Listen, Settings, Store, TABLE, combinations};
use keyward_ops::settings::{Entry, Schema, Setting};
use keyward_ops::{LogFormat, Signals};

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

    fn blank() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            rest_listen: None,
            rest_cors_origins: Vec::new(),
            trusted_proxies: TrustedProxies::default(),
            http_listen: None,
            http_hosts: Vec::new(),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            data_dir: PathBuf::new(),
            store_password_file: None,
            store: Store::Sqlite(PathBuf::new()),
            redis_password_file: None,
            redis: None,
            max_staleness: Duration::ZERO,
            near_max_staleness: Duration::ZERO,
            max_near_caches: 0,
            failover_loses_nothing: false,
            key_prefixes: Vec::new(),
            foreign_formats: Vec::new(),
            forbid_recoverable: false,
            max_key_age: None,
            max_reveals_per_minute: None,
            use_interval: Duration::ZERO,
            audit_retention: None,
            webhooks: Vec::new(),
            webhook_timeout: Duration::ZERO,
            expiry_notice: Duration::ZERO,
            insecure: false,
            keyring: PathBuf::new(),
            workers: 0,
            max_connections: 0,
            max_buffered_bytes: 0,
            max_cached_bytes: 0,
            max_connection_age: None,
            drain_delay: Duration::ZERO,
            log_format: LogFormat::Text,
            otlp_endpoint: None,
            otlp_signals: Signals::default(),
            trace_ratio: 0.0,
        }
    }

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
