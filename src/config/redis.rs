//! The URL of Redis, checked before anything connects.
//!
//! All forms have one parser here, because redis-rs has none for lists of sentinels and cluster
//! nodes and ignores what it does not know. Everything that a reader could misread is refused: a
//! second `@`, a parameter that is unknown or given twice.

use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::postgres::{Parts, Query, check_host, not_encoded, port_number};
use crate::cache::l2::{Address, Node, Nodes};
use keyward_core::key::SecretText;

/// More hosts than a client needs to find the rest of a cluster.
const MAX_HOSTS: usize = 16;
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// The prefix of a URL, the form of the rest, and whether it means TLS.
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

const USER_ALONE: &str = "names a user without a password; write a password without a user as \
                          :PASSWORD@HOST, or set redis_password_file";

#[derive(Clone, Copy)]
enum Form {
    Single,
    Socket,
    Sentinel,
    Cluster,
}

/// Reads one URL. With a password file, it must have no password.
///
/// # Errors
///
/// What is wrong with it, without any part of it, and what the setting takes.
pub(super) fn parse(text: &str, password_file: Option<&Path>) -> Result<Address, String> {
    read(text, password_file).map_err(|reason| format!("the URL {reason}; {TAKES}"))
}

/// Reads the URL. An error continues "the URL".
fn read(url: &str, password_file: Option<&Path>) -> Result<Address, String> {
    let matching = SCHEMES.iter().find_map(|(scheme, form, tls)| {
        let rest = url.strip_prefix(scheme)?;
        Some((scheme, *form, *tls, rest))
    });
    let Some((scheme, form, tls, rest)) = matching else {
        return Err("has an unknown scheme".to_owned());
    };
    let Parts {
        authority,
        path,
        query,
    } = Parts::split(rest)?;
    check_parameters(&query, form, tls)?;
    let (userinfo, hosts) = match authority.rsplit_once('@') {
        Some((userinfo, hosts)) => (Some(userinfo), hosts),
        None => (None, authority),
    };
    let (user, password) = match (form, userinfo) {
        (Form::Socket, _) => login(query.value("user"), query.value("password"))?,
        (_, Some(userinfo)) => login_of(userinfo)?,
        (_, None) => (None, None),
    };
    match (&user, &password, password_file) {
        (_, Some(_), Some(_)) => {
            return Err("has a password, and redis_password_file is set, too".to_owned());
        }
        (Some(_), None, None) => return Err(USER_ALONE.to_owned()),
        _ => {}
    }
    let (nodes, number) = match form {
        Form::Socket => (socket(authority, path)?, query.value("db")),
        _ => servers(form, hosts, path)?,
    };
    let login = userinfo.map_or_else(String::new, |userinfo| match userinfo.split_once(':') {
        Some((user, _)) => format!("{user}:***@"),
        None => format!("{userinfo}@"),
    });
    let parameters = query
        .shown()
        .map_or_else(String::new, |text| format!("?{text}"));
    Ok(Address {
        nodes,
        user,
        password,
        password_file: password_file.map(Path::to_owned),
        database: number.map_or(Ok(0), database)?,
        tls,
        ca: query.value("ca").map(|ca| file("ca", ca)).transpose()?,
        shown: format!("{scheme}{login}{hosts}{path}{parameters}"),
    })
}

/// Refuses parameters that the form does not know.
fn check_parameters(query: &Query<'_>, form: Form, tls: bool) -> Result<(), String> {
    let known: &[&str] = match form {
        Form::Socket => &["user", "password", "db"],
        _ if tls => &["ca"],
        _ if query.is_empty() => return Ok(()),
        _ => {
            return Err(
                "has a parameter, which only TLS and sockets have; write the user, the password \
                 and the database into the URL itself"
                    .to_owned(),
            );
        }
    };
    query.allow(known)?;
    // Some parsers read + as a space.
    match query.has('+') {
        true => Err("has a + in a parameter; write %2B, or %20 for a space".to_owned()),
        false => Ok(()),
    }
}

type Login = (Option<String>, Option<SecretText>);

/// The login before the `@`.
fn login_of(userinfo: &str) -> Result<Login, String> {
    if userinfo.contains(',') {
        return Err(not_encoded());
    }
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    if user.is_empty() && password.is_empty() {
        return Err("has nothing before the @".to_owned());
    }
    login(present(user), present(password))
}

fn login(user: Option<&str>, password: Option<&str>) -> Result<Login, String> {
    let password = password.map(|password| decode("password", password));
    Ok((
        user.map(|user| decode("user", user)).transpose()?,
        password.transpose()?.map(SecretText::new),
    ))
}

fn socket(authority: &str, path: &str) -> Result<Nodes, String> {
    if !authority.is_empty() {
        return Err(
            "has something before the path of the socket; write three / before it, and the user \
             and the password as parameters"
                .to_owned(),
        );
    }
    if path.is_empty() || path.ends_with('/') {
        return Err("names no socket".to_owned());
    }
    file("socket", path).map(Nodes::Socket)
}

/// The servers, and the number of the database as text.
fn servers<'a>(form: Form, hosts: &str, path: &'a str) -> Result<(Nodes, Option<&'a str>), String> {
    let default = match form {
        Form::Sentinel => SENTINEL_PORT,
        _ => PORT,
    };
    let mut nodes = nodes(hosts, default)?;
    let path = path.strip_prefix('/').unwrap_or(path);
    match form {
        Form::Sentinel => {
            let (service, number) = match path.split_once('/') {
                Some((service, number)) => (service, Some(number)),
                None => (path, None),
            };
            Ok((Nodes::Sentinel(nodes, service_name(service)?), number))
        }
        Form::Cluster if path.is_empty() => Ok((Nodes::Cluster(nodes), None)),
        Form::Cluster => Err("names a database, but a cluster has none".to_owned()),
        Form::Single | Form::Socket => match (nodes.pop(), nodes.is_empty()) {
            (Some(node), true) => Ok((Nodes::Single(node), present(path))),
            _ => Err("names several hosts, which only sentinels and clusters have".to_owned()),
        },
    }
}

/// Host and port of each server in a list.
fn nodes(text: &str, default: u16) -> Result<Vec<Node>, String> {
    let hosts: Vec<_> = text.split(',').collect();
    if hosts.len() > MAX_HOSTS {
        return Err(format!("names more than {MAX_HOSTS} hosts"));
    }
    hosts.into_iter().map(|host| node(host, default)).collect()
}

fn node(text: &str, default: u16) -> Result<Node, String> {
    // The colons of an IPv6 address are in brackets.
    let brackets = text.find(']').map_or(0, |at| at + 1);
    let (host, port) = match text[brackets..].find(':') {
        Some(at) => (&text[..brackets + at], Some(&text[brackets + at + 1..])),
        None => (text, None),
    };
    if host.is_empty() {
        return Err("names no host, or a list lacks one".to_owned());
    }
    check_host(host)?;
    let port = port.map_or(Ok(default), port_number)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), port))
}

fn service_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.is_empty() || !text.bytes().all(is_plain) {
        true => Err(
            "names no service: after the hosts, write the name of the primary that the sentinels \
             watch, of letters, digits, dots, _ and -"
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
        .ok_or_else(|| "has a database that is not a number from 0 to 65535".to_owned())
}

/// An absolute path.
fn file(what: &str, text: &str) -> Result<PathBuf, String> {
    let path = decode(what, text)?;
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(PathBuf::from(path)),
        false => Err(format!(
            "has a {what} that is not the absolute path of a file"
        )),
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

fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}
