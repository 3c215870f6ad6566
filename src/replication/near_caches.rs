//! The near-caches that this instance keeps fresh: caches in the processes of callers, each behind one stream
//! of WatchInvalidations. This instance answers for them to the others: it acknowledges a change only when
//! each of them has acknowledged it or cannot be fresh any more.
//!
//! Upholds I6 and I9 for near-caches, with `fence::Leases`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, watch};
use tokio_util::sync::CancellationToken;

use keyward_core::fence::{Epoch, Fence, Leases, NearAnswer, Position, StreamId, bound};
use keyward_core::key::{BootTime, Clock};
use keyward_ops::NearMetrics;
use keyward_store::{Store, StoreError};

/// How long a near-cache may take for an answer. After that it loses its stream, so that it delays changes
/// once only.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// As many streams of a caller that end without "off" within [`UNSTEADY`] cost it its near-caches for as
/// long.
const UNSTEADY_STREAMS: usize = 3;
const UNSTEADY: Duration = Duration::from_secs(60);
/// A near-cache polls this often within the time for which an answer keeps it fresh.
const POLLS: u32 = 5;
/// The longest time for which a poll without news is held. A client gives up an instance that is silent longer.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// When a near-cache that is one too many may try again.
const FULL: Duration = Duration::from_secs(10);
/// The interval at which a stop looks whether leases are over.
const DRAINING: Duration = Duration::from_millis(50);
/// The interval at which the embedded store may forget near-caches.
const FORGETTING: Duration = Duration::from_secs(1);

/// What limits the near-caches of an instance.
#[derive(Clone, Copy, Debug)]
pub struct NearLimits {
    /// The longest time for which a near-cache answers without news from this instance.
    pub max_staleness: Duration,
    /// The most near-caches at a time. One caller may have half of them.
    pub count: usize,
}

/// Why a near-cache is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NearRefusal {
    /// This instance has too many.
    #[error("this instance keeps {0} near-caches fresh, as many as `max_near_caches` allows")]
    TooMany(usize),
    /// The caller has too many.
    #[error(
        "this caller has {0} near-caches on this instance, half of what `max_near_caches` allows"
    )]
    TooManyOfCaller(usize),
    /// The caller's streams end without "off".
    #[error(
        "{UNSTEADY_STREAMS} near-caches of this caller ended within a minute without \
         saying that they are off, and each delayed revocations"
    )]
    Unsteady {
        /// When the caller may open a stream again.
        retry_after: Duration,
    },
    /// This instance is stopping.
    #[error("this instance is stopping; call another one")]
    Stopping,
    /// It took too long to acknowledge changes.
    #[error("a near-cache must acknowledge changes within {ANSWER_LIMIT:?}")]
    TooSlow,
    /// It did not take the answer to its previous poll.
    #[error("`epoch` and `applied` must acknowledge the answer to the previous poll")]
    Unacknowledged,
    /// The embedded store cannot note that there are near-caches.
    #[error("the store cannot note that there are near-caches; retry")]
    Store,
}

impl NearRefusal {
    /// When the caller may open a stream to this instance again, if it may.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unsteady { retry_after } => Some(*retry_after),
            Self::TooMany(_) | Self::TooManyOfCaller(_) => Some(FULL),
            Self::Stopping | Self::TooSlow | Self::Unacknowledged | Self::Store => None,
        }
    }
}

/// The near-caches of this instance.
pub struct NearCaches {
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    limits: NearLimits,
    metrics: NearMetrics,
    leases: Mutex<Leases>,
    /// What this instance has applied, and what it may acknowledge.
    applied: watch::Sender<u64>,
    acked: watch::Sender<u64>,
    callers: Mutex<HashMap<String, Streams>>,
    /// Cancelled when this instance leaves.
    leaving: CancellationToken,
    embedded: Option<Embedded>,
}

/// An embedded store, which notes for how long near-caches may be fresh after a crash.
struct Embedded {
    store: Arc<dyn Store>,
    bound: Duration,
    noted: tokio::sync::Mutex<Noted>,
}

/// What the embedded store has noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    Known(Option<Duration>),
    /// The outcome of a write is unknown.
    Unknown,
}

impl Embedded {
    async fn note(&self, noted: &mut Noted, bound: Option<Duration>) -> Result<(), StoreError> {
        if *noted != Noted::Known(bound) {
            *noted = Noted::Unknown;
            self.store.set_near_bound(bound).await?;
            *noted = Noted::Known(bound);
        }
        Ok(())
    }
}

/// The streams of one caller.
#[derive(Default)]
struct Streams {
    open: usize,
    /// When the latest streams ended without "off".
    broken: VecDeque<BootTime>,
}

impl NearCaches {
    /// None yet. An earlier process of an embedded store may have left some that are still fresh. Call it after
    /// the store is open, so that this process alone has it.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub async fn start(
        store: &Arc<dyn Store>,
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        limits: NearLimits,
        metrics: NearMetrics,
    ) -> Result<Self, StoreError> {
        let left = store.near_bound().await?;
        let leases = Leases::new(limits.max_staleness, left, &fence, clock.boot());
        // What an earlier process left counts until it is over, so the note never falls before that.
        let bound = left.unwrap_or_default().max(limits.max_staleness);
        let embedded = store.cluster().is_none().then(|| Embedded {
            store: Arc::clone(store),
            bound,
            noted: tokio::sync::Mutex::new(Noted::Known(left)),
        });
        Ok(Self {
            leases: Mutex::new(leases),
            applied: watch::Sender::new(fence.applied()),
            acked: watch::Sender::new(0),
            fence,
            clock,
            limits,
            metrics,
            callers: Mutex::default(),
            leaving: CancellationToken::new(),
            embedded,
        })
    }

    /// What this instance may acknowledge now, and the epoch of it (I6).
    pub fn acked(&self) -> (Epoch, Position) {
        let mut leases = self.leases.lock();
        let acked = leases.acked(&self.fence, &*self.clock);
        let held = leases.take_held().filter(|held| *held > ANSWER_LIMIT);
        let revision = acked.1.revision;
        // Under the lock, so that the newest value is the last.
        self.acked
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
        drop(leases);
        if let Some(waited) = held {
            tracing::warn!(
                revision,
                ?waited,
                "changes waited for a near-cache that did not acknowledge them"
            );
        }
        acked
    }

    /// How long a near-cache of this process, or of an earlier one on an embedded store, may be fresh.
    pub(super) fn longest_staleness(&self) -> Duration {
        let embedded = self.embedded.as_ref();
        embedded.map_or(self.limits.max_staleness, |embedded| embedded.bound)
    }

    /// Returns when no near-cache can be fresh any more. Call it after `leave`.
    pub async fn drained(&self) {
        while self.leases_end().is_some() {
            tokio::time::sleep(DRAINING).await;
        }
    }

    /// Receives each new value of what this instance may acknowledge.
    pub(super) fn subscribe_acked(&self) -> watch::Receiver<u64> {
        self.acked.subscribe()
    }

    /// Tells the near-caches what the fence has applied.
    pub(super) fn publish_applied(&self) {
        let applied = self.fence.applied();
        self.applied
            .send_if_modified(|known| std::mem::replace(known, applied) != applied);
        self.acked();
    }

    /// The latest end of the leases that run now; `None` if none does.
    pub fn leases_end(&self) -> Option<BootTime> {
        let leases = self.leases.lock();
        leases.end(self.clock.boot())
    }

    /// Whether leases that ended at `end` are over.
    pub(super) fn is_over(&self, end: Option<BootTime>) -> bool {
        end.is_none_or(|end| self.clock.boot() > end)
    }

    /// Makes no near-cache fresh any more, and asks each to end its freshness.
    pub fn leave(&self) {
        self.leases.lock().leave();
        self.leaving.cancel();
    }

    /// The number of near-caches.
    pub fn count(&self) -> usize {
        self.leases.lock().streams()
    }

    /// Opens the stream of a near-cache of `caller`.
    pub async fn open(self: &Arc<Self>, caller: &str) -> Result<NearStream, NearRefusal> {
        let opened = self.admit(caller).await;
        if opened.is_err() {
            self.metrics.refused.inc();
        }
        opened
    }

    async fn admit(self: &Arc<Self>, caller: &str) -> Result<NearStream, NearRefusal> {
        let _noted = self.note_in_store().await?;
        if self.leaving.is_cancelled() {
            return Err(NearRefusal::Stopping);
        }
        let mut leases = self.leases.lock();
        let most = self.limits.count;
        if leases.streams() >= most {
            return Err(NearRefusal::TooMany(most));
        }
        let now = self.clock.boot();
        let mut callers = self.callers.lock();
        let streams = callers.entry(caller.to_owned()).or_default();
        if streams.open >= most.div_ceil(2) {
            return Err(NearRefusal::TooManyOfCaller(streams.open));
        }
        streams.broken.retain(|at| now.since(*at) < UNSTEADY);
        if let Some(first) = streams.broken.iter().rev().nth(UNSTEADY_STREAMS - 1) {
            let retry_after = UNSTEADY.saturating_sub(now.since(*first));
            return Err(NearRefusal::Unsteady { retry_after });
        }
        streams.open += 1;
        self.metrics.open.inc();
        Ok(NearStream {
            near: Arc::clone(self),
            id: leases.open(),
            caller: caller.to_owned(),
            applied: self.applied.subscribe(),
            answered: None,
            end: End::Broken,
        })
    }

    /// Makes sure that the embedded store knows of near-caches, before the first lease. It must not forget
    /// them while the guard lives.
    async fn note_in_store(&self) -> Result<Option<MutexGuard<'_, Noted>>, NearRefusal> {
        let Some(embedded) = &self.embedded else {
            return Ok(None);
        };
        let mut noted = embedded.noted.lock().await;
        embedded
            .note(&mut noted, Some(embedded.bound))
            .await
            .map_err(|error| {
                tracing::warn!(%error, "a near-cache is refused: the store cannot note it");
                NearRefusal::Store
            })?;
        Ok(Some(noted))
    }

    /// Lets the embedded store forget the near-caches once there are none.
    async fn forget_in_store(&self) {
        let Some(embedded) = &self.embedded else {
            return;
        };
        let mut noted = embedded.noted.lock().await;
        let are_gone = || {
            let leases = self.leases.lock();
            leases.streams() == 0 && leases.end(self.clock.boot()).is_none()
        };
        if are_gone()
            && let Err(error) = embedded.note(&mut noted, None).await
        {
            tracing::debug!(%error, "the store still knows of near-caches that are gone");
        }
    }

    fn close(&self, id: StreamId, caller: &str, end: End) {
        let now = self.clock.boot();
        let mut leases = self.leases.lock();
        match end {
            End::Off => leases.off(id),
            End::Broken => leases.broke(id),
        }
        drop(leases);
        self.metrics.open.dec();
        match end {
            End::Off => &self.metrics.off,
            End::Broken => &self.metrics.broken,
        }
        .inc();
        let mut callers = self.callers.lock();
        if let Some(streams) = callers.get_mut(caller) {
            streams.open = streams.open.saturating_sub(1);
            if end == End::Broken {
                streams.broken.push_back(now);
                if streams.broken.len() > UNSTEADY_STREAMS {
                    streams.broken.pop_front();
                }
            } else if streams.open == 0 && streams.broken.is_empty() {
                callers.remove(caller);
            }
        }
        drop(callers);
        self.acked();
    }
}

/// Lets the embedded store forget near-caches that are gone, until `stop` and once more then.
pub async fn forget_near_caches(near: Arc<NearCaches>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(FORGETTING) => {}
            () = stop.cancelled() => {}
        }
        near.forget_in_store().await;
    }
}

/// How a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The near-cache has said that it is off.
    Off,
    /// Its near-cache has gone without a word, or was too slow.
    Broken,
}

/// The stream of one near-cache. When it is dropped, its lease runs out.
pub struct NearStream {
    near: Arc<NearCaches>,
    id: StreamId,
    caller: String,
    applied: watch::Receiver<u64>,
    answered: Option<Answered>,
    end: End,
}

/// The latest answer of a stream.
#[derive(Clone, Copy, Debug)]
struct Answered {
    at: BootTime,
    epoch: Epoch,
    applied: u64,
    /// Whether it told changes.
    has_told: bool,
}

impl NearStream {
    /// Notes a poll of a near-cache that has applied the log of an epoch up to a revision.
    pub fn poll(&mut self, known: (Epoch, u64)) -> Result<(), NearRefusal> {
        let near = &self.near;
        if let Some(answered) = self.answered {
            let taken = near.clock.boot().since(answered.at);
            if taken > ANSWER_LIMIT && known.1 < near.fence.applied() {
                return Err(NearRefusal::TooSlow);
            }
            // A near-cache that polls without taking what it is told would delay every change.
            if known.0 != answered.epoch || known.1 < answered.applied {
                return Err(NearRefusal::Unacknowledged);
            }
            if answered.has_told {
                near.metrics.acknowledged.observe(taken.as_secs_f64());
            }
        }
        near.leases
            .lock()
            .poll(self.id, known, &near.fence, &*near.clock);
        near.acked();
        Ok(())
    }

    /// Returns when there is something to tell a near-cache that has applied the log up to `applied`: at once
    /// for the first poll of a stream, after a change, at the next heartbeat, or when this instance leaves.
    pub async fn news(&mut self, applied: u64) {
        if self.answered.is_none() {
            return;
        }
        let heartbeat = (self.near.limits.max_staleness / POLLS).min(HEARTBEAT);
        tokio::select! {
            _ = self.applied.wait_for(|own| *own > applied) => {}
            () = tokio::time::sleep(heartbeat) => {}
            () = self.near.leaving.cancelled() => {}
        }
    }

    /// The answer to a poll; `None` if this instance cannot make the near-cache fresh now, so that it must be
    /// off.
    pub fn answer(&mut self, known: (Epoch, u64)) -> Option<NearAnswer> {
        let near = &self.near;
        // No lease is noted and nothing is acknowledged meanwhile.
        let leases = near.leases.lock();
        let fresh_for = (!leases.is_leaving()).then_some(near.limits.max_staleness);
        let answer = near.fence.answer(known, fresh_for, &*near.clock);
        drop(leases);
        let answer = answer.filter(|answer| answer.fresh_for.is_some())?;
        self.answered = Some(Answered {
            at: near.clock.boot(),
            epoch: answer.epoch,
            applied: answer.applied,
            has_told: answer.changes.as_ref().is_none_or(|all| !all.is_empty()),
        });
        Some(answer)
    }

    /// Returns when this instance leaves, so that its near-caches must be off.
    pub async fn leaving(&self) {
        self.near.leaving.cancelled().await;
    }

    /// Whether this instance leaves.
    pub fn is_leaving(&self) -> bool {
        self.near.leaving.is_cancelled()
    }

    /// How long a near-cache that does not poll may be fresh.
    pub fn lease(&self) -> Duration {
        bound(self.near.limits.max_staleness)
    }

    /// The near-cache has ended its freshness.
    pub fn off(mut self) {
        self.end = End::Off;
    }
}

impl Drop for NearStream {
    fn drop(&mut self) {
        self.near.close(self.id, &self.caller, self.end);
    }
}

impl std::fmt::Debug for NearCaches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NearCaches({})", self.count())
    }
}

impl std::fmt::Debug for NearStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NearStream({:?} of {})", self.id, self.caller)
    }
}
