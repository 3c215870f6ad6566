//! From where a request comes. Nothing that a client may write is believed unless it was told so.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

/// How the address of the end user is found, which is what a key's `allowed_cidrs` are compared
/// with. If it is not found, it is unknown to Keyward too, and a key that may be used only from
/// certain addresses is refused.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum ClientIp {
    /// The peer of the connection, as the server recorded it in the request's extensions: axum's
    /// `ConnectInfo<SocketAddr>` (from `into_make_service_with_connect_info::<SocketAddr>()`; needs
    /// the feature `axum`, on by default), tonic's `TcpConnectInfo` with or without TLS, or a plain
    /// `SocketAddr`. No client can forge it. Behind a proxy it is the proxy's.
    #[default]
    Peer,
    /// What the outermost of so many proxies of your own saw: the entry of `x-forwarded-for` that
    /// stands so far from its end. With one proxy that is the last entry, which the proxy wrote;
    /// what stands before it came from the client and is not believed. A header that is too short,
    /// or an entry that is no address, makes the address unknown. 0 is [`Self::Peer`].
    ///
    /// Only where nobody can reach this server but through all of these proxies, each of which adds
    /// the address of its peer: whoever else reaches it may claim any address.
    Forwarded {
        /// How many proxies there are.
        trusted_hops: usize,
    },
    /// By a function of the request's head, from which the key has been taken.
    Custom(Arc<FindIp>),
    /// Not at all.
    Unknown,
}

/// Finds the address of the end user in a request's head.
pub type FindIp = dyn Fn(&Parts) -> Option<IpAddr> + Send + Sync;

impl ClientIp {
    /// By a function: [`Self::Custom`].
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
    // Some proxies write the port, too.
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
    fn only_what_the_own_proxies_wrote_is_believed() {
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
    fn the_peer_is_what_the_server_recorded() {
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
    fn axums_peer_is_found() {
        let address: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        let mut parts = parts(&["6.6.6.6"]);
        parts.extensions.insert(axum::extract::ConnectInfo(address));
        assert_eq!(ClientIp::Peer.find(&parts), Some(address.ip()));
    }
}
