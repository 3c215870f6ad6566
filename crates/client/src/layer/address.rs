//! Finds the address of the end user. Headers count only if the service says which proxies it has.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

/// Selects the address of the end user, which Keyward compares with a key's `allowed_cidrs`. With an
/// unknown address, Keyward refuses every key that is limited to certain addresses.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum ClientIp {
    /// The peer of the connection, as the server recorded it in the request's extensions: axum's
    /// `ConnectInfo<SocketAddr>` (from `into_make_service_with_connect_info::<SocketAddr>()`; needs
    /// the feature `axum`, on by default), tonic's `TcpConnectInfo` with or without TLS, or a plain
    /// `SocketAddr`. No client can forge it. Behind a proxy, it is the proxy's address.
    #[default]
    Peer,
    /// The peer of your outermost proxy: the entry of `x-forwarded-for` at position `trusted_hops`
    /// from the end. With one proxy, that is the last entry, which the proxy wrote; the client may
    /// have written the entries before it. If the header is too short, or the entry is not an
    /// address, the address is unknown. 0 means [`Self::Peer`].
    ///
    /// Use this only if every request passes all of these proxies, and each adds the address of its
    /// peer. A client that reaches this server in another way can claim any address.
    Forwarded {
        /// The number of proxies.
        trusted_hops: usize,
    },
    /// The result of a function of the request's headers and URI, without the key.
    Custom(Arc<FindIp>),
    /// No address.
    Unknown,
}

/// Finds the address of the end user in a request's headers and URI.
pub type FindIp = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

impl ClientIp {
    /// Uses a function: [`Self::Custom`].
    pub fn custom(find: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(find))
    }

    pub(super) fn find(&self, parts: &Parts) -> Option<IpAddr> {
        let found = match self {
            Self::Peer | Self::Forwarded { trusted_hops: 0 } => peer(parts),
            Self::Forwarded { trusted_hops } => forwarded(parts, *trusted_hops),
            Self::Custom(find) => find(parts),
            Self::Unknown => None,
        };
        found.map(|ip| ip.to_canonical())
    }
}

impl fmt::Debug for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => f.write_str("Peer"),
            Self::Forwarded { trusted_hops } => write!(f, "Forwarded({trusted_hops})"),
            Self::Custom(_) => f.write_str("Custom"),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

fn peer(parts: &Parts) -> Option<IpAddr> {
    let extensions = &parts.extensions;
    let tcp = extensions.get::<TcpConnectInfo>().or_else(|| {
        let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        tls.map(TlsConnectInfo::get_ref)
    });
    let address = tcp
        .and_then(TcpConnectInfo::remote_addr)
        .or_else(|| extensions.get::<SocketAddr>().copied());
    #[cfg(feature = "axum")]
    let address = address.or_else(|| {
        let info = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>();
        info.map(|info| info.0)
    });
    address.map(|address| address.ip())
}

fn forwarded(parts: &Parts, hops: usize) -> Option<IpAddr> {
    let mut entries = Vec::new();
    for line in parts.headers.get_all("x-forwarded-for") {
        entries.extend(line.to_str().ok()?.split(','));
    }
    let entry = entries[entries.len().checked_sub(hops)?].trim();
    // Some proxies also write the port.
    entry
        .parse()
        .or_else(|_| entry.parse().map(|address: SocketAddr| address.ip()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(lines: &[&str]) -> Parts {
        let mut request = http::Request::builder();
        for line in lines {
            request = request.header("x-forwarded-for", *line);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_entries_of_trusted_proxies_count() {
        for (lines, hops, expected) in [
            (&["192.0.2.1"][..], 1, Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1"], 1, Some("192.0.2.1")),
            (&["6.6.6.6", "192.0.2.1,10.0.0.1"], 2, Some("192.0.2.1")),
            (&["192.0.2.1:4711"], 1, Some("192.0.2.1")),
            (&["[2001:db8::1]:4711"], 1, Some("2001:db8::1")),
            (&["::ffff:192.0.2.1"], 1, Some("192.0.2.1")),
            (&["192.0.2.1"], 2, None),
            (&["192.0.2.1, unknown"], 1, None),
            (&[], 1, None),
        ] {
            let client_ip = ClientIp::Forwarded { trusted_hops: hops };
            let found = client_ip.find(&parts(lines)).map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), expected, "{lines:?} {hops}");
        }
    }

    #[test]
    fn peer_is_the_address_that_the_server_recorded() {
        let address: SocketAddr = "[::ffff:192.0.2.1]:4711".parse().unwrap();
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut spoofed = parts(&["6.6.6.6"]);
        assert_eq!(ClientIp::default().find(&spoofed), None);
        spoofed.extensions.insert(address);
        assert_eq!(ClientIp::default().find(&spoofed), Some(ip));
        assert_eq!(
            ClientIp::Forwarded { trusted_hops: 0 }.find(&spoofed),
            Some(ip)
        );
        assert_eq!(ClientIp::Unknown.find(&spoofed), None);

        let mut tonic = parts(&[]);
        tonic.extensions.insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(address),
        });
        assert_eq!(ClientIp::Peer.find(&tonic), Some(ip));
        assert_eq!(
            ClientIp::custom(move |_| Some(ip)).find(&parts(&[])),
            Some(ip)
        );
    }

    #[cfg(feature = "axum")]
    #[test]
    fn peer_of_axum_is_found() {
        let address: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        let mut parts = parts(&["6.6.6.6"]);
        parts.extensions.insert(axum::extract::ConnectInfo(address));
        assert_eq!(ClientIp::Peer.find(&parts), Some(address.ip()));
    }
}
