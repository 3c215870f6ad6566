//! HTTP requests to servers that an operator names: without redirects, and with answers of a limited size.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::settings::values::Url;
/// In characters. A longer word may be a secret and is replaced by an ellipsis.
const MAX_WORD: usize = 20;
const MAX_WORDS: usize = 16;

/// Whether a client uses the proxies that the environment names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// It uses them.
    Environment,
    /// It connects to the server itself.
    None,
}

impl Proxies {
    /// For a server at `url`. A proxy would get what is sent to this machine in the clear.
    pub fn to(url: &Url) -> Self {
        match url.is_local() {
            true => Self::None,
            false => Self::Environment,
        }
    }
}

/// A client that follows no redirect.
///
/// # Errors
///
/// TLS that cannot be set up.
pub fn client(proxies: Proxies) -> Result<reqwest::Client, String> {
    builder(proxies).build().map_err(|error| cause(&error))
}

/// The same, to be completed.
pub fn builder(proxies: Proxies) -> reqwest::ClientBuilder {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    match proxies {
        Proxies::Environment => client,
        Proxies::None => client.no_proxy(),
    }
}

/// Reads the body of an answer. `None` if it is longer than `limit` bytes.
///
/// # Errors
///
/// The connection failed.
pub async fn body(
    response: &mut reqwest::Response,
    limit: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > limit {
            return Ok(None);
        }
    }
    Ok(Some(body))
}

/// The innermost cause, from the operating system or TLS. The outer layers print the URL.
pub fn cause(error: &dyn Error) -> String {
    let Some(mut inner) = error.source() else {
        return "the request failed".to_owned();
    };
    while let Some(source) = inner.source() {
        inner = source;
    }
    words(&inner.to_string())
}

/// The first words of a text, without those that are too long.
pub fn words(text: &str) -> String {
    let words = text.split_whitespace().take(MAX_WORDS);
    let words = words.map(|word| match word.chars().count() > MAX_WORD {
        true => "…",
        false => word,
    });
    words
        .collect::<Vec<_>>()
        .join(" ")
        .escape_debug()
        .to_string()
}

/// The address at which to reach a program of this host that listens on `listen`: nobody can connect to a
/// wildcard address.
pub fn connect_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_address_is_reached_on_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.7:1", "192.0.2.7:1"),
        ] {
            let address = connect_address(listen.parse().unwrap());
            assert_eq!(address.to_string(), expected);
        }
    }
}
