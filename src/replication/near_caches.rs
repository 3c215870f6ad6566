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
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::near_stream::{End, NearStream};
use keyward_core::fence::{Epoch, Fence, Leases, Position, StreamId};
use keyward_core::key::{BootTime, Clock};
use keyward_ops::NearMetrics;
use keyward_store::{Store, StoreError};

/// How long a near-cache may take for an answer. After that it loses its stream, so that it delays changes
/// once only.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// As many streams of a caller that end without "off" within [`UNSTEADY`] cost it its near-caches for as
/// long.
const UNSTEADY_STREAMS: usize = 3;
const UNSTEADY: Duration = Duration::from_secs(60);
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
         saying that they are off, and each may have delayed revocations"
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
    pub(super) fence: Arc<Fence>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: NearLimits,
    pub(super) metrics: NearMetrics,
    pub(super) leases: Mutex<Leases>,
    /// What this instance has applied, and what it may acknowledge.
    applied: watch::Sender<u64>,
    acked: watch::Sender<u64>,
    /// The last wait for near-caches that did not acknowledge in time, and the revision up to which it held
    /// changes up.
    held: Mutex<(u64, Duration)>,
    callers: Mutex<HashMap<String, Streams>>,
    /// Cancelled when this instance leaves.
    pub(super) leaving: CancellationToken,
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
            held: Mutex::default(),
            fence,
            clock,
            limits,
            metrics,
            callers: Mutex::default(),
            leaving: CancellationToken::new(),
            embedded,
        })
    }

    /// How long near-caches of this instance held up the change with this revision, if they did not acknowledge
    /// it in time.
    pub fn held_up(&self, revision: u64) -> Option<Duration> {
        let (up_to, waited) = *self.held.lock();
        (revision <= up_to).then_some(waited)
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
            *self.held.lock() = (revision, waited);
            tracing::warn!(
                revision,
                ?waited,
                "changes waited for a near-cache that did not acknowledge them in time"
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
            sleep(DRAINING).await;
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
        let applied = self.applied.subscribe();
        Ok(NearStream::new(
            Arc::clone(self),
            leases.open(),
            caller,
            applied,
        ))
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

    pub(super) fn close(&self, id: StreamId, caller: &str, end: End) {
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
        stop.run_until_cancelled(sleep(FORGETTING)).await;
        near.forget_in_store().await;
    }
}
