//! What each connection may hold: its place among the connections, its calls, and the bytes that are
//! buffered for it. A connection without a valid caller so far is a stranger. At a limit work is
//! refused, first that of strangers; memory does not grow.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use keyward_ops::LimitMetrics;

/// The bytes of a caller's connection that are always granted, so that short calls pass while others
/// use up the total.
const CALLER_ALLOWANCE: usize = 64 << 10;
/// The same for a stranger: enough for a health check.
const STRANGER_ALLOWANCE: usize = 4 << 10;
/// The maximum number of bytes of a stranger's connection: of the headers of calls whose token is being
/// looked up, and of requests and responses without a token. A caller may begin with a thousand calls.
const STRANGER_BYTES: usize = 2 << 20;
/// A connection's part of the bytes of all connections.
const CONNECTION_SHARE: usize = 8;
/// The maximum number of open calls without a token of one connection.
const MAX_OPEN: usize = 8;
/// The maximum number of open reflection calls of all connections.
const MAX_REFLECTIONS: usize = 64;
/// The number of long reads that work at the same time, of one connection and of all. Records and
/// decoded messages take several times the bytes that are counted.
const LONG_READS: usize = 4;
const ALL_LONG_READS: usize = 16;
/// The time that all strangers together wait for each of their calls, so that many connections cannot
/// flood more than one.
const STRANGER_COST: Duration = Duration::from_micros(250);
/// The longest such wait of a connection.
const MAX_STRANGER_WAIT: Duration = Duration::from_secs(1);

/// The maximum age of connections has this many values.
const AGES: u32 = 8;

/// The limits of the process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of connections.
    pub connections: usize,
    /// The maximum number of buffered bytes of all connections, without the allowances.
    pub buffered: usize,
}

/// Why a request is refused before it reaches a use case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitError {
    /// A limit is reached; the text names it.
    #[error("{0}; nothing was changed; retry later, or call another instance")]
    OverLimit(&'static str),
    /// The request's headers are too large.
    #[error("the headers of the request have more than {max} bytes; send fewer or shorter ones", max = super::MAX_HEADERS)]
    HeadersTooLarge,
    /// The request did not arrive in time.
    #[error(
        "the request did not arrive completely within {:?}; nothing was changed",
        super::body::REQUEST_TIMEOUT
    )]
    Unfinished,
}

/// All connections of the process.
pub(super) struct Peers {
    limits: Limits,
    buffered: AtomicUsize,
    reflections: Arc<AtomicUsize>,
    long_reads: Semaphore,
    /// When the next call of a stranger is due.
    next_stranger: Mutex<Instant>,
    admitted: Mutex<Admitted>,
    pub(super) metrics: LimitMetrics,
}

#[derive(Default)]
struct Admitted {
    next: u64,
    /// What closes each stranger, the oldest first.
    strangers: BTreeMap<u64, CancellationToken>,
    callers: usize,
}

impl Peers {
    pub(super) fn new(limits: Limits, metrics: LimitMetrics) -> Arc<Self> {
        Arc::new(Self {
            limits,
            buffered: AtomicUsize::new(0),
            reflections: Arc::default(),
            long_reads: Semaphore::new(ALL_LONG_READS),
            next_stranger: Mutex::new(Instant::now()),
            admitted: Mutex::default(),
            metrics,
        })
    }

    /// Admits one more connection, from `address`. At the limit the oldest stranger is closed for it. Without a
    /// stranger, the connection is refused.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Arc<Peer>> {
        let mut admitted = self.admitted.lock();
        if admitted.strangers.len() + admitted.callers >= self.limits.connections
            && !self.displace(&mut admitted)
        {
            self.metrics.connections_refused.inc();
            return None;
        }
        let (id, close) = (admitted.next, CancellationToken::new());
        admitted.next += 1;
        admitted.strangers.insert(id, close.clone());
        Some(Arc::new(Peer {
            id,
            peers: Arc::clone(self),
            address,
            close,
            retires: CancellationToken::new(),
            is_caller: AtomicBool::new(false),
            buffered: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            open: Arc::default(),
            long_reads: Semaphore::new(LONG_READS),
            calls: AtomicU32::new(0),
            identity: Identity::default(),
        }))
    }

    /// Closes the oldest stranger, to free its file descriptor.
    pub(super) fn displace_one(&self) {
        self.displace(&mut self.admitted.lock());
    }

    fn displace(&self, admitted: &mut Admitted) -> bool {
        let Some((_, close)) = admitted.strangers.pop_first() else {
            return false;
        };
        close.cancel();
        self.metrics.connections_displaced.inc();
        true
    }

    /// How long a stranger waits after `calls` calls, so that all strangers together keep their rate.
    pub(super) fn stranger_wait(&self, calls: u32) -> Duration {
        let now = Instant::now();
        let mut next = self.next_stranger.lock();
        *next = (*next).clamp(now, now + MAX_STRANGER_WAIT) + STRANGER_COST * calls;
        (*next - now).min(MAX_STRANGER_WAIT)
    }

    /// Opens a reflection call, unless too many are open.
    pub(super) fn open_reflection(&self) -> Result<CallGuard, LimitError> {
        CallGuard::enter(&self.reflections, MAX_REFLECTIONS)
            .ok_or(LimitError::OverLimit("too many reflection calls are open"))
    }
}

/// One connection.
pub(super) struct Peer {
    id: u64,
    peers: Arc<Peers>,
    address: Option<IpAddr>,
    close: CancellationToken,
    retires: CancellationToken,
    is_caller: AtomicBool,
    buffered: AtomicUsize,
    /// The bytes of responses that are not sent yet, and the number of sent responses.
    unsent: AtomicUsize,
    sent: AtomicU64,
    open: Arc<AtomicUsize>,
    long_reads: Semaphore,
    /// The calls of a stranger since the last read.
    calls: AtomicU32,
    identity: Identity,
}

impl Peer {
    /// The address of the connection; `None` for a Unix socket.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(super) fn is_caller(&self) -> bool {
        self.is_caller.load(Relaxed)
    }

    /// The age at which the connection must end: within 10 % of `age`, so that clients that connected
    /// together do not reconnect together.
    pub(super) fn age(&self, age: Duration) -> Duration {
        let part = u32::try_from(self.id % u64::from(AGES)).unwrap_or_default();
        age.mul_f64(0.9 + 0.2 * f64::from(part) / f64::from(AGES - 1))
    }

    /// Who the client is.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Records that the connection has a valid caller, so it is no longer a stranger.
    pub(super) fn has_caller(&self) {
        if self.is_caller() || self.is_caller.swap(true, Relaxed) {
            return;
        }
        let mut admitted = self.peers.admitted.lock();
        // A displaced connection is being closed and has no place any more.
        if admitted.strangers.remove(&self.id).is_some() {
            admitted.callers += 1;
        }
    }

    /// Counts a call of a stranger.
    pub(super) fn count_call(&self) {
        if !self.is_caller() {
            self.calls.fetch_add(1, Relaxed);
        }
    }

    /// The calls since the last time.
    pub(super) fn take_calls(&self) -> u32 {
        match self.calls.load(Relaxed) {
            0 => 0,
            _ => self.calls.swap(0, Relaxed),
        }
    }

    /// Whether the connection was displaced.
    pub(super) fn is_displaced(&self) -> bool {
        self.close.is_cancelled()
    }

    /// Returns when the connection is displaced.
    pub(super) async fn displaced(&self) {
        self.close.cancelled().await;
    }

    /// Records that the connection takes no more calls.
    pub(super) fn retire(&self) {
        self.retires.cancel();
    }

    /// Returns when the connection takes no more calls.
    pub(super) async fn retiring(&self) {
        self.retires.cancelled().await;
    }

    /// Returns when the connection must be closed: it is displaced, or its client reads no response for
    /// `stall`, although one waits.
    pub(super) async fn must_close(self: Arc<Self>, stall: Duration) {
        let state = || (self.unsent.load(Relaxed) > 0, self.sent.load(Relaxed));
        let mut before = (false, 0);
        while tokio::time::timeout(stall, self.displaced()).await.is_err() {
            let now = state();
            if now.0 && now == before {
                self.peers.metrics.connections_stalled.inc();
                return;
            }
            before = now;
        }
    }

    /// Opens a call that needs no token.
    pub(super) fn open_call(&self) -> Result<CallGuard, LimitError> {
        CallGuard::enter(&self.open, MAX_OPEN).ok_or(LimitError::OverLimit(
            "too many calls without a token are open on this connection",
        ))
    }

    /// Waits for this connection's turn to work on a long read. It ends when the result is dropped.
    pub(super) async fn long_read(&self) -> [Option<SemaphorePermit<'_>>; 2] {
        // The semaphores are never closed.
        let own = self.long_reads.acquire().await.ok();
        [own, self.peers.long_reads.acquire().await.ok()]
    }

    /// An empty reservation.
    pub(super) fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation {
            peer: Arc::clone(self),
            bytes: 0,
            charged: 0,
        }
    }

    /// Counts a response until it is sent, and tells whether it keeps the limits.
    pub(super) fn reserve_response(
        self: &Arc<Self>,
        bytes: usize,
    ) -> (Unsent, Result<(), LimitError>) {
        let mut reservation = self.reservation();
        let granted = reservation.grow(bytes);
        self.unsent.fetch_add(bytes, Relaxed);
        (Unsent(reservation), granted)
    }

    /// The data of a response, counted until it is sent, and whether it keeps the limits.
    pub(super) fn counted(self: &Arc<Self>, data: Bytes) -> (Bytes, Result<(), LimitError>) {
        let (unsent, granted) = self.reserve_response(data.len());
        let counted = Counted {
            data,
            _unsent: unsent,
        };
        (Bytes::from_owner(counted), granted)
    }
}

/// Bytes of a response and their reservation.
struct Counted {
    data: Bytes,
    _unsent: Unsent,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut admitted = self.peers.admitted.lock();
        if admitted.strangers.remove(&self.id).is_none() && !self.is_displaced() {
            admitted.callers -= 1;
        }
    }
}

/// Reserved bytes. They are free again when this is dropped.
pub(super) struct Reservation {
    peer: Arc<Peer>,
    bytes: usize,
    /// How many of them count in the total.
    charged: usize,
}

impl Reservation {
    /// Reserves `bytes` more of the connection and, above its allowance, of the total. After an error
    /// they count until this is dropped.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), LimitError> {
        let (peer, peers) = (&self.peer, &self.peer.peers);
        let total = peers.limits.buffered;
        let (allowance, own, all) = if peer.is_caller() {
            (CALLER_ALLOWANCE, total / CONNECTION_SHARE, total)
        } else {
            (STRANGER_ALLOWANCE, STRANGER_BYTES, total / 2)
        };
        let before = peer.buffered.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
        let after = before + bytes;
        // A single response of a caller may be larger than the connection's part.
        let is_single = before == 0 && peer.is_caller();
        if after > own && !is_single {
            return Err(LimitError::OverLimit(
                "this connection has too many unfinished requests or unread responses",
            ));
        }
        let charged = after.saturating_sub(before.max(allowance));
        if charged > 0 {
            self.charged += charged;
            if peers.buffered.fetch_add(charged, Relaxed) + charged > all {
                return Err(LimitError::OverLimit(
                    "all connections together have too many unfinished requests or unread responses",
                ));
            }
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.peer.buffered.fetch_sub(self.bytes, Relaxed);
        if self.charged > 0 {
            self.peer.peers.buffered.fetch_sub(self.charged, Relaxed);
        }
    }
}

/// The reservation of a response that is not sent yet.
pub(super) struct Unsent(Reservation);

impl Drop for Unsent {
    fn drop(&mut self) {
        let Reservation { peer, bytes, .. } = &self.0;
        peer.unsent.fetch_sub(*bytes, Relaxed);
        peer.sent.fetch_add(1, Relaxed);
    }
}

/// Counts a call until it is dropped.
pub(super) struct CallGuard(Arc<AtomicUsize>);

impl CallGuard {
    fn enter(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = count.fetch_add(1, Relaxed);
        let guard = Self(Arc::clone(count));
        (before < max).then_some(guard)
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
