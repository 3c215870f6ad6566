//! Finds the address of the end user. Headers count only if the service says which proxies it has.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use keyward_guard::{InvalidNetwork, TrustedProxies};
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
    /// The address that your proxies forward in `x-forwarded-for`: see [`TrustedProxies`]. Unknown if
    /// the server does not record the peer. If only your proxy can connect, as to a Unix socket, use
    /// [`Self::custom`] with [`TrustedProxies::client_ip_from_proxy`].
    Forwarded(TrustedProxies),
    /// The result of a function of the request's headers and URI, without the key.
    Custom(Arc<FindIp>),
    /// No address.
    Unknown,
}

/// Finds the address of the end user in a request's headers and URI.
pub type FindIp = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

impl ClientIp {
    /// Trusts the proxies in these networks: [`Self::Forwarded`].
    ///
    /// ```
    /// # use keyward_client::layer::{ClientIp, InvalidNetwork};
    /// let client_ip = ClientIp::forwarded(["10.0.0.0/8", "2001:db8::7"])?;
    /// # Ok::<_, InvalidNetwork>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`TrustedProxies::new`].
    pub fn forwarded<T: AsRef<str>>(
        proxies: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidNetwork> {
        TrustedProxies::new(proxies).map(Self::Forwarded)
    }

    /// Uses a function: [`Self::Custom`].
    pub fn custom(find: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(find))
    }

    pub(super) fn find(&self, parts: &Parts) -> Option<IpAddr> {
        let found = match self {
            Self::Peer => peer(parts),
            Self::Forwarded(proxies) => proxies.client_ip(peer(parts), &parts.headers),
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
            Self::Forwarded(proxies) => f.debug_tuple("Forwarded").field(proxies).finish(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(forwarded: &str) -> Parts {
        let request = http::Request::builder().header("x-forwarded-for", forwarded);
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn header_counts_only_from_a_trusted_peer() {
        let client_ip = ClientIp::forwarded(["10.0.0.0/8"]).unwrap();
        for (peer, expected) in [
            (Some("10.0.0.1:80"), Some("192.0.2.1")),
            (Some("198.51.100.1:4711"), Some("198.51.100.1")),
            (None, None),
        ] {
            let mut parts = parts("6.6.6.6, 192.0.2.1");
            let peer: Option<SocketAddr> = peer.map(|peer| peer.parse().unwrap());
            peer.map(|peer| parts.extensions.insert(peer));
            let found = client_ip.find(&parts).map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), expected, "{peer:?}");
        }
    }

    #[test]
    fn peer_is_the_address_that_the_server_recorded() {
        let address: SocketAddr = "[::ffff:192.0.2.1]:4711".parse().unwrap();
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut spoofed = parts("6.6.6.6");
        assert_eq!(ClientIp::default().find(&spoofed), None);
        spoofed.extensions.insert(address);
        assert_eq!(ClientIp::default().find(&spoofed), Some(ip));
        assert_eq!(ClientIp::Unknown.find(&spoofed), None);

        let mut tonic = parts("6.6.6.6");
        tonic.extensions.insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(address),
        });
        assert_eq!(ClientIp::Peer.find(&tonic), Some(ip));
        assert_eq!(
            ClientIp::custom(move |_| Some(ip)).find(&parts("6.6.6.6")),
            Some(ip)
        );
    }

    #[cfg(feature = "axum")]
    #[test]
    fn peer_of_axum_is_found() {
        let address: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        let mut parts = parts("6.6.6.6");
        parts.extensions.insert(axum::extract::ConnectInfo(address));
        assert_eq!(ClientIp::Peer.find(&parts), Some(address.ip()));
    }
}
