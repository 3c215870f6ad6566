//! A connection that was accepted: it counts as load of its serving thread for as long as it lives,
//! is read and written plainly or through TLS, and ends if its client does not greet in time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long a client may take for its TLS handshake, and then to greet: a slow one on another
/// continent takes a second. One that has greeted is asked for signs of life by HTTP/2.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The client's preface of HTTP/2 (RFC 9113, 3.4), in bytes.
const PREFACE: usize = 24;

/// A connection of a client.
pub(super) struct Connection {
    transport: Transport,
    /// Until it has come.
    greeting: Option<Greeting>,
    _counted: Counted,
}

/// The client's preface. Before it nothing else looks after the connection, and a stop would wait
/// for it.
struct Greeting {
    missing: usize,
    is_over: BoxFuture<'static, ()>,
}

impl Greeting {
    fn new(stop: CancellationToken) -> Self {
        let is_over = async move {
            // Either is the end.
            let _ = tokio::time::timeout(PATIENCE, stop.cancelled()).await;
        };
        Self {
            missing: PREFACE,
            is_over: Box::pin(is_over),
        }
    }
}

/// What carries the bytes. The one that is many times larger has a box: one for each connection.
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection as load of a thread and in its gauge.
pub(super) struct Counted {
    load: Arc<AtomicUsize>,
    gauge: Gauge,
}

impl Counted {
    /// Counts one that `load` counts already.
    pub(super) fn new(load: Arc<AtomicUsize>, gauge: Gauge) -> Self {
        gauge.inc();
        Self { load, gauge }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

impl Connection {
    /// `stop` ends it only before its client has greeted.
    pub(super) fn plain(stream: TcpStream, counted: Counted, stop: CancellationToken) -> Self {
        Self {
            transport: Transport::Plain(stream),
            greeting: Some(Greeting::new(stop)),
            _counted: counted,
        }
    }

    /// As `plain`, after the handshake.
    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        counted: Counted,
        stop: CancellationToken,
    ) -> Self {
        Self {
            transport: Transport::Tls(Box::new(stream)),
            greeting: Some(Greeting::new(stop)),
            _counted: counted,
        }
    }

    /// Looks at what was read while the client has not greeted: so many bytes, or none yet.
    fn greeted(
        &mut self,
        cx: &mut Context<'_>,
        read: Poll<io::Result<()>>,
        bytes: usize,
    ) -> Poll<io::Result<()>> {
        let Some(greeting) = &mut self.greeting else {
            return read;
        };
        greeting.missing = greeting.missing.saturating_sub(bytes);
        if greeting.missing == 0 {
            self.greeting = None;
        } else if read.is_pending() {
            ready!(greeting.is_over.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match &self.transport {
            Transport::Plain(stream) => stream.connect_info(),
            Transport::Tls(stream) => stream.get_ref().0.connect_info(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        let bytes = buf.filled().len() - before;
        self.greeted(cx, read, bytes)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
