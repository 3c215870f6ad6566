//! How each kind of value is read. Errors say what the setting takes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::postgres::{SCHEMES, host_and_port};
use super::{PostgresUrls, Store, Url};
use keyward_core::key::{Prefix, TOKEN_PREFIX};
use keyward_ops::LogFormat;

/// What schemes hold that somebody may try for Redis.
const OF_REDIS: [&str; 3] = ["redis", "valkey", "unix"];
const MAX_WORKERS: usize = 256;
const STALENESS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(2)..=Duration::from_secs(60);

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "takes an IP address and a port, such as 127.0.0.1:50051 or [::1]:50051".into()
    })
}

/// `none` and `off` stand for no value.
pub(super) fn optional<T>(
    text: &str,
    read: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match text {
        "none" | "off" => Ok(None),
        _ => read(text)
            .map(Some)
            .map_err(|reason| format!("{reason}, or none")),
    }
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("takes a path".into());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn store(text: &str, data_dir: &Path) -> Result<Store, String> {
    const TAKES: &str = "takes `sqlite:` (keyward.db in data_dir) or `sqlite:PATH`";
    if SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
        return PostgresUrls::parse(text).map(Store::Postgres);
    }
    let Some(file) = text.strip_prefix("sqlite:") else {
        return Err(format!(
            "{TAKES}, or `postgres://USER:PASSWORD@HOST/DATABASE`; no other store is supported"
        ));
    };
    if file.is_empty() {
        return Ok(Store::Sqlite(data_dir.join("keyward.db")));
    }
    // To SQLite ':memory:' is not a file, and a key must outlive the process.
    if file.starts_with("//") || file.starts_with(':') || file.contains('?') {
        return Err(format!(
            "{TAKES}, where PATH is the plain path of a file, not a URL"
        ));
    }
    path(file).map(Store::Sqlite)
}

pub(super) fn staleness(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| STALENESS.contains(duration))
        .ok_or_else(|| "takes a duration from 2s to 60s".into())
}

pub(super) fn prefixes(text: &str) -> Result<Vec<Prefix>, String> {
    let mut prefixes = Vec::new();
    for name in text.split(',').map(str::trim) {
        let prefix = Prefix::new(name).map_err(|error| error.to_string())?;
        if name == TOKEN_PREFIX {
            return Err("'kwt' is what callers' tokens start with; choose another prefix".into());
        }
        if prefixes.contains(&prefix) {
            return Err(format!("'{name}' stands there twice"));
        }
        prefixes.push(prefix);
    }
    Ok(prefixes)
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "takes true or false".into())
}

pub(super) fn workers(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|workers| *workers <= MAX_WORKERS)
        .ok_or_else(|| format!("takes a number from 0 to {MAX_WORKERS}"))
}

/// Threads that can run at once here, as far as `workers` takes them; 1 when that is unknown.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_WORKERS)
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    [LogFormat::Text, LogFormat::Json]
        .into_iter()
        .find(|format| format.name() == text)
        .ok_or_else(|| "takes text or json".into())
}

pub(super) fn url(text: &str) -> Result<Url, String> {
    let is_fine = text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|h| !h.is_empty())
            && has_port_or_none(&uri)
    });
    if is_fine {
        Ok(Url(text.to_owned()))
    } else {
        Err("takes a URL such as http://127.0.0.1:PORT".into())
    }
}

/// A port that is none is otherwise taken for that of the scheme, where somebody else may listen.
fn has_port_or_none(uri: &http::Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let after_user = authority.rsplit('@').next().unwrap_or_default();
    let after_host = after_user.strip_prefix(uri.host().unwrap_or_default());
    after_host == Some("") || uri.port_u16().is_some_and(|port| port != 0)
}

/// Hides the passwords of a URL, of several of Postgres that are separated by commas, or of one of
/// Redis with several hosts, also when they cannot be parsed; then rather too much is hidden than
/// too little.
pub(super) fn redact(text: &str) -> String {
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',') {
        let begins = SCHEMES.iter().any(|s| part.trim_start().starts_with(s));
        match urls.last_mut() {
            // A comma within a URL, or within a list of something else.
            Some(url) if !begins => {
                url.push(',');
                url.push_str(part);
            }
            _ => urls.push(part.to_owned()),
        }
    }
    let shown: Vec<_> = urls.iter().map(|url| redact_url(url)).collect();
    shown.join(",")
}

fn redact_url(url: &str) -> String {
    const PARAMETER: &str = "password=";
    let begin = url.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = url.split_at(begin);
    let name = scheme.to_ascii_lowercase();
    if OF_REDIS.iter().any(|known| name.contains(known)) {
        return format!("{scheme}{}", redact_redis(rest));
    }
    // Where an unencoded password ends cannot be known: all after it is hidden.
    let rest = match rest.to_ascii_lowercase().find(PARAMETER) {
        Some(at) => format!("{}***", &rest[..at + PARAMETER.len()]),
        None => rest.to_owned(),
    };
    // A password may hold any character when it was not encoded, so the last '@' counts.
    if let Some((userinfo, host)) = rest.rsplit_once('@') {
        return match userinfo.split_once(':') {
            // Without a scheme it may be a password alone, as Redis takes one.
            None if scheme.is_empty() => format!("***@{host}"),
            None => format!("{scheme}{userinfo}:***@{host}"),
            Some((user, _)) => format!("{scheme}{user}:***@{host}"),
        };
    }
    // Without a host, a password stands where a port would.
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let brackets = match authority.starts_with('[') {
        true => authority.find(']').unwrap_or_default(),
        false => 0,
    };
    let colon = authority[brackets..].find(':').map(|at| brackets + at + 1);
    match colon.map(|at| authority.split_at(at)) {
        Some((before, port))
            if !scheme.is_empty() && !port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            format!("{scheme}{before}***")
        }
        _ => format!("{scheme}{rest}"),
    }
}

/// The same of what follows a scheme of Redis, where a password often stands alone before the `@`
/// or in a parameter of another name.
fn redact_redis(rest: &str) -> String {
    let (place, query) = match rest.split_once('?') {
        // The ? of an unencoded password, or the @ of one in a parameter.
        Some((_, query)) if query.contains('@') => return "***".to_owned(),
        Some((place, _)) => (place, "?***"),
        None => (rest, ""),
    };
    if let Some((userinfo, hosts)) = place.rsplit_once('@') {
        return match userinfo.split_once(':') {
            Some((user, password)) if !password.is_empty() => {
                format!("{user}:***@{hosts}{query}")
            }
            _ => format!("***@{hosts}{query}"),
        };
    }
    // Without hosts, a password stands where a port would.
    let has_port_at_most = |host: &str| match host_and_port(host) {
        (host, Some(port)) => !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()),
        (_, None) => true,
    };
    let authority = place.split(['/', '#']).next().unwrap_or_default();
    match authority.split(',').all(has_port_at_most) {
        true => format!("{place}{query}"),
        false => "***".to_owned(),
    }
}
