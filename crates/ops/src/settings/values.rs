//! Readers of the values that several programs take. Errors say what the setting takes.

use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use zeroize::Zeroizing;

use crate::LogFormat;

/// An IP address with a port.
///
/// # Errors
///
/// What the setting takes.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "takes an IP address and a port, such as 127.0.0.1:50051 or [::1]:50051".to_owned()
    })
}

/// `none` and `off` mean no value; `read` reads any other text.
///
/// # Errors
///
/// Those of `read`.
pub fn optional<T>(
    text: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match text {
        "none" | "off" => Ok(None),
        _ => read(text)
            .map(Some)
            .map_err(|reason| format!("{reason}, or none")),
    }
}

/// An optional value as text.
pub fn shown(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), ToString::to_string)
}

/// A path.
///
/// # Errors
///
/// What the setting takes.
pub fn path(text: &str) -> Result<PathBuf, String> {
    match text.is_empty() || text.contains('\0') {
        true => Err("takes a path".to_owned()),
        false => Ok(PathBuf::from(text)),
    }
}

/// A duration in `range`. `limits` names the range, such as `2s to 60s`.
///
/// # Errors
///
/// What the setting takes.
pub fn duration(
    text: &str,
    range: RangeInclusive<Duration>,
    limits: &str,
) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).ok();
    duration
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| format!("takes a duration from {limits}"))
}

/// A number in `range`.
///
/// # Errors
///
/// What the setting takes.
pub fn number<T: FromStr + PartialOrd + Display>(
    text: &str,
    range: RangeInclusive<T>,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("takes a number from {} to {}", range.start(), range.end()))
}

/// A size in bytes, with or without one of the units KiB, MiB, GiB and TiB.
///
/// # Errors
///
/// What the setting takes.
pub fn size(text: &str, range: RangeInclusive<usize>, limits: &str) -> Result<usize, String> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let (digits, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    let number = digits.trim_end().parse::<usize>().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|size| range.contains(size))
        .ok_or_else(|| format!("takes a size from {limits}"))
}

/// A switch.
///
/// # Errors
///
/// What the setting takes.
pub fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "takes true or false".to_owned())
}

/// The format of the log.
///
/// # Errors
///
/// What the setting takes.
pub fn log_format(text: &str) -> Result<LogFormat, String> {
    [LogFormat::Text, LogFormat::Json]
        .into_iter()
        .find(|format| format.name() == text)
        .ok_or_else(|| "takes text or json".to_owned())
}

/// The secret in a file, without the white space around it.
///
/// # Errors
///
/// Those of reading the file.
pub fn secret_file(path: &Path) -> io::Result<Zeroizing<String>> {
    let text = Zeroizing::new(std::fs::read_to_string(path)?);
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Whether the host of a URL is this machine: `localhost` or a loopback address, an IPv6 address
/// with or without its brackets.
pub fn is_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(is_loopback)
}

/// An `http` or `https` URL. `Display` and `Debug` hide what can be a secret in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    uri: Uri,
}

impl Url {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// What it takes, without repeating any part of it.
    pub fn new(text: &str) -> Result<Self, String> {
        let uri = text.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && has_valid_port(uri)
        });
        let text = text.to_owned();
        uri.map(|uri| Self { text, uri }).ok_or_else(|| {
            "takes a URL such as https://keyward.example:50051, with a port from 1 to 65535 if it \
             has one"
                .to_owned()
        })
    }

    /// The URL as it was given, with its password.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Scheme, host and port. A path can be a secret, too.
    pub fn origin(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self.authority();
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        format!("{scheme}://{host}")
    }

    /// Its parts.
    pub const fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether it is an `https` URL.
    pub fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Whether its host is this machine.
    pub fn is_local(&self) -> bool {
        self.uri.host().is_some_and(is_local)
    }

    /// Whether it contains a user or a password.
    pub fn has_user(&self) -> bool {
        self.authority().contains('@')
    }

    fn authority(&self) -> &str {
        self.uri.authority().map_or("", |part| part.as_str())
    }
}

/// Clients take an invalid port for the default one of the scheme, where another program can listen.
fn has_valid_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let after_user = authority.rsplit('@').next().unwrap_or_default();
    let after_host = after_user.strip_prefix(uri.host().unwrap_or_default());
    after_host == Some("") || uri.port_u16().is_some_and(|port| port != 0)
}

impl Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://")?;
        match self.authority().rsplit_once('@') {
            Some((user, host)) => match user.split_once(':') {
                Some((user, _)) => write!(f, "{user}:***@{host}")?,
                // A user without a password can be a token.
                None => write!(f, "***@{host}")?,
            },
            None => f.write_str(self.authority())?,
        }
        // A client may not have written the first slash.
        if self.text.len() > scheme.len() + "://".len() + self.authority().len() {
            f.write_str(self.uri.path())?;
        }
        match self.uri.query() {
            Some(_) => f.write_str("?***"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}
