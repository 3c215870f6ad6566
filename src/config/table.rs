//! The table of settings: names, defaults, help, and how each is read and shown.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::keys::{foreign_formats, prefixes};
use super::names::{host_name, origin};
use super::values::{
    MAX_WORKERS, connection_age, cores, key_age, largest_near_staleness, listen, near_staleness,
    retention, staleness, store, text_of, trusted_proxies, use_interval,
};
use super::webhooks::{expiry_notice, shown_webhooks, webhook_timeout, webhooks};
use super::{Settings, Store, redis};
use keyward_ops::settings::values::{
    address, duration, number, optional, path, shown, size, switch,
};
use keyward_ops::settings::{Setting, Takes};

/// The ranges of `max_buffered_bytes` and `max_cached_bytes`.
const BUFFERED: RangeInclusive<usize> = 16 << 20..=1 << 40;
const CACHED: RangeInclusive<usize> = 1 << 20..=1 << 40;

type Row = Setting<Settings>;

/// All settings. `data_dir` is above the settings whose defaults lie in it.
pub const TABLE: &[Setting<Settings>] = &[
    Row::new(
        "listen",
        Takes::Value("ADDRESS"),
        "127.0.0.1:50051",
        "Address and port of the gRPC service; port 0 takes a free port; or `unix:PATH` for a socket, to \
         which this user and group can connect, without TLS",
        |s, text| listen(text).map(|listen| s.listen = listen),
    )
    .shown(|s| s.listen.to_string()),
    Row::new(
        "rest_listen",
        Takes::Value("ADDRESS"),
        "127.0.0.1:50080",
        "Address and port of the JSON form of the API and of `/auth` for proxies, with the TLS of the gRPC \
         service; port 0 takes a free port; `none` switches it off",
        |s, text| optional(text, address).map(|address| s.rest_listen = address),
    )
    .shown(|s| shown(s.rest_listen.as_ref())),
    Row::new(
        "rest_cors_origins",
        Takes::Value("ORIGINS"),
        "none",
        "Origins whose pages may call the JSON port from a browser, separated by commas, such as \
         https://console.example.com; a page there needs a token, so serve it to operators only",
        |s, text| {
            let origins = optional(text, |text| text.split(',').map(origin).collect())?;
            s.rest_cors_origins = origins.unwrap_or_default();
            Ok(())
        },
    ),
    Row::new(
        "trusted_proxies",
        Takes::Value("NETWORKS"),
        "none",
        "Networks of the proxies before the proxy that asks, separated by commas, such as 10.0.0.0/8: the \
         client is the last address of `x-forwarded-for` outside them",
        |s, text| trusted_proxies(text).map(|proxies| s.trusted_proxies = proxies),
    ),
    Row::new(
        "http_listen",
        Takes::Value("ADDRESS"),
        "127.0.0.1:9464",
        "Address and port of /metrics, /livez, /readyz and /version, which contain no secrets and \
         never use TLS; `none` switches it off",
        |s, text| optional(text, address).map(|address| s.http_listen = address),
    )
    .shown(|s| shown(s.http_listen.as_ref())),
    Row::new(
        "http_hosts",
        Takes::Value("NAMES"),
        "none",
        "Names of this host by which a browser may open the status page of `http_listen`, separated by commas; \
         it may always use an IP address or `localhost`",
        |s, text| {
            let names = optional(text, |text| text.split(',').map(host_name).collect())?;
            s.http_hosts = names.unwrap_or_default();
            Ok(())
        },
    ),
    Row::new(
        "tls_cert",
        Takes::Value("FILE"),
        "none",
        "Certificate chain of the gRPC service and of the JSON port in PEM; with it and `tls_key` both accept \
         only TLS; read again when it changes; `none` switches TLS off",
        |s, text| optional(text, path).map(|path| s.tls_cert = path),
    )
    .shown(|s| shown(s.tls_cert.as_deref().map(text_of).as_ref())),
    Row::new(
        "tls_key",
        Takes::Value("FILE"),
        "none",
        "Private key of `tls_cert` in PEM, which other users of the machine must not be able to \
         read; read again when it changes",
        |s, text| optional(text, path).map(|path| s.tls_key = path),
    )
    .shown(|s| shown(s.tls_key.as_deref().map(text_of).as_ref())),
    Row::new(
        "tls_client_ca",
        Takes::Value("FILE"),
        "none",
        "Certificates in PEM of the authorities that vouch for client certificates; a client with a \
         certificate can call without a token; read again when it changes; `none` asks clients for none",
        |s, text| optional(text, path).map(|path| s.tls_client_ca = path),
    )
    .shown(|s| shown(s.tls_client_ca.as_deref().map(text_of).as_ref())),
    Row::new(
        "data_dir",
        Takes::Value("DIRECTORY"),
        "./keyward-data",
        "Directory of the files that Keyward writes: the embedded store's database, and by default \
         the keyring and the first token",
        |s, text| path(text).map(|path| s.data_dir = path),
    ),
    Row::new(
        "store_password_file",
        Takes::Value("FILE"),
        "none",
        "File with the password for Postgres, for a `store` without a password; read again for each \
         new connection",
        |s, text| optional(text, path).map(|path| s.store_password_file = path),
    )
    .shown(|s| shown(s.store_password_file.as_deref().map(text_of).as_ref())),
    Row::new(
        "store",
        Takes::Value("STORE"),
        "sqlite:",
        "Where keys and tokens are stored: `sqlite:PATH`, or `sqlite:` for keyward.db in data_dir; \
         or `postgres://USER:PASSWORD@HOST/DATABASE`, several separated by commas for the hosts of \
         one database, each with `sslmode=verify-full` unless it is this host",
        |s, text| store(text, s).map(|store| s.store = store),
    )
    .shown(|s| match &s.store {
        Store::Sqlite(path) => format!("sqlite:{}", path.display()),
        Store::Postgres(urls) => urls.to_string(),
    })
    .confidential(),
    Row::new(
        "redis_password_file",
        Takes::Value("FILE"),
        "none",
        "File with the password for Redis, for a `redis` without a password; read again for each new \
         connection",
        |s, text| optional(text, path).map(|path| s.redis_password_file = path),
    )
    .shown(|s| shown(s.redis_password_file.as_deref().map(text_of).as_ref())),
    Row::new(
        "redis",
        Takes::Value("URL"),
        "none",
        "Cache that instances share, which also carries change notices; correctness does not depend \
         on it: `redis://USER:PASSWORD@HOST:PORT/DB`, `redis+unix:///SOCKET`, \
         `redis+sentinel://HOST,HOST/SERVICE` or `redis+cluster://HOST,HOST`; `rediss` in place of \
         `redis` means TLS, with `?ca=FILE` for a private CA; only with a Postgres store; `none` \
         switches it off",
        |s, text| {
            let file = s.redis_password_file.as_deref();
            optional(text, |text| redis::parse(text, file)).map(|address| s.redis = address)
        },
    )
    .shown(|s| shown(s.redis.as_ref()))
    .confidential(),
    Row::new(
        "keyring",
        Takes::Value("DIRECTORY"),
        "keyring in data_dir",
        "Directory of the keyring: created at the first start with the embedded store, and by \
         `keyward init` with Postgres; all instances on one database need the same",
        |s, text| path(text).map(|path| s.keyring = path),
    )
    .derived(|s| text_of(&s.data_dir.join("keyring"))),
    Row::new(
        "max_staleness",
        Takes::Value("DURATION"),
        "15s",
        "The longest time for which an instance answers without news from the store, and the longest \
         time for which a revocation waits for an unreachable instance: 2s to 60s",
        |s, text| staleness(text).map(|duration| s.max_staleness = duration),
    )
    .shown(|s| humantime::format_duration(s.max_staleness).to_string()),
    Row::new(
        "near_max_staleness",
        Takes::Value("DURATION"),
        "5s, or max_staleness / 1.02 if that is less",
        "The longest time for which a near-cache in a caller's process answers without news from this \
         instance, and for which a revocation waits for an unreachable one: 500ms to max_staleness / 1.02",
        |s, text| near_staleness(text, s.max_staleness).map(|duration| s.near_max_staleness = duration),
    )
    .derived(|s| {
        let default = Duration::from_secs(5).min(largest_near_staleness(s.max_staleness));
        humantime::format_duration(default).to_string()
    })
    .shown(|s| humantime::format_duration(s.near_max_staleness).to_string()),
    Row::new(
        "max_near_caches",
        Takes::Value("NUMBER"),
        "1000",
        "Most near-caches that this instance keeps fresh: 0 to 100000; one caller may have half of them",
        |s, text| number(text, 0..=100_000).map(|count| s.max_near_caches = count),
    ),
    Row::new(
        "failover_loses_nothing",
        Takes::Switch,
        "false",
        "Declares that a failover of Postgres loses no commit (`synchronous_standby_names`), so that \
         Revoke need not wait for about a minute after it; also allows a Postgres that does not report \
         its timeline",
        |s, text| switch(text).map(|on| s.failover_loses_nothing = on),
    ),
    Row::new(
        "key_prefixes",
        Takes::List("PREFIXES"),
        "kw",
        "Prefixes of keys: new keys get the first, all are accepted; each 1 to 16 of a-z, 0-9 and \
         single underscores between them; `kwt` is reserved for callers' tokens",
        |s, text| prefixes(text).map(|prefixes| s.key_prefixes = prefixes),
    )
    .shown(|s| {
        let prefixes = s.key_prefixes.iter().map(|prefix| prefix.as_str());
        prefixes.collect::<Vec<_>>().join(",")
    }),
    Row::new(
        "foreign_formats",
        Takes::List("FORMATS"),
        "none",
        "Formats of keys that another product issued and `keyward import` brought: `uuid` (version 4), or \
         NAME:PREFIX:ALPHABET:LENGTH with the alphabet digits, hex, base32, base58, base62 or base64url and \
         the number of characters after the prefix, of at least 96 bits; in the file also tables with the \
         keys name, prefix, alphabet and length; `none` means that each key has a prefix of `key_prefixes`",
        |s, text| {
            let formats = optional(text, |text| foreign_formats(text, &s.key_prefixes))?;
            s.foreign_formats = formats.unwrap_or_default();
            Ok(())
        },
    )
    .tables(&["name", "prefix", "alphabet", "length"])
    .shown(|s| {
        let formats = s.foreign_formats.iter().map(ToString::to_string);
        let formats = formats.collect::<Vec<_>>().join(",");
        shown((!formats.is_empty()).then_some(&formats))
    }),
    Row::new(
        "forbid_recoverable",
        Takes::Switch,
        "false",
        "Refuse recoverable keys, so that no copy of a secret is stored",
        |s, text| switch(text).map(|on| s.forbid_recoverable = on),
    ),
    Row::new(
        "max_key_age",
        Takes::Value("DURATION"),
        "none",
        "Longest life of a key: a longer `ttl` or `expire_time` is refused, and a new key without one gets \
         this: 1s to 36500d; `none` means no limit",
        |s, text| optional(text, key_age).map(|age| s.max_key_age = age),
    ),
    Row::new(
        "max_reveals_per_minute",
        Takes::Value("NUMBER"),
        "600",
        "Most secrets of recoverable keys that this instance shows again to one caller within a minute: 1 to \
         1000000; `none` means no limit",
        |s, text| {
            optional(text, |text| number(text, 1..=1_000_000))
                .map(|limit| s.max_reveals_per_minute = limit)
        },
    ),
    Row::new(
        "use_interval",
        Takes::Value("DURATION"),
        "60s",
        "How often the last use of a key is written to the store: 1s to 1h",
        |s, text| use_interval(text).map(|interval| s.use_interval = interval),
    ),
    Row::new(
        "audit_retention",
        Takes::Value("DURATION"),
        "400d",
        "How long events of the audit are kept: 30d to 36500d; `none` means for ever",
        |s, text| optional(text, retention).map(|kept| s.audit_retention = kept),
    ),
    Row::new(
        "webhooks",
        Takes::Tables,
        "none",
        "Webhooks that get events about keys: tables with the keys name, url (https, or http on this host), \
         secret_file (a `whsec_` secret, read for each message) and events (key.issued, key.revoked, \
         key.expiring, key.refused; all by default), the same on every instance",
        |s, text| webhooks(text).map(|webhooks| s.webhooks = webhooks),
    )
    .shown(|s| shown_webhooks(&s.webhooks))
    .confidential(),
    Row::new(
        "webhook_timeout",
        Takes::Value("DURATION"),
        "10s",
        "How long an attempt to send an event to a webhook takes at most: 1s to 60s",
        |s, text| webhook_timeout(text).map(|timeout| s.webhook_timeout = timeout),
    ),
    Row::new(
        "expiry_notice",
        Takes::Value("DURATION"),
        "7d",
        "How long before the expiry of a key webhooks get `key.expiring`: 1m to 365d",
        |s, text| expiry_notice(text).map(|notice| s.expiry_notice = notice),
    ),
    Row::new(
        "insecure",
        Takes::Switch,
        "false",
        "Allow an address that is not loopback without TLS, Postgres on another host without \
         `sslmode=verify-full`, and a password for Redis on another host without TLS",
        |s, text| switch(text).map(|on| s.insecure = on),
    ),
    Row::new(
        "workers",
        Takes::Value("NUMBER"),
        "number of cores",
        "Number of verifying threads, at most 256; with 0 one thread does everything",
        |s, text| number(text, 0..=MAX_WORKERS).map(|workers| s.workers = workers),
    )
    .shown(|s| s.workers.to_string())
    .derived(|_| cores().to_string()),
    Row::new(
        "max_connections",
        Takes::Value("NUMBER"),
        "4096",
        "Maximum number of connections of the gRPC service and the JSON port: 16 to 1000000, and less than the limit of \
         open files; one more closes the oldest connection without a valid caller",
        |s, text| number(text, 16..=1_000_000).map(|number| s.max_connections = number),
    ),
    Row::new(
        "max_buffered_bytes",
        Takes::Value("SIZE"),
        "256MiB",
        "Maximum size of unfinished requests and unread responses of all connections: 16MiB to \
         1TiB; one connection gets an eighth, and strangers together get half",
        |s, text| size(text, BUFFERED, "16MiB to 1TiB").map(|size| s.max_buffered_bytes = size),
    ),
    Row::new(
        "max_cached_bytes",
        Takes::Value("SIZE"),
        "128MiB",
        "Maximum size of the records in memory, of which each key takes about 320 bytes: 1MiB to 1TiB",
        |s, text| size(text, CACHED, "1MiB to 1TiB").map(|size| s.max_cached_bytes = size),
    ),
    Row::new(
        "max_connection_age",
        Takes::Value("DURATION"),
        "30m",
        "Age, with a deviation of 10 %, at which a client must open another connection, so that an \
         added instance gets its share: 1s to 30d; `none` means no limit",
        |s, text| optional(text, connection_age).map(|age| s.max_connection_age = age),
    ),
    Row::new(
        "drain_delay",
        Takes::Value("DURATION"),
        "0s",
        "How long the service keeps serving after SIGTERM, while health says NOT_SERVING, so that \
         load balancers can notice: 0s to 10m",
        |s, text| {
            let range = Duration::ZERO..=Duration::from_secs(600);
            duration(text, range, "0s to 10m").map(|delay| s.drain_delay = delay)
        },
    ),
    Row::log_format(),
    Row::otlp_endpoint(),
    Row::otlp_signals(),
    Row::trace_ratio(
        "Part of the calls whose spans are sent to the collector: 0 to 1. A call with a `traceparent` \
         is traced if its caller traces it",
    ),
];
