//! Single handshakes that show the negotiated protocol and the server's certificate.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use keyward_testkit::tls_connector;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::pki_types::ServerName;

/// What a client trusts and speaks; with one offer sessions are taken up again.
pub(super) struct Offer(TlsConnector);

/// What came of a handshake.
#[derive(Debug)]
pub(super) struct Shaken {
    pub(super) protocol: Option<Vec<u8>>,
    pub(super) certificate: Vec<u8>,
    pub(super) resumed: bool,
}

impl Offer {
    pub(super) fn new(trusted: &str, protocols: &[&[u8]]) -> Self {
        Self(tls_connector(trusted, None, protocols))
    }
}

/// A connection on which hands were shaken, and nothing was said yet.
pub(super) async fn open(address: SocketAddr, offer: &Offer) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    offer
        .0
        .connect(ServerName::from(address.ip()), stream)
        .await
}

pub(super) async fn shake(address: SocketAddr, offer: &Offer) -> io::Result<Shaken> {
    let mut stream = open(address, offer).await?;
    // What a session is taken up with comes after the handshake, with the first bytes of HTTP/2.
    let mut first = [0; 9];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut first));
    read.await??;
    let connection = stream.get_ref().1;
    let certificates = connection.peer_certificates().unwrap_or_default();
    Ok(Shaken {
        protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
        certificate: certificates.first().map(|c| c.to_vec()).unwrap_or_default(),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    })
}
