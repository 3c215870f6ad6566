//! An accepted connection, plain or with TLS. It counts as load of its serving thread while it is
//! open. It is closed if its client of gRPC does not send the HTTP/2 preface in time, does not read, or is
//! displaced. It reads a limited number of bytes in a row, so that it does not delay others.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::door::Door;
use super::peer::Peer;

/// The time limit for the TLS handshake, and again for the preface. A slow client on another
/// continent needs one second. After the preface, HTTP/2 keepalive finds dead connections.
pub(super) const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for a client to read a response.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// The size of the client's HTTP/2 preface (RFC 9113, 3.4), in bytes.
const PREFACE_SIZE: usize = 24;
/// The number of bytes that a caller's connection reads before other tasks of its thread run.
const CALLER_TURN: usize = 64 << 10;
/// The number of bytes that a stranger's connection reads at once. It is enough for a first call with a
/// token.
const STRANGER_READ: usize = 1 << 10;
/// How long a stranger's connection is not read after each read, and again after each of its calls, so
/// that a flood of refused calls leaves time for callers.
const STRANGER_PAUSE: Duration = Duration::from_millis(1);

/// A connection of a client.
pub(super) struct Connection {
    transport: Transport,
    /// `None` after the preface has arrived, and for a door without one.
    preface: Option<Preface>,
    peer: Arc<Peer>,
    door: Door,
    /// Ends when the connection must be closed.
    must_close: BoxFuture<'static, ()>,
    /// The number of bytes read in this turn.
    read: usize,
    /// The end of a stranger's pause.
    pause: Option<Pin<Box<Sleep>>>,
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
pub(super) enum Transport {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
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

/// What a connection is, apart from its transport.
pub(super) struct Accepted {
    pub(super) peer: Arc<Peer>,
    pub(super) door: Door,
    pub(super) load: LoadGuard,
}

impl Connection {
    /// `stop` closes the connection only before the preface has arrived.
    pub(super) fn new(transport: Transport, accepted: Accepted, stop: CancellationToken) -> Self {
        let Accepted { peer, door, load } = accepted;
        Self {
            transport,
            preface: matches!(door, Door::Grpc).then(|| Preface::new(stop)),
            must_close: match door {
                Door::Grpc => Box::pin(Arc::clone(&peer).must_close(STALL)),
                // HTTP/1.1 does not read while it writes, so its server watches this.
                Door::Http(_) => Box::pin(pending()),
            },
            peer,
            door,
            read: 0,
            pause: None,
            _load: load,
        }
    }

    pub(super) fn peer(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }

    pub(super) fn door(&self) -> Door {
        self.door.clone()
    }

    /// Fails when the connection must be closed. Called when a read waits, so that the task wakes up.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.must_close
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until it is this connection's turn to read again.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.peer.is_caller() {
            self.pause = None;
            if self.read < CALLER_TURN {
                return Poll::Ready(());
            }
            self.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.read > 0 {
            self.read = 0;
            let calls = self.peer.take_calls().max(1);
            let wait = self.peer.peers().stranger_wait(calls);
            self.pause = Some(Box::pin(sleep(wait.max(STRANGER_PAUSE * calls))));
        }
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
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

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.peer.is_displaced() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(self.poll_turn(cx));
        let (read, bytes) = if self.peer.is_caller() {
            let before = buf.filled().len();
            let read = self.transport.poll_read(cx, buf);
            (read, buf.filled().len() - before)
        } else {
            let most = STRANGER_READ.min(buf.remaining());
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
            let read = self.transport.poll_read(cx, &mut part);
            let bytes = part.filled().len();
            buf.advance(bytes);
            (read, bytes)
        };
        self.read += bytes;
        if read.is_pending() {
            self.read = 0;
            if let Poll::Ready(closed) = self.poll_open(cx) {
                return Poll::Ready(closed);
            }
        }
        self.check_preface(cx, read, bytes)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.peer.is_displaced() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
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
            Transport::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
