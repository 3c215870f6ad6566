//! The URL of the Redis that instances share: checked before anything connects, taken apart once,
//! and shown without a password.
//!
//! What can be read in two ways is refused, or the rule on TLS would judge another host than the
//! one that is connected to: a second `@`, a parameter given twice, a parameter that is not known.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::postgres::{ENCODED, Query, host_and_port, is_local, port_number, present};
use keyward_core::key::SecretText;

/// More hosts than one has to know of any cluster.
const MAX_HOSTS: usize = 16;
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// What a URL begins with, the form of the rest, and whether it means TLS.
const SCHEMES: [(&str, Form, bool); 7] = [
    ("redis://", Form::Single, false),
    ("rediss://", Form::Single, true),
    ("redis+unix://", Form::Socket, false),
    ("redis+sentinel://", Form::Sentinel, false),
    ("rediss+sentinel://", Form::Sentinel, true),
    ("redis+cluster://", Form::Cluster, false),
    ("rediss+cluster://", Form::Cluster, true),
];
const TAKES: &str = "takes redis://USER:PASSWORD@HOST:PORT/DB, redis+unix:///SOCKET, \
                     redis+sentinel://HOST,HOST/SERVICE or redis+cluster://HOST,HOST, and with TLS \
                     rediss in place of redis";

#[derive(Clone, Copy)]
enum Form {
    Single,
    Socket,
    Sentinel,
    Cluster,
}

/// Where Redis is, and who logs in there. Neither `Display` nor `Debug` shows a password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisServers {
    kind: RedisKind,
    login: Login,
    database: i64,
    is_tls: bool,
    ca: Option<PathBuf>,
    /// All hosts that are named are this one.
    is_local: bool,
    shown: String,
}

/// How Redis is reached. An IPv6 address stands there without its brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    Single {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// One server on this machine, by the path of its socket.
    Socket(PathBuf),
    /// Whichever server the sentinels say is the master.
    Sentinel {
        /// Host and port of each sentinel.
        nodes: Vec<(String, u16)>,
        /// The name that the sentinels know the master by.
        service: String,
    },
    /// A cluster.
    Cluster {
        /// Host and port of those nodes that are asked for the others.
        nodes: Vec<(String, u16)>,
    },
}

impl RedisServers {
    /// Reads one URL.
    ///
    /// # Errors
    ///
    /// What is wrong with it, without repeating any part of it, and what it takes.
    pub fn parse(text: &str) -> Result<Self, String> {
        read(text).map_err(|reason| format!("the URL {reason}; {TAKES}"))
    }

    /// How it is reached.
    pub fn kind(&self) -> &RedisKind {
        &self.kind
    }

    /// The user; `None`: the default one. There is none without a password.
    pub fn user(&self) -> Option<&str> {
        self.login.user.as_deref()
    }

    /// The password.
    pub fn password(&self) -> Option<&SecretText> {
        self.login.password.as_ref()
    }

    /// The number of the database; 0 for a cluster.
    pub fn database(&self) -> i64 {
        self.database
    }

    /// Whether it is spoken to over TLS.
    pub fn tls(&self) -> bool {
        self.is_tls
    }

    /// The file of the authorities that are trusted; `None`: those of the system.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// Whether the password would go to another host without TLS.
    pub(super) fn is_exposed(&self) -> bool {
        self.login.password.is_some() && !self.is_tls && !self.is_local
    }
}

impl fmt::Display for RedisServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads the URL. An error goes on after "the URL".
fn read(url: &str) -> Result<RedisServers, String> {
    let scheme = SCHEMES.iter().find(|scheme| url.starts_with(scheme.0));
    let Some(&(scheme, form, is_tls)) = scheme else {
        return Err("begins with no scheme that is known".to_owned());
    };
    let rest = &url[scheme.len()..];
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
    let query = match query {
        Some(query) => parameters(query, form, is_tls)?,
        None => Query::default(),
    };
    let (login, place) = match form {
        Form::Socket => (
            Login::read(query.value("user"), query.value("password"))?,
            Place::of_socket(authority, path, &query)?,
        ),
        _ => {
            let (login, hosts) = match authority.split_once('@') {
                Some((userinfo, hosts)) => (Login::before_hosts(userinfo)?, hosts),
                None => (Login::default(), authority),
            };
            (login, Place::of_hosts(form, hosts, path)?)
        }
    };
    Ok(RedisServers {
        kind: place.kind,
        login,
        database: place.database,
        is_tls,
        ca: query.value("ca").map(|ca| file("ca", ca)).transpose()?,
        is_local: place.is_local,
        shown: format!("{scheme}{}{path}{}", shown(authority), query.shown()),
    })
}

/// The parameters that this form knows, each given once.
fn parameters(text: &str, form: Form, is_tls: bool) -> Result<Query<'_>, String> {
    let known: &[&str] = match form {
        Form::Socket => &["user", "password", "db"],
        _ if is_tls => &["ca"],
        _ => {
            return Err(
                "has a parameter, and without TLS there is none; the user, the password and the \
                 database stand at their place in the URL"
                    .to_owned(),
            );
        }
    };
    // To some a + is a space.
    if text.contains('+') {
        return Err("has a + in a parameter; write %2B, or %20 for a space".to_owned());
    }
    Query::read(text, known)
}

/// What stands before the path, without its password.
fn shown(authority: &str) -> String {
    match authority.split_once('@') {
        Some((userinfo, hosts)) => {
            let user = userinfo.split(':').next().unwrap_or_default();
            format!("{user}:***@{hosts}")
        }
        None => authority.to_owned(),
    }
}

/// Who logs in.
#[derive(Clone, Default, PartialEq, Eq)]
struct Login {
    user: Option<String>,
    password: Option<SecretText>,
}

impl Login {
    /// Reads what stands before the `@`.
    fn before_hosts(userinfo: &str) -> Result<Self, String> {
        if userinfo.contains(',') {
            return Err(format!(
                "holds a character that must be percent-encoded; {ENCODED}"
            ));
        }
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        if user.is_empty() && password.is_empty() {
            return Err("has nothing before the @".to_owned());
        }
        Self::read(present(user), present(password))
    }

    fn read(user: Option<&str>, password: Option<&str>) -> Result<Self, String> {
        if user.is_some() && password.is_none() {
            return Err(
                "names a user without a password; a password without a user is written as \
                 :PASSWORD@HOST"
                    .to_owned(),
            );
        }
        Ok(Self {
            user: user.map(|user| decode("user", user)).transpose()?,
            password: password
                .map(|password| decode("password", password).map(SecretText::new))
                .transpose()?,
        })
    }
}

/// What hosts and path say together.
struct Place {
    kind: RedisKind,
    database: i64,
    is_local: bool,
}

impl Place {
    fn of_socket(authority: &str, path: &str, query: &Query<'_>) -> Result<Self, String> {
        if !authority.is_empty() {
            return Err(
                "has something before the path of the socket; three / stand before it, and user \
                 and password are parameters"
                    .to_owned(),
            );
        }
        if path.is_empty() || path.ends_with('/') {
            return Err("names no socket".to_owned());
        }
        Ok(Self {
            kind: RedisKind::Socket(file("socket", path)?),
            database: query.value("db").map_or(Ok(0), database)?,
            is_local: true,
        })
    }

    fn of_hosts(form: Form, hosts: &str, path: &str) -> Result<Self, String> {
        let default = match form {
            Form::Sentinel => SENTINEL_PORT,
            _ => PORT,
        };
        let (mut nodes, is_local) = nodes(hosts, default)?;
        let path = path.strip_prefix('/').unwrap_or(path);
        let (kind, number) = match form {
            Form::Sentinel => {
                let (service, number) = match path.split_once('/') {
                    Some((service, number)) => (service, Some(number)),
                    None => (path, None),
                };
                let service = service_name(service)?;
                (RedisKind::Sentinel { nodes, service }, number)
            }
            Form::Cluster if path.is_empty() => (RedisKind::Cluster { nodes }, None),
            Form::Cluster => return Err("names a database, and a cluster has none".to_owned()),
            Form::Single | Form::Socket => match (nodes.pop(), nodes.is_empty()) {
                (Some((host, port)), true) => (RedisKind::Single { host, port }, present(path)),
                _ => {
                    return Err(
                        "names several hosts, which only sentinels and clusters have".to_owned(),
                    );
                }
            },
        };
        Ok(Self {
            kind,
            database: number.map_or(Ok(0), database)?,
            is_local,
        })
    }
}

/// Host and port of each, and whether all are this host.
fn nodes(text: &str, default: u16) -> Result<(Vec<(String, u16)>, bool), String> {
    let hosts: Vec<_> = text.split(',').collect();
    if hosts.len() > MAX_HOSTS {
        return Err(format!("names more than {MAX_HOSTS} hosts"));
    }
    let mut nodes = Vec::with_capacity(hosts.len());
    let mut all_local = true;
    for host in hosts {
        let (host, port) = host_and_port(host);
        if host.is_empty() {
            return Err("names no host, or lacks one in a list".to_owned());
        }
        all_local &= is_local(host)?;
        let port = port.map_or(Ok(default), port_number)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        nodes.push((host.to_owned(), port));
    }
    Ok((nodes, all_local))
}

fn service_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.is_empty() || !text.bytes().all(is_plain) {
        true => Err(
            "names no service: the name of the master that the sentinels watch, of letters, \
             digits, dots, _ and -, stands after the hosts"
                .to_owned(),
        ),
        false => Ok(text.to_owned()),
    }
}

fn database(text: &str) -> Result<i64, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u16>().ok().filter(|_| is_number);
    number
        .map(i64::from)
        .ok_or_else(|| "has a database that is no number from 0 to 65535".to_owned())
}

/// An absolute path.
fn file(what: &str, text: &str) -> Result<PathBuf, String> {
    let path = decode(what, text)?;
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(PathBuf::from(path)),
        false => Err(format!("has a {what} that is no absolute path of a file")),
    }
}

fn decode(what: &str, text: &str) -> Result<String, String> {
    let is_escape = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) if text.split('%').skip(1).all(is_escape) => Ok(decoded.into_owned()),
        _ => Err(format!(
            "has a {what} that is not percent-encoded UTF-8; % is written as %25"
        )),
    }
}
