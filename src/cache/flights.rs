//! Reads of the store that callers share: one in flight for each digest, and no more at a time
//! than there are permits, so that a flood of unknown keys cannot starve the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Fenced, Fetched, LookupError};
use crate::crypto::Digest;
use crate::store::{Control, Found, StoreError};

/// Reads the record behind a digest from the store.
pub type Fetch<R> =
    Arc<dyn Fn(Digest) -> BoxFuture<'static, Result<Found<R>, StoreError>> + Send + Sync>;

type Landed<R> = Result<Arc<Fetched<R>>, LookupError>;
type Flight<R> = Shared<BoxFuture<'static, Landed<R>>>;

/// How many reads may be under way, and how many may wait for that.
#[derive(Debug)]
pub struct Permits {
    running: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
    patience: Duration,
}

impl Permits {
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
pub struct Flights<R> {
    under_way: Arc<Mutex<HashMap<Digest, Flight<R>>>>,
    fetch: Fetch<R>,
    permits: Arc<Permits>,
    control: Control,
    refused: prometheus_client::metrics::counter::Counter,
}

impl<R: Fenced> Flights<R> {
    /// Reads by `fetch`, on `control`, under `permits`; counts in `refused` what found no place.
    pub fn new(
        fetch: Fetch<R>,
        permits: Arc<Permits>,
        control: Control,
        refused: prometheus_client::metrics::counter::Counter,
    ) -> Self {
        Self {
            under_way: Arc::default(),
            fetch,
            permits,
            control,
            refused,
        }
    }

    /// A read that may have begun before this call: its stamp says how recent it is.
    pub(super) async fn join(&self, digest: &Digest) -> Landed<R> {
        let flight = self
            .under_way
            .lock()
            .entry(*digest)
            .or_insert_with(|| self.start(*digest, true))
            .clone();
        flight.await
    }

    /// A read of one's own, which sees all that was committed before the call.
    pub(super) async fn alone(&self, digest: &Digest) -> Landed<R> {
        self.start(*digest, false).await
    }

    fn start(&self, digest: Digest, shared: bool) -> Flight<R> {
        let (fetch, permits) = (Arc::clone(&self.fetch), Arc::clone(&self.permits));
        let refused = self.refused.clone();
        let board = shared.then(|| Arc::clone(&self.under_way));
        let task = self.control.spawn(async move {
            // Gone before the answer is seen: who comes after that reads anew.
            let _under_way = board.map(|board| UnderWay(board, digest));
            match permits.take().await {
                Some(_permit) => fetch(digest)
                    .await
                    .map(|found| Arc::new(Fetched::from(found)))
                    .map_err(|error| LookupError::Store(Arc::new(error))),
                None => {
                    refused.inc();
                    Err(LookupError::Overloaded)
                }
            }
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

/// A flight's place on the board; taken down when the flight ends, however it ends.
struct UnderWay<R>(Arc<Mutex<HashMap<Digest, Flight<R>>>>, Digest);

impl<R> Drop for UnderWay<R> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl<R> std::fmt::Debug for Flights<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flights({} under way)", self.under_way.lock().len())
    }
}
