//! How the values of the service's settings are read.

use std::path::Path;
use std::time::Duration;

use super::{Listen, PostgresUrls, Settings, Store, postgres};
use keyward_core::fence::MAX_STALENESS;
use keyward_core::key::MAX_TTL;
use keyward_guard::TrustedProxies;
use keyward_ops::settings::values::{address, duration, optional, path};

/// The smallest `max_staleness`.
const MIN_STALENESS: Duration = Duration::from_secs(2);
/// The most serving threads.
pub(super) const MAX_WORKERS: usize = 256;

pub(super) fn listen(text: &str) -> Result<Listen, String> {
    match text.strip_prefix("unix:") {
        Some(socket) => path(socket).map(Listen::Unix),
        None => address(text)
            .map(Listen::Tcp)
            .map_err(|reason| format!("{reason}; or unix:PATH")),
    }
}

pub(super) fn trusted_proxies(text: &str) -> Result<TrustedProxies, String> {
    let networks = |text: &str| {
        TrustedProxies::new(text.split(',').map(str::trim)).map_err(|error| error.to_string())
    };
    Ok(optional(text, networks)?.unwrap_or_default())
}

pub(super) fn store(text: &str, settings: &Settings) -> Result<Store, String> {
    const TAKES: &str = "takes `sqlite:` (keyward.db in data_dir) or `sqlite:PATH`";
    if postgres::SCHEMES
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        let has_file = settings.store_password_file.is_some();
        return PostgresUrls::parse(text, has_file).map(Store::Postgres);
    }
    let Some(file) = text.strip_prefix("sqlite:") else {
        return Err(format!(
            "{TAKES}, or `postgres://USER:PASSWORD@HOST/DATABASE`; no other store is supported"
        ));
    };
    // SQLite keeps ':memory:' in memory, and keys must survive the process.
    let is_url = |path: &str| path.starts_with("//") || path.starts_with(':') || path.contains('?');
    if file.is_empty() {
        let path = settings.data_dir.join("keyward.db");
        return match is_url(&path.to_string_lossy()) {
            true => Err(
                "needs a data_dir without `?`, which does not begin with `//` or `:`".to_owned(),
            ),
            false => Ok(Store::Sqlite(path)),
        };
    }
    if is_url(file) {
        return Err(format!(
            "{TAKES}, where PATH is the path of a file, not a URL"
        ));
    }
    path(file).map(Store::Sqlite)
}

pub(super) fn staleness(text: &str) -> Result<Duration, String> {
    let range = MIN_STALENESS..=MAX_STALENESS;
    duration(text, range, "2s to 60s")
}

/// An instance that is cut off must not keep near-caches fresh for longer than itself, by clocks that differ
/// by 2 %. Whole milliseconds.
pub(super) fn largest_near_staleness(max_staleness: Duration) -> Duration {
    // A wrong max_staleness is blank, and an error of its own.
    let max_staleness = max_staleness.max(MIN_STALENESS);
    let largest = max_staleness.mul_f64(1.0 / 1.02).as_millis();
    Duration::from_millis(u64::try_from(largest).unwrap_or(u64::MAX))
}

pub(super) fn near_staleness(text: &str, max_staleness: Duration) -> Result<Duration, String> {
    let largest = largest_near_staleness(max_staleness);
    let takes = format!(
        "500ms to {} (max_staleness / 1.02)",
        humantime::format_duration(largest)
    );
    duration(text, Duration::from_millis(500)..=largest, &takes)
}

pub(super) fn connection_age(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60);
    duration(text, range, "1s to 30d")
}

pub(super) fn key_age(text: &str) -> Result<Duration, String> {
    duration(text, Duration::from_secs(1)..=MAX_TTL, "1s to 36500d")
}

pub(super) fn use_interval(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(60 * 60);
    duration(text, range, "1s to 1h")
}

/// How long events of the audit are kept. A shared store refuses to delete younger ones.
pub(super) fn retention(text: &str) -> Result<Duration, String> {
    let least = Duration::from_secs(30 * 24 * 3_600);
    duration(text, least..=MAX_TTL, "30d to 36500d")
}

/// The number of threads that can run at once, at most `MAX_WORKERS`; 1 if it is unknown.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_WORKERS)
}

/// Settings are text, so the paths in them are text already.
pub(super) fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
