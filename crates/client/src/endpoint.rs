//! One endpoint: what may be named as one, and the connection to it, which is made when it is first
//! used and made again whenever it breaks.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::BuildError;

/// A connection on which nothing is heard is asked so often whether it is alive, also while it is
/// idle: a peer that vanished is noticed before the next call needs it.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// One that does not answer for so long is given up.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How endpoints are reached.
pub(crate) struct Reach {
    pub(crate) connect_timeout: Duration,
    /// Certificates in PEM form to trust instead of the system's.
    pub(crate) authorities: Option<Vec<u8>>,
    /// Whether the token may go over the network in clear text.
    pub(crate) insecure: bool,
}

/// The connection to `text`, an endpoint as the user named it.
pub(crate) fn connection(text: &str, reach: &Reach) -> Result<Channel, BuildError> {
    // What stands before an @ may be a secret, also where the rest is no URL.
    if let Some((_, host)) = text.rsplit_once('@') {
        let why = "it takes no user or password";
        return Err(BuildError::Endpoint(host.to_owned(), why));
    }
    let wrong = |why: &'static str| BuildError::Endpoint(text.to_owned(), why);
    let uri: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong("it begins neither with https:// nor with http://")),
    };
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| wrong("it names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // A port that is none is otherwise taken for that of the scheme, where somebody else may listen.
    let has_port = uri.port_u16().is_some_and(|port| port != 0);
    if !has_port
        && uri
            .authority()
            .is_some_and(|part| Some(part.as_str()) != uri.host())
    {
        return Err(wrong("its port is none"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("it takes no path"));
    }
    if !tls && !reach.insecure && !is_loopback(host) {
        return Err(wrong(
            "without TLS the token and every key can be read on the way: take https://, or allow \
             it with insecure(true)",
        ));
    }
    let mut endpoint = Endpoint::from(uri.clone())
        .user_agent(concat!("keyward-client/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| wrong("it cannot be used"))?
        .connect_timeout(reach.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    if tls {
        let config = ClientTlsConfig::new()
            .domain_name(host)
            .timeout(reach.connect_timeout);
        let config = match &reach.authorities {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        endpoint = endpoint
            .tls_config(config)
            .map_err(|error| BuildError::Tls(text.to_owned(), error))?;
    }
    Ok(endpoint.connect_lazy())
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, insecure: bool) -> Option<String> {
        let reach = Reach {
            connect_timeout: Duration::from_secs(1),
            authorities: None,
            insecure,
        };
        connection(text, &reach)
            .err()
            .map(|error| error.to_string())
    }

    #[tokio::test]
    async fn clear_text_goes_to_loopback_only() {
        for text in [
            "http://127.0.0.1:50051",
            "http://127.8.8.8",
            "http://[::1]:50051/",
            "http://LOCALHOST:1",
        ] {
            assert_eq!(refused(text, false), None, "{text}");
        }
        for text in [
            "http://keyward:50051",
            "http://10.0.0.1",
            "http://[2001:db8::1]:1",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
        ] {
            let why = refused(text, false).unwrap();
            assert!(why.contains(text) && why.contains("https://"), "{why}");
            assert_eq!(refused(text, true), None, "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_no_endpoint_is_refused() {
        for text in [
            "",
            "keyward:50051",
            "ftp://keyward",
            "http://",
            "https://a/b",
            "https://a?b",
            "http://127.0.0.1:99999",
            "https://keyward:0",
            "https://keyward:",
            "https://[::1]:70000",
        ] {
            assert!(refused(text, true).is_some(), "{text}");
        }
        for text in [
            "http://me:canary@127.0.0.1",
            "me:canary@127.0.0.1:50051",
            "ftp://me:canary@127.0.0.1",
            "https://me:canary#x@127.0.0.1",
            "https://me:canary@x@127.0.0.1",
        ] {
            let why = refused(text, true).unwrap();
            assert!(
                !why.contains("canary") && why.contains("127.0.0.1"),
                "{why}"
            );
        }
    }
}
