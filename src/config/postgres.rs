//! The URLs of a Postgres store: checked before anything connects, and shown without a password.
//!
//! The driver must read a URL as it is read here, or the rule on TLS would judge another host than
//! the one that is connected to. So what can be read in two ways is refused: a second `@`, a host
//! or a parameter given twice, a parameter that is not known.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// More hosts than any failover has.
const MAX_URLS: usize = 8;
/// What a URL begins with.
pub(super) const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];
const PARAMETERS: [&str; 10] = [
    "application_name",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];
const MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];
const VERIFIED: &str = "verify-full";
const TAKES: &str = "takes postgres://USER:PASSWORD@HOST/DATABASE, several separated by commas for \
                     the hosts of one database";
/// How a password is written, for errors.
pub(super) const ENCODED: &str = "in a password @ is written as %40, / as %2F, ? as %3F, # as %23, a comma as \
                       %2C, a space as %20";

/// One to eight URLs of one Postgres database, which differ in the host. Neither `Display` nor
/// `Debug` shows a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrls(Vec<PostgresUrl>);

#[derive(Clone, PartialEq, Eq)]
struct PostgresUrl {
    text: String,
    shown: String,
    /// It stays on this machine, or the server proves who it is.
    is_safe: bool,
}

impl PostgresUrls {
    /// Reads URLs that are separated by commas.
    ///
    /// # Errors
    ///
    /// What is wrong with the first wrong one, without repeating any part of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let urls: Vec<_> = text.split(',').map(str::trim).collect();
        if urls.len() > MAX_URLS {
            return Err(format!("{TAKES}, {MAX_URLS} at most"));
        }
        let numbered = |(index, url)| {
            read(url).map_err(|reason| format!("{TAKES}; {} {reason}", named(index, urls.len())))
        };
        let urls = urls.iter().copied().enumerate().map(numbered);
        urls.collect::<Result<_, _>>().map(Self)
    }

    /// Each URL as it was given, with its password, in the order in which they were given.
    pub fn expose(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|url| url.text.as_str())
    }

    /// The first URL that leads to another host without proof of who answers there, as a text may
    /// name it.
    pub(super) fn first_unsafe(&self) -> Option<String> {
        let index = self.0.iter().position(|url| !url.is_safe)?;
        Some(named(index, self.0.len()))
    }
}

impl fmt::Display for PostgresUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<_> = self.0.iter().map(|url| url.shown.as_str()).collect();
        f.write_str(&shown.join(","))
    }
}

impl fmt::Debug for PostgresUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn named(index: usize, of: usize) -> String {
    match of {
        1 => "the URL".to_owned(),
        _ => format!("URL {}", index + 1),
    }
}

/// Reads one URL. An error goes on after "the URL".
fn read(url: &str) -> Result<PostgresUrl, String> {
    let scheme = SCHEMES.iter().find(|scheme| url.starts_with(**scheme));
    let Some((scheme, rest)) = scheme.map(|scheme| url.split_at(scheme.len())) else {
        return Err(format!(
            "does not begin with postgres:// or postgresql://; {ENCODED}"
        ));
    };
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '\\');
    if !rest.chars().all(is_plain) || rest.matches('@').count() > 1 {
        return Err(format!(
            "holds a character that must be percent-encoded; {ENCODED}"
        ));
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if rest.contains('@') {
        return Err(format!("holds a / or a ? before the @; {ENCODED}"));
    }
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    if path.len() < 2 || path.matches('/').count() != 1 {
        return Err("names no database".to_owned());
    }
    let authority = Authority::read(authority)?;
    let query = query
        .map(|query| Query::read(query, &PARAMETERS))
        .transpose()?
        .unwrap_or_default();
    Ok(PostgresUrl {
        text: url.to_owned(),
        shown: format!("{scheme}{}{path}{}", authority.shown(), query.shown()),
        is_safe: is_safe(&authority, &query)?,
    })
}

/// Checks what authority and parameters say together.
fn is_safe(authority: &Authority<'_>, query: &Query<'_>) -> Result<bool, String> {
    for (name, given) in [
        ("user", authority.user),
        ("password", authority.password),
        ("host", authority.host),
        ("port", authority.port),
    ] {
        if given.is_some() && query.value(name).is_some() {
            return Err(format!("gives the {name} twice"));
        }
    }
    if authority.user.or(query.value("user")).is_none() {
        return Err("names no user".to_owned());
    }
    if let Some(port) = authority.port.or(query.value("port")) {
        port_number(port)?;
    }
    let mode = query.value("sslmode");
    if mode.is_some_and(|mode| !MODES.contains(&mode)) {
        return Err(format!(
            "has an sslmode that is none of {}",
            MODES.join(", ")
        ));
    }
    let is_local = match (authority.host, query.value("host")) {
        (Some(host), _) => is_socket(host) || is_local(host)?,
        (None, Some(directory)) if is_socket(directory) => true,
        (None, Some(_)) => {
            return Err(
                "has a parameter host that is no absolute directory of a socket; other hosts \
                 stand before the database"
                    .to_owned(),
            );
        }
        (None, None) => return Err("names no host".to_owned()),
    };
    Ok(is_local || mode == Some(VERIFIED))
}

/// Whether it is the directory of a socket.
fn is_socket(host: &str) -> bool {
    host.starts_with('/') || host.starts_with("%2F") || host.starts_with("%2f")
}

/// Splits at the colon before the port: those of an IPv6 address stand in brackets.
pub(super) fn host_and_port(address: &str) -> (&str, Option<&str>) {
    let brackets = address.find(']').map_or(0, |at| at + 1);
    match address[brackets..].find(':') {
        Some(at) => (
            &address[..brackets + at],
            Some(&address[brackets + at + 1..]),
        ),
        None => (address, None),
    }
}

pub(super) fn port_number(text: &str) -> Result<u16, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port > 0);
    port.ok_or_else(|| "has a port that is no number from 1 to 65535".to_owned())
}

/// Whether the host of a URL is this one.
pub(super) fn is_local(host: &str) -> Result<bool, String> {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').unwrap_or_default();
        return match address.parse::<Ipv6Addr>() {
            Ok(address) => Ok(is_loopback(address.into())),
            Err(_) => Err("has a host that is no IPv6 address".to_owned()),
        };
    }
    if !host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    {
        return Err("has a host that is neither a name nor an address".to_owned());
    }
    Ok(host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback))
}

/// What stands between the scheme and the database; what is empty is absent.
struct Authority<'a> {
    user: Option<&'a str>,
    password: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<&'a str>,
    address: &'a str,
}

impl<'a> Authority<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let (userinfo, address) = match text.split_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, text),
        };
        let (user, password) = match userinfo.map(|info| info.split_once(':').unwrap_or((info, "")))
        {
            Some((user, password)) => (present(user), present(password)),
            None => (None, None),
        };
        let (host, port) = host_and_port(address);
        let host = present(host);
        if host.is_none() && !text.is_empty() {
            return Err(
                "names no host; beside host=DIRECTORY the user and the port are parameters, too"
                    .to_owned(),
            );
        }
        Ok(Self {
            user,
            password,
            host,
            port,
            address,
        })
    }

    fn shown(&self) -> String {
        match (self.user, self.password) {
            (None, None) => self.address.to_owned(),
            (user, None) => format!("{}@{}", user.unwrap_or_default(), self.address),
            (user, Some(_)) => format!("{}:***@{}", user.unwrap_or_default(), self.address),
        }
    }
}

/// The parameters, each known and given once.
#[derive(Default)]
pub(super) struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    pub(super) fn read(text: &'a str, known: &[&str]) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // What is not known is not repeated: it may be the rest of a password.
            if !known.contains(&name) {
                return Err(format!(
                    "has a parameter that is not known; known are {}, and in a password & is \
                     written as %26",
                    known.join(", ")
                ));
            }
            if value.is_empty() {
                return Err(format!("has a parameter {name} without a value"));
            }
            if query.value(name).is_some() {
                return Err(format!("gives the parameter {name} twice"));
            }
            query.0.push((name, value));
        }
        Ok(query)
    }

    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }

    pub(super) fn shown(&self) -> String {
        let pairs = self.0.iter().map(|(name, value)| match *name {
            "password" => "password=***".to_owned(),
            _ => format!("{name}={value}"),
        });
        match pairs.collect::<Vec<_>>().join("&") {
            pairs if pairs.is_empty() => pairs,
            pairs => format!("?{pairs}"),
        }
    }
}

/// What is empty is absent.
pub(super) fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
