//! The URLs of a Postgres store, checked before anything connects and shown without a password.
//!
//! The driver's own parser reads each URL once, and its result is what connects. The checks here
//! refuse what that parser would ignore or what a reader could misread: an unknown parameter, a part
//! that is given twice, a second `@`.

use std::fmt;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use keyward_ops::settings::values::is_local;

/// More hosts than a failover group has.
const MAX_URLS: usize = 8;
/// The prefixes of a URL.
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
/// Parameters of libpq that the driver does not know, and what to do instead.
const UNSUPPORTED: [(&str, &str); 12] = [
    (
        "channel_binding",
        "remove it: sslmode=verify-full proves the server's identity, too",
    ),
    (
        "target_session_attrs",
        "remove it: an instance uses only a primary",
    ),
    (
        "load_balance_hosts",
        "remove it: an instance uses only a primary",
    ),
    (
        "connect_timeout",
        "remove it: each host has 3 seconds to answer",
    ),
    ("dbname", "write the database after the host"),
    ("hostaddr", "write the address as the host"),
    ("passfile", "set store_password_file"),
    ("gssencmode", "remove it: TLS is the only encryption"),
    ("sslnegotiation", "remove it"),
    ("sslcrl", "remove it"),
    (
        "ssl_min_protocol_version",
        "remove it: TLS 1.2 is the minimum",
    ),
    (
        "keepalives",
        "remove it: an instance finds dead connections itself",
    ),
];
/// Variables that the driver reads and that a URL cannot override, with the parameter that can.
const VARIABLES: [(&str, Option<&str>); 3] = [
    ("PGOPTIONS", None),
    ("PGSSLCERT", Some("sslcert")),
    ("PGSSLKEY", Some("sslkey")),
];
const TAKES: &str = "takes postgres://USER:PASSWORD@HOST/DATABASE, several separated by commas for \
                     the hosts of one database";
/// How to encode a password, for errors.
const ENCODING: &str = "in a password write @ as %40, / as %2F, ? as %3F, # as %23, a comma as \
                        %2C, a space as %20";
const WRONG_PORT: &str = "has a port that is not a number from 1 to 65535";

/// One to eight URLs of one Postgres database, which differ in the host. `Display` and `Debug` hide
/// the passwords.
#[derive(Clone)]
pub struct PostgresUrls {
    hosts: Vec<PgConnectOptions>,
    shown: String,
    first_unsafe: Option<String>,
}

impl PostgresUrls {
    /// Reads URLs that are separated by commas. With a password file, none may have a password.
    ///
    /// # Errors
    ///
    /// The first error, without any part of the URLs.
    pub fn parse(text: &str, has_file: bool) -> Result<Self, String> {
        let texts: Vec<_> = text.split(',').map(str::trim).collect();
        let is_rest = |text: &str| !text.is_empty() && !SCHEMES.iter().any(|s| text.starts_with(s));
        if texts.iter().skip(1).any(|text| is_rest(text)) {
            return Err(format!(
                "{TAKES}; a URL with several hosts is not supported: write one URL for each host, \
                 such as postgres://USER@A/DATABASE,postgres://USER@B/DATABASE; {ENCODING}"
            ));
        }
        if texts.len() > MAX_URLS {
            return Err(format!("{TAKES}, at most {MAX_URLS}"));
        }
        let mut urls = Self {
            hosts: Vec::new(),
            shown: String::new(),
            first_unsafe: None,
        };
        for (index, text) in texts.iter().enumerate() {
            let name = match texts.len() {
                1 => "the URL".to_owned(),
                _ => format!("URL {}", index + 1),
            };
            let (host, shown) =
                read(text, has_file).map_err(|reason| format!("{TAKES}; {name} {reason}"))?;
            if !is_safe(&host) {
                urls.first_unsafe.get_or_insert(name);
            }
            let separator = if index == 0 { "" } else { "," };
            urls.shown.extend([separator, &shown]);
            urls.hosts.push(host);
        }
        Ok(urls)
    }

    /// How the driver connects to each host, in the order of the URLs.
    pub fn hosts(&self) -> &[PgConnectOptions] {
        &self.hosts
    }

    /// The name of the first URL that leads to another host without proof of its identity.
    pub(super) fn first_unsafe(&self) -> Option<&str> {
        self.first_unsafe.as_deref()
    }
}

impl fmt::Display for PostgresUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether the connection stays on this machine, or the server must prove its identity.
fn is_safe(host: &PgConnectOptions) -> bool {
    host.get_socket().is_some()
        || is_local(host.get_host())
        || matches!(host.get_ssl_mode(), PgSslMode::VerifyFull)
}

/// Reads one URL, and its text without the password. An error continues "the URL".
fn read(text: &str, has_file: bool) -> Result<(PgConnectOptions, String), String> {
    let scheme = SCHEMES.iter().find(|scheme| text.starts_with(**scheme));
    let Some(rest) = scheme.and_then(|scheme| text.strip_prefix(scheme)) else {
        return Err(format!(
            "does not begin with postgres:// or postgresql://; {ENCODING}"
        ));
    };
    let parts = Parts::split(rest)?;
    if parts.authority.ends_with(':') {
        return Err(WRONG_PORT.to_owned());
    }
    let url = Url::parse(text).map_err(|error| match error {
        url::ParseError::EmptyHost => {
            "has no host; with host=DIRECTORY, give the user and the port as parameters".to_owned()
        }
        // A password without its @ is read as a port.
        url::ParseError::InvalidPort => format!("{WRONG_PORT}; {ENCODING}"),
        other => format!("is wrong: {other}"),
    })?;
    check(&url, &parts, has_file)?;
    let options = options(&url, &parts.query)?;
    if options.get_port() == 0 {
        return Err(WRONG_PORT.to_owned());
    }
    if options.get_socket().is_none() {
        check_host(options.get_host())?;
    }
    Ok((options, shown(url, &parts.query)))
}

/// How the driver connects. The variables of libpq and ~/.pgpass change nothing: the driver would
/// take from them what the URL leaves open, so nothing is left open.
fn options(url: &Url, query: &Query<'_>) -> Result<PgConnectOptions, String> {
    for (name, parameter) in VARIABLES {
        let is_overridden = parameter.is_some_and(|parameter| query.value(parameter).is_some());
        if std::env::var_os(name).is_some() && !is_overridden {
            return Err(format!(
                "cannot be used while the variable {name} is set, because the driver would read it: \
                 unset it; the parameters options, sslcert and sslkey of the URL do the same"
            ));
        }
    }
    let mut complete = url.clone();
    let is_open = |name: &str, is_given: bool| !is_given && query.value(name).is_none();
    for (name, default, is_given) in [
        ("port", "5432", url.port().is_some()),
        ("password", "", url.password().is_some()),
        ("sslmode", "prefer", false),
        ("application_name", "keyward", false),
    ] {
        if is_open(name, is_given) {
            complete.query_pairs_mut().append_pair(name, default);
        }
    }
    // The driver's error can repeat the text.
    let options = PgConnectOptions::from_url(&complete)
        .map_err(|_| "has a part that is not percent-encoded UTF-8, or a wrong port".to_owned())?;
    Ok(match is_open("sslrootcert", false) {
        // No certificates in addition to the system's.
        true => options.ssl_root_cert_from_pem(Vec::new()),
        false => options,
    })
}

/// The URL as text, without its password.
fn shown(mut url: Url, query: &Query<'_>) -> String {
    if url.password().is_some() {
        // It fails only for a URL without a host, which has no password either.
        let _ = url.set_password(Some("***"));
    }
    url.set_query(query.shown().as_deref());
    url.into()
}

/// Refuses what the driver would replace by a default, by a variable, or by the later of two values.
fn check(url: &Url, parts: &Parts<'_>, has_file: bool) -> Result<(), String> {
    let database = parts.path.strip_prefix('/').unwrap_or_default();
    if database.is_empty() || database.contains('/') {
        return Err("names no database".to_owned());
    }
    let query = &parts.query;
    let mut unsupported = UNSUPPORTED.iter();
    if let Some((name, instead)) = unsupported.find(|(name, _)| query.value(name).is_some()) {
        return Err(format!(
            "has the parameter {name}, which is not supported: {instead}"
        ));
    }
    query.allow(&PARAMETERS)?;
    let host = url.host_str().filter(|host| !host.is_empty());
    for (name, is_given) in [
        ("user", !url.username().is_empty()),
        (
            "password",
            url.password().is_some_and(|text| !text.is_empty()),
        ),
        ("host", host.is_some()),
        ("port", url.port().is_some()),
    ] {
        let parameter = query.value(name);
        if is_given && parameter.is_some() {
            return Err(format!("gives the {name} twice"));
        }
        if name == "password" && has_file && (is_given || parameter.is_some()) {
            return Err("has a password, and store_password_file is set, too".to_owned());
        }
        if matches!(name, "user" | "host") && !is_given && parameter.is_none() {
            return Err(format!("names no {name}"));
        }
    }
    if query
        .value("port")
        .is_some_and(|port| port_number(port).is_err())
    {
        return Err(WRONG_PORT.to_owned());
    }
    let is_directory = |host: &str| host.starts_with('/') || host.to_lowercase().starts_with("%2f");
    if query.value("host").is_some_and(|host| !is_directory(host)) {
        return Err(
            "has a parameter host that is not the absolute directory of a socket; write other hosts \
             before the database"
                .to_owned(),
        );
    }
    let is_mode = |mode: &str| mode.parse::<PgSslMode>().is_ok() && mode == mode.to_lowercase();
    match query.value("sslmode").is_none_or(is_mode) {
        true => Ok(()),
        false => Err(
            "has an sslmode other than disable, allow, prefer, require, verify-ca, verify-full"
                .to_owned(),
        ),
    }
}

/// A port from 1 to 65535.
pub(super) fn port_number(text: &str) -> Result<u16, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_number && *port > 0);
    port.ok_or_else(|| WRONG_PORT.to_owned())
}

/// Refuses a host that is neither a name nor an address; an IPv6 address has brackets.
pub(super) fn check_host(host: &str) -> Result<(), String> {
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').unwrap_or_default();
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("has a host that is not an IPv6 address".to_owned()),
        };
    }
    let of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    match host.bytes().all(of_host) {
        true => Ok(()),
        false => Err("has a host that is neither a name nor an address".to_owned()),
    }
}

/// The parts of a URL after its scheme, as they are written.
pub(super) struct Parts<'a> {
    pub(super) authority: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Query<'a>,
}

impl<'a> Parts<'a> {
    /// Splits the text after the scheme. Refuses characters that two parsers could read in two ways.
    pub(super) fn split(rest: &'a str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '\\');
        if !rest.chars().all(is_plain) || rest.matches('@').count() > 1 {
            return Err(not_encoded());
        }
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if rest.contains('@') {
            return Err(format!("has a / or a ? before the @; {ENCODING}"));
        }
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Query::read(query)),
            None => (rest, Query::default()),
        };
        Ok(Self {
            authority,
            path,
            query,
        })
    }
}

/// The error for a character that has a meaning of its own in URLs.
pub(super) fn not_encoded() -> String {
    format!("has a character that must be percent-encoded; {ENCODING}")
}

/// The parameters of a URL, each with a value and given once.
#[derive(Default)]
pub(super) struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    fn read(text: &'a str) -> Self {
        let pairs = text
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self(pairs.collect())
    }

    /// Refuses parameters that are not in `known`, have no value or are given twice. The error does
    /// not repeat an unknown name, which can be the rest of a password.
    pub(super) fn allow(&self, known: &[&str]) -> Result<(), String> {
        for (index, (name, value)) in self.0.iter().enumerate() {
            if !known.contains(name) {
                return Err(format!(
                    "has an unknown parameter; known are {}, and in a password & is written as %26",
                    known.join(", ")
                ));
            }
            if value.is_empty() {
                return Err(format!("has a parameter {name} without a value"));
            }
            if self.0[..index].iter().any(|(before, _)| before == name) {
                return Err(format!("gives the parameter {name} twice"));
            }
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a value contains `character`.
    pub(super) fn has(&self, character: char) -> bool {
        self.0.iter().any(|(_, value)| value.contains(character))
    }

    pub(super) fn value(&self, name: &str) -> Option<&'a str> {
        let pair = self.0.iter().find(|(known, _)| *known == name);
        pair.map(|(_, value)| *value)
    }

    /// The parameters as text, without the password.
    pub(super) fn shown(&self) -> Option<String> {
        let pairs = self.0.iter().map(|(name, value)| match *name {
            "password" => "password=***".to_owned(),
            _ => format!("{name}={value}"),
        });
        (!self.is_empty()).then(|| pairs.collect::<Vec<_>>().join("&"))
    }
}
