//! An accepted connection, plain or with TLS. It counts as load of its serving thread while it is
//! open. It is closed if its client does not send the HTTP/2 preface in time.

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

/// The time limit for the TLS handshake, and again for the preface. A slow client on another
/// continent needs one second. After the preface, HTTP/2 keepalive finds dead connections.
pub(super) const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// The size of the client's HTTP/2 preface (RFC 9113, 3.4), in bytes.
const PREFACE_SIZE: usize = 24;

/// A connection of a client.
pub(super) struct Connection {
    transport: Transport,
    /// `None` after the preface has arrived.
    preface: Option<Preface>,
    _load: LoadGuard,
}

/// The expected preface. Without its deadline, a silent connection would stay open and delay a stop.
struct Preface {
    missing_bytes: usize,
    deadline: BoxFuture<'static, ()>,
}

impl Preface {
    fn new(stop: CancellationToken) -> Self {
        let deadline = async move {
            // Both the timeout and the stop end the wait.
            let _ = tokio::time::timeout(OPENING_TIMEOUT, stop.cancelled()).await;
        };
        Self {
            missing_bytes: PREFACE_SIZE,
            deadline: Box::pin(deadline),
        }
    }
}

/// Carries the bytes. The TLS stream is boxed because it is many times larger than the TCP stream.
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Counts a connection as load of a thread, and in the gauge, until it is dropped.
pub(super) struct LoadGuard {
    load: Arc<AtomicUsize>,
    gauge: Gauge,
}

impl LoadGuard {
    /// Counts in `gauge`. The acceptor has already counted the connection in `load`.
    pub(super) fn new(load: Arc<AtomicUsize>, gauge: Gauge) -> Self {
        gauge.inc();
        Self { load, gauge }
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

impl Connection {
    /// `stop` closes the connection only before the preface has arrived.
    pub(super) fn plain(stream: TcpStream, load: LoadGuard, stop: CancellationToken) -> Self {
        Self::new(Transport::Plain(stream), load, stop)
    }

    /// Like `plain`, after the TLS handshake.
    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        load: LoadGuard,
        stop: CancellationToken,
    ) -> Self {
        Self::new(Transport::Tls(Box::new(stream)), load, stop)
    }

    fn new(transport: Transport, load: LoadGuard, stop: CancellationToken) -> Self {
        Self {
            transport,
            preface: Some(Preface::new(stop)),
            _load: load,
        }
    }

    /// Counts the bytes of a read towards the preface. Fails a pending read after the deadline.
    fn check_preface(
        &mut self,
        cx: &mut Context<'_>,
        read: Poll<io::Result<()>>,
        bytes: usize,
    ) -> Poll<io::Result<()>> {
        let Some(preface) = &mut self.preface else {
            return read;
        };
        preface.missing_bytes = preface.missing_bytes.saturating_sub(bytes);
        if preface.missing_bytes == 0 {
            self.preface = None;
        } else if read.is_pending() {
            ready!(preface.deadline.as_mut().poll(cx));
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
        self.check_preface(cx, read, bytes)
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
