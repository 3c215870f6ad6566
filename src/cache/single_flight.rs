//! Reads behind L1. Concurrent callers that need the same record share one read, and a limiter bounds
//! concurrent reads of the store. So neither a flood of unknown keys nor an empty L2 overloads the
//! store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;

use super::{Entry, Fenced, Fetched, LookupError, SharedCache, Source};
use keyward_core::fence::{Admission, Fence, Now, Stamp};
use keyward_core::key::Clock;
use keyward_crypto::Digest;
use keyward_store::{Control, Found, StoreError};

/// Reads the record behind a digest from the store.
pub type Fetch<R> =
    Arc<dyn Fn(Digest) -> BoxFuture<'static, Result<Found<R>, StoreError>> + Send + Sync>;

type ReadResult<R> = Result<Arc<Fetched<R>>, LookupError>;
type SharedRead<R> = future::Shared<BoxFuture<'static, ReadResult<R>>>;
/// The reads in progress.
type InFlight<R> = Arc<Mutex<HashMap<(Digest, Source), SharedRead<R>>>>;

/// Bounds the concurrent reads of the store and the reads that wait for one of their places.
#[derive(Debug)]
pub struct Limiter {
    running: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
    timeout: Duration,
}

impl Limiter {
    /// Allows `running` concurrent reads, and `waiting` more that each wait for at most `timeout`.
    pub fn new(running: usize, waiting: usize, timeout: Duration) -> Self {
        Self {
            running: Semaphore::new(running),
            waiting: AtomicUsize::new(0),
            max_waiting: waiting,
            timeout,
        }
    }

    /// A permit for one read; `None` if too many reads wait or the wait times out.
    async fn acquire(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        if let Ok(permit) = self.running.try_acquire() {
            return Some(permit);
        }
        let _slot = QueueSlot::take(&self.waiting, self.max_waiting)?;
        tokio::time::timeout(self.timeout, self.running.acquire())
            .await
            .ok()?
            .ok()
    }
}

/// A slot in the limiter's queue, released on drop.
struct QueueSlot<'w>(&'w AtomicUsize);

impl<'w> QueueSlot<'w> {
    fn take(waiting: &'w AtomicUsize, max: usize) -> Option<Self> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let slot = Self(waiting);
        (before < max).then_some(slot)
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Shares reads between concurrent callers.
pub struct SingleFlight<R> {
    in_flight: InFlight<R>,
    dependencies: Arc<Dependencies<R>>,
}

/// The dependencies of a [`SingleFlight`].
pub struct Dependencies<R> {
    /// Reads the store.
    pub fetch: Fetch<R>,
    /// The shared cache in front of the store, if there is one.
    pub shared: Option<Arc<dyn SharedCache<R>>>,
    /// Admits records to the shared cache.
    pub fence: Arc<Fence>,
    /// The clock of the admissions.
    pub clock: Arc<dyn Clock>,
    /// Runs the reads.
    pub control: Control,
    /// Bounds the concurrent reads of the store.
    pub limiter: Limiter,
    /// Counts reads that the limiter refused.
    pub refused: Counter,
}

impl<R: Fenced> SingleFlight<R> {
    /// A single flight without reads.
    pub fn new(dependencies: Dependencies<R>) -> Self {
        Self {
            in_flight: Arc::default(),
            dependencies: Arc::new(dependencies),
        }
    }

    /// Reads a record. A shared read may have begun before this call; its stamp says how recent the
    /// result is.
    pub(super) async fn read(&self, digest: &Digest, source: Source) -> ReadResult<R> {
        if source == Source::StoreUnshared {
            return self.start(*digest, source).await;
        }
        let read = self
            .in_flight
            .lock()
            .entry((*digest, source))
            .or_insert_with(|| self.start(*digest, source))
            .clone();
        read.await
    }

    /// Counts an entry of the shared cache that the fence did not admit.
    pub(super) fn note_refused(&self) {
        if let Some(shared) = &self.dependencies.shared {
            shared.note_refused();
        }
    }

    fn start(&self, digest: Digest, source: Source) -> SharedRead<R> {
        let is_shared = source != Source::StoreUnshared;
        let in_flight = is_shared.then(|| Arc::clone(&self.in_flight));
        let dependencies = Arc::clone(&self.dependencies);
        let task = self.dependencies.control.spawn(async move {
            // Removed before the result is visible: a later caller starts a new read.
            let _guard = in_flight.map(|reads| InFlightGuard(reads, (digest, source)));
            dependencies.execute(digest, source).await
        });
        task.map(|ended| {
            ended.unwrap_or_else(|_| {
                let lost = StoreError::Unavailable("a read ended without a result".to_owned());
                Err(LookupError::Store(Arc::new(lost)))
            })
        })
        .boxed()
        .shared()
    }
}

impl<R: Fenced> Dependencies<R> {
    /// Performs one read: from the shared cache if `source` allows it, otherwise from the store. A
    /// record from the store is put into the shared cache.
    async fn execute(&self, digest: Digest, source: Source) -> ReadResult<R> {
        if source == Source::SharedCacheFirst
            && let Some(shared) = &self.shared
            && let Some((record, stamp)) = shared.get(&digest).await
        {
            return Ok(Arc::new(Fetched {
                record: Some(Arc::new(Entry::new(record, stamp))),
                stamp,
                from_shared_cache: true,
            }));
        }
        let Some(_permit) = self.limiter.acquire().await else {
            self.refused.inc();
            return Err(LookupError::Overloaded);
        };
        // I4: the snapshot is taken before the read.
        let snapshot = self.fence.snapshot();
        let found = (self.fetch)(digest)
            .await
            .map_err(|error| LookupError::Store(Arc::new(error)))?;
        if let (Some(shared), Some(record)) = (&self.shared, &found.record) {
            let now = Now::read(&*self.clock);
            // Only an admitted record is worth an entry. Each reader of the entry admits it again.
            if let Admission::Admitted { restamp } = snapshot.admit(record.id(), found.stamp, now) {
                let stamp = Stamp {
                    revision: restamp,
                    ..found.stamp
                };
                shared.put(&digest, record, stamp);
            }
        }
        Ok(Arc::new(Fetched::from(found)))
    }
}

/// Removes a read from the reads in progress on drop, also after a panic.
struct InFlightGuard<R>(InFlight<R>, (Digest, Source));

impl<R> Drop for InFlightGuard<R> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl<R> std::fmt::Debug for SingleFlight<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SingleFlight({} reads)", self.in_flight.lock().len())
    }
}
