//! One endpoint: which URLs are accepted, and the connections. A connection is made when it is first
//! used, and made again when it breaks.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::BuildError;
use crate::certificate::CertificatePair;

/// How often a silent connection is checked, even without calls, so that a peer that vanished is
/// noticed before the next call needs it.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A connection without a reply to the check for this long is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings that all connections share.
#[derive(Clone)]
pub(crate) struct ConnectOptions {
    pub(crate) timeout: Duration,
    /// Certificates in PEM format that are trusted instead of the system's.
    pub(crate) authorities: Option<Vec<u8>>,
    /// The client's own certificate.
    pub(crate) certificate: Option<CertificatePair>,
    /// The name that certificates must prove, instead of the endpoint's host.
    pub(crate) server_name: Option<String>,
    /// Whether the token may cross the network in clear text.
    pub(crate) insecure: bool,
}

/// The window of a call that is passed on: what its reader can hold of the connection.
const PASSED_WINDOW: u32 = 64 << 10;
/// The window of the connection of such calls. It leaves room for other calls while 200 are not read.
const PASSED_CONNECTION_WINDOW: u32 = 16 << 20;

/// The connections to one endpoint.
pub(crate) struct Channels {
    /// For this client's own calls.
    pub(crate) own: Channel,
    /// For calls that are passed on. Their readers may be slow, and unread answers use up the window that all
    /// calls of a connection share.
    pub(crate) passed: Channel,
}

impl Channels {
    fn to(endpoint: &Endpoint) -> Self {
        Self::with(endpoint, endpoint.clone())
    }

    /// Calls are passed on to `passed`.
    fn with(endpoint: &Endpoint, passed: Endpoint) -> Self {
        let passed = passed
            .initial_stream_window_size(PASSED_WINDOW)
            .initial_connection_window_size(PASSED_CONNECTION_WINDOW);
        Self {
            own: endpoint.connect_lazy(),
            passed: passed.connect_lazy(),
        }
    }

    /// Those of an endpoint that is not there.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self::to(&Endpoint::from_static("http://127.0.0.1:1"))
    }
}

/// The connections to the endpoint that the user wrote as `url`.
pub(crate) fn connections(url: &str, options: &ConnectOptions) -> Result<Channels, BuildError> {
    // The text before an @ may be a password, even if the rest is not a URL.
    if let Some((_, host)) = url.rsplit_once('@') {
        let why = "must not contain a user or password";
        return Err(BuildError::Endpoint(host.to_owned(), why));
    }
    if options.certificate.is_some() && !url.starts_with("https://") {
        let why = "presents no client certificate: use https://";
        return Err(BuildError::Endpoint(url.to_owned(), why));
    }
    if let Some(path) = url.strip_prefix("unix:") {
        // The permissions of the socket protect the token.
        let endpoint = Some(path).filter(|path| path.starts_with('/'));
        let endpoint = endpoint.and_then(|_| Endpoint::from_shared(url.to_owned()).ok());
        let why = "must name a socket by its absolute path, such as unix:/run/keyward.sock";
        let endpoint = endpoint.ok_or_else(|| BuildError::Endpoint(url.to_owned(), why))?;
        return Ok(Channels::to(&configured(endpoint, url, options)?));
    }
    let (uri, is_tls) =
        parse(url, options.insecure).map_err(|why| BuildError::Endpoint(url.to_owned(), why))?;
    let host = host(&uri);
    let endpoint = configured(Endpoint::from(uri.clone()), url, options)?;
    if !is_tls {
        return Ok(Channels::to(&endpoint));
    }
    let tls = ClientTlsConfig::new()
        .domain_name(options.server_name.as_deref().unwrap_or(host))
        .timeout(options.timeout);
    let tls = match &options.authorities {
        Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
        None => tls.with_native_roots(),
    };
    let secured = |tls| {
        let endpoint = endpoint.clone().tls_config(tls);
        endpoint.map_err(|error| BuildError::Tls(url.to_owned(), error))
    };
    // The certificate says who this client is, not who calls through it.
    let passed = secured(tls.clone())?;
    let own = match &options.certificate {
        Some(pair) => secured(tls.identity(pair.identity()))?,
        None => passed.clone(),
    };
    Ok(Channels::with(&own, passed))
}

/// Adds what all connections share.
fn configured(
    endpoint: Endpoint,
    url: &str,
    options: &ConnectOptions,
) -> Result<Endpoint, BuildError> {
    let endpoint = endpoint
        .user_agent(concat!("keyward-client/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| BuildError::Endpoint(url.to_owned(), "cannot be used"))?;
    Ok(endpoint
        .connect_timeout(options.timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// The URL, and whether it uses TLS. An error says what is wrong.
fn parse(url: &str, insecure: bool) -> Result<(Uri, bool), &'static str> {
    if url.is_empty() {
        return Err("is empty");
    }
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("must begin with https:// or http://"),
    };
    if host(&uri).is_empty() {
        return Err("has no host");
    }
    // An invalid port must not become the scheme's default port, where another program may listen.
    let has_valid_port = uri.port_u16().is_some_and(|port| port != 0);
    let has_port_text = uri.authority().map(|authority| authority.as_str()) != uri.host();
    if has_port_text && !has_valid_port {
        return Err("has an invalid port: use 1 to 65535");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("must not have a path or query");
    }
    if !is_tls && !insecure && !is_loopback(host(&uri)) {
        return Err(
            "would send the token and every key in clear text: use https://, or allow it with \
             insecure(true)",
        );
    }
    Ok((uri, is_tls))
}

/// The host without the brackets of an IPv6 address.
fn host(uri: &Uri) -> &str {
    let host = uri.host().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, insecure: bool) -> Option<String> {
        let options = ConnectOptions {
            timeout: Duration::from_secs(1),
            authorities: None,
            certificate: None,
            server_name: None,
            insecure,
        };
        let error = connections(text, &options).err();
        error.map(|error| error.to_string())
    }

    #[tokio::test]
    async fn clear_text_is_allowed_to_loopback_only() {
        for text in [
            "http://127.0.0.1:50051",
            "http://127.8.8.8",
            "http://[::1]:50051/",
            "http://LOCALHOST:1",
            "unix:/run/keyward.sock",
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
    async fn invalid_endpoint_is_refused_without_its_password() {
        for text in [
            "",
            "keyward:50051",
            "ftp://keyward",
            "http://",
            "https://a/b",
            "http://127.0.0.1:1/path",
            "https://a?b",
            "http://127.0.0.1:99999",
            "https://keyward:0",
            "https://keyward:",
            "https://[::1]:70000",
            "unix:",
            "unix:keyward.sock",
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
