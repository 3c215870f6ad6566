//! Reads that callers share, of the cache behind the memory and of the store: one in flight for each
//! digest, and no more of the store at a time than there are permits, so that neither a flood of
//! unknown keys nor a shared cache that comes back empty can starve the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;

use super::{Entry, Fenced, Fetched, LookupError, Shared, Source};
use keyward_core::fence::{Admission, Fence, Now, Stamp};
use keyward_core::key::Clock;
use keyward_crypto::Digest;
use keyward_store::{Control, Found, StoreError};

/// Reads the record behind a digest from the store.
pub type Fetch<R> =
    Arc<dyn Fn(Digest) -> BoxFuture<'static, Result<Found<R>, StoreError>> + Send + Sync>;

type ReadResult<R> = Result<Arc<Fetched<R>>, LookupError>;
type Flight<R> = future::Shared<BoxFuture<'static, ReadResult<R>>>;

/// How many reads may be under way, and how many may wait for that.
#[derive(Debug)]
pub struct Limiter {
    running: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
    patience: Duration,
}

impl Limiter {
    /// At most `running` reads at a time, at most `waiting` more that wait up to `patience`.
    pub fn new(running: usize, waiting: usize, patience: Duration) -> Self {
        Self {
            running: Semaphore::new(running),
            waiting: AtomicUsize::new(0),
            most_waiting: waiting,
            patience,
        }
    }

    async fn take(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        if let Ok(permit) = self.running.try_acquire() {
            return Some(permit);
        }
        let _place = Place::take(&self.waiting, self.most_waiting)?;
        tokio::time::timeout(self.patience, self.running.acquire())
            .await
            .ok()?
            .ok()
    }
}

/// A place in the queue; given up when dropped.
struct Place<'w>(&'w AtomicUsize);

impl<'w> Place<'w> {
    fn take(waiting: &'w AtomicUsize, most: usize) -> Option<Self> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(waiting);
        (before < most).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The reads under way.
pub struct SingleFlight<R> {
    under_way: Board<R>,
    fetch: Fetch<R>,
    shared: Option<Arc<dyn Shared<R>>>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    permits: Arc<Limiter>,
    control: Control,
    refused: Counter,
}

type Board<R> = Arc<Mutex<HashMap<(Digest, Source), Flight<R>>>>;

/// What the reads stand on.
pub struct Dependencies<R> {
    /// Reads the store.
    pub fetch: Fetch<R>,
    /// Stands before it, if there is one.
    pub shared: Option<Arc<dyn Shared<R>>>,
    /// Says what may be kept there.
    pub fence: Arc<Fence>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Runs the reads.
    pub control: Control,
    /// How many of the store may be under way.
    pub permits: Limiter,
    /// Counts what found no place.
    pub refused: Counter,
}

impl<R: Fenced> SingleFlight<R> {
    /// Reads that stand on `grounds`.
    pub fn new(grounds: Dependencies<R>) -> Self {
        Self {
            under_way: Arc::default(),
            fetch: grounds.fetch,
            shared: grounds.shared,
            fence: grounds.fence,
            clock: grounds.clock,
            permits: Arc::new(grounds.permits),
            control: grounds.control,
            refused: grounds.refused,
        }
    }

    /// A read. Unless it goes to the store alone, it may have begun before this call: its stamp
    /// says how recent it is.
    pub(super) async fn read(&self, digest: &Digest, source: Source) -> ReadResult<R> {
        if source == Source::StoreAlone {
            return self.start(*digest, source).await;
        }
        let flight = self
            .under_way
            .lock()
            .entry((*digest, source))
            .or_insert_with(|| self.start(*digest, source))
            .clone();
        flight.await
    }

    /// Counts that an entry of the shared cache was not admitted.
    pub(super) fn note_refused(&self) {
        if let Some(shared) = &self.shared {
            shared.note_refused();
        }
    }

    fn start(&self, digest: Digest, source: Source) -> Flight<R> {
        let board = (source != Source::StoreAlone).then(|| Arc::clone(&self.under_way));
        let route = Route {
            fetch: Arc::clone(&self.fetch),
            shared: self.shared.clone(),
            fence: Arc::clone(&self.fence),
            clock: Arc::clone(&self.clock),
            permits: Arc::clone(&self.permits),
            refused: self.refused.clone(),
        };
        let task = self.control.spawn(async move {
            // Gone before the answer is seen: who comes after that reads anew.
            let _under_way = board.map(|board| UnderWay(board, (digest, source)));
            route.execute(digest, source).await
        });
        task.map(|ended| {
            ended.unwrap_or_else(|_| {
                let lost = StoreError::Unavailable("a read was not brought to its end".to_owned());
                Err(LookupError::Store(Arc::new(lost)))
            })
        })
        .boxed()
        .shared()
    }
}

/// The way of one read.
struct Route<R> {
    fetch: Fetch<R>,
    shared: Option<Arc<dyn Shared<R>>>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    permits: Arc<Limiter>,
    refused: Counter,
}

impl<R: Fenced> Route<R> {
    async fn execute(self, digest: Digest, source: Source) -> ReadResult<R> {
        if source == Source::Nearest
            && let Some(shared) = &self.shared
            && let Some((record, stamp)) = shared.get(&digest).await
        {
            return Ok(Arc::new(Fetched {
                record: Some(Arc::new(Entry::new(record, stamp))),
                stamp,
                shared: true,
            }));
        }
        let Some(_permit) = self.permits.take().await else {
            self.refused.inc();
            return Err(LookupError::Overloaded);
        };
        // I4: the snapshot comes before what is read.
        let snapshot = self.fence.snapshot();
        let found = (self.fetch)(digest)
            .await
            .map_err(|error| LookupError::Store(Arc::new(error)))?;
        if let (Some(shared), Some(record)) = (&self.shared, &found.record) {
            let now = Now::read(&*self.clock);
            // What would not be admitted is not worth keeping; whoever reads it admits it again.
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

/// A flight's place on the board; taken down when the flight ends, however it ends.
struct UnderWay<R>(Board<R>, (Digest, Source));

impl<R> Drop for UnderWay<R> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl<R> std::fmt::Debug for SingleFlight<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SingleFlight({} under way)", self.under_way.lock().len())
    }
}
