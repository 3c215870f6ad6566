//! An HTTP/1.1 client that keeps its connection, as a proxy does.

use std::io;
use std::net::SocketAddr;

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::tls::connector;
use crate::{HttpAnswer, Identity};

/// One connection. It is opened again when it was closed.
pub struct Web {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Web {
    /// A client of the server at this address, not connected yet.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            connection: Mutex::default(),
        }
    }

    /// A client that trusts the authority `trusted` (PEM), and presents `own`.
    pub fn secure(address: SocketAddr, trusted: &str, own: Option<&Identity>) -> Self {
        Self {
            tls: Some(connector(trusted, own, &[b"http/1.1"])),
            ..Self::new(address)
        }
    }

    /// Sends a request after those before it, and returns the response.
    ///
    /// # Errors
    ///
    /// The connection failed.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<HttpAnswer> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned()));
        let request = request.map_err(io::Error::other)?;
        let mut connection = self.connection.lock().await;
        let mut open = match connection.take().filter(|open| !open.is_closed()) {
            Some(open) => open,
            None => self.open().await?,
        };
        open.ready().await.map_err(io::Error::other)?;
        let response = open.send_request(request).await.map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        *connection = Some(open);
        let headers = head.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        Ok(HttpAnswer {
            status: head.status.as_u16(),
            headers: headers.collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    async fn open(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::from(self.address.ip());
                begin(tls.connect(name, stream).await?).await
            }
            None => begin(stream).await,
        }
    }
}

async fn begin(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // It ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}
