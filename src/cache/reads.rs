//! Reads behind L1, in batches. The reads that arrive while others are in progress form the next batch,
//! which takes one statement, and callers that need the same record share one read. Limits bound the
//! batches and the waiting reads, so neither a flood of unknown keys nor an empty L2 overloads the
//! store.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};

use super::{Entry, LookupError, Record, SharedCache, Source};
use keyward_core::fence::{Admission, Fence, Now, Snapshot, Stamp};
use keyward_core::key::{Clock, KeyRecord, TokenRecord};
use keyward_crypto::Digest;
use keyward_ops::Tasks;
use keyward_store::{Control, Found, Store, StoreError};

/// The records of one kind in a store.
#[async_trait]
pub trait Records<R: Record>: Send + Sync + 'static {
    /// Finds the records behind `digests`, in their order.
    async fn find_all(&self, digests: &[R::Digests]) -> Result<Vec<Found<R>>, StoreError>;
}

#[async_trait]
impl Records<KeyRecord> for Arc<dyn Store> {
    async fn find_all(&self, digests: &[Digest]) -> Result<Vec<Found<KeyRecord>>, StoreError> {
        self.find_keys(digests).await
    }
}

#[async_trait]
impl Records<TokenRecord> for Arc<dyn Store> {
    async fn find_all(&self, digests: &[Digest]) -> Result<Vec<Found<TokenRecord>>, StoreError> {
        self.find_tokens(digests).await
    }
}

/// The limits of the reads of one kind of record.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// The tasks that perform batches: for the store, and for the shared cache.
    pub readers: usize,
    /// The reads in one batch.
    pub batch: usize,
    /// The reads that wait for the store.
    pub waiting: usize,
    /// How long each of them waits.
    pub patience: Duration,
}

/// Makes of a record what memory keeps of it.
pub type Keep<R> = Arc<dyn Fn(&R) -> <R as Record>::Kept + Send + Sync>;

/// The dependencies of [`Reads`].
pub struct Dependencies<R: Record> {
    /// The store.
    pub store: Box<dyn Records<R>>,
    /// What is kept of a record.
    pub keep: Keep<R>,
    /// The shared cache in front of the store, if there is one.
    pub shared: Option<Arc<dyn SharedCache<R>>>,
    /// Admits records to the shared cache.
    pub fence: Arc<Fence>,
    /// The clock of the admissions.
    pub clock: Arc<dyn Clock>,
    /// Performs the batches.
    pub control: Control,
    /// The limits.
    pub limits: ReadLimits,
    /// Counts refused reads.
    pub refused: Counter,
}

type ReadResult<K> = Result<Found<Arc<Entry<K>>>, LookupError>;
type Callers<K> = Vec<oneshot::Sender<ReadResult<K>>>;
type Key<R> = (<R as Record>::Digests, Source);
type Queue<R> = mpsc::Sender<Key<R>>;

/// A read that has not begun.
struct Waiting<K> {
    callers: Callers<K>,
    since: Instant,
    /// The span of the first caller.
    span: Span,
}

/// What callers and readers share.
struct Board<R: Record> {
    with: Dependencies<R>,
    waiting: Mutex<HashMap<Key<R>, Waiting<R::Kept>>>,
}

/// Reads records for callers.
pub struct Reads<R: Record> {
    board: Arc<Board<R>>,
    shared: Option<Queue<R>>,
    store: Queue<R>,
}

impl<R: Record> Reads<R> {
    /// Starts the readers on the current runtime. They end when this is dropped.
    pub fn start(with: Dependencies<R>, tasks: &Tasks) -> Self {
        let limits = with.limits;
        let shared = with.shared.clone();
        let waiting = Mutex::default();
        let board = Arc::new(Board { with, waiting });
        let (store, queue) = mpsc::channel(limits.waiting);
        board.start_readers("store reads", queue, tasks, |board, batch| async move {
            board.read_store(batch).await;
        });
        let shared = shared.map(|cache| {
            let (shared, queue) = mpsc::channel(limits.readers * limits.batch);
            let store = store.clone();
            board.start_readers("shared reads", queue, tasks, move |board, batch| {
                let (cache, store) = (Arc::clone(&cache), store.clone());
                async move { board.read_shared(&*cache, batch, &store).await }
            });
            shared
        });
        Self {
            board,
            shared,
            store,
        }
    }

    /// Reads a record. The read begins after this call, so it sees every change committed before.
    pub(super) async fn read(&self, digests: &R::Digests, source: Source) -> ReadResult<R::Kept> {
        let (caller, mut result) = oneshot::channel();
        let mut callers = vec![caller];
        if let (Source::SharedCacheFirst, Some(shared)) = (source, &self.shared) {
            callers = self.board.queue(shared, (digests.clone(), source), callers);
        }
        // If the shared cache is slow, the store gets the read.
        if !callers.is_empty() {
            let digests = digests.clone();
            self.board.queue_for_store(&self.store, digests, callers);
        }
        loop {
            match timeout(self.board.with.limits.patience, &mut result).await {
                Ok(Ok(result)) => return result,
                Ok(Err(_)) => {
                    let lost = StoreError::Unavailable("a read ended without a result".to_owned());
                    return Err(LookupError::Store(Arc::new(lost)));
                }
                Err(_) => self.board.refuse_old(),
            }
        }
    }
}

/// Reads that have begun.
type Batch<R> = Vec<(<R as Record>::Digests, Waiting<<R as Record>::Kept>)>;

impl<R: Record> Board<R> {
    /// Starts the readers of a queue. Each takes what waits there and performs it as one batch. A reader
    /// without work holds nothing, so that the store is closed after the last call.
    fn start_readers<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        queue: mpsc::Receiver<Key<R>>,
        tasks: &Tasks,
        perform: impl Fn(Arc<Self>, Batch<R>) -> F + Clone + Send + Sync + 'static,
    ) {
        let ReadLimits { readers, batch, .. } = self.with.limits;
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        for _ in 0..readers {
            let (board, control) = (Arc::downgrade(self), self.with.control.clone());
            let (queue, perform) = (Arc::clone(&queue), perform.clone());
            tasks.spawn(name, async move {
                let mut keys = Vec::with_capacity(batch);
                // The lock is released before the reads, so that the next reader gathers meanwhile.
                while queue.lock().await.recv_many(&mut keys, batch).await > 0 {
                    let Some(board) = board.upgrade() else { return };
                    let batch = board.begin(keys.drain(..));
                    // A panic ends this batch alone.
                    let _ = control.run(perform(board, batch)).await;
                }
            });
        }
    }

    /// Queues a read, or adds its callers to one that has not begun. Returns the callers if the queue is
    /// full.
    fn queue(&self, queue: &Queue<R>, key: Key<R>, callers: Callers<R::Kept>) -> Callers<R::Kept> {
        match self.waiting.lock().entry(key.clone()) {
            Place::Occupied(mut read) => read.get_mut().callers.extend(callers),
            Place::Vacant(place) => {
                if queue.try_send(key).is_err() {
                    return callers;
                }
                place.insert(Waiting {
                    callers,
                    since: Instant::now(),
                    span: Span::current(),
                });
            }
        }
        Callers::new()
    }

    /// Queues a read for the store, or refuses it.
    fn queue_for_store(&self, store: &Queue<R>, digests: R::Digests, callers: Callers<R::Kept>) {
        let refused = self.queue(store, (digests, Source::Store), callers);
        self.refuse(refused);
    }

    fn begin(&self, keys: impl Iterator<Item = Key<R>>) -> Batch<R> {
        let mut waiting = self.waiting.lock();
        // A read that waited too long is not there any more.
        let begun = keys.filter_map(|key| {
            let read = waiting.remove(&key)?;
            Some((key.0, read))
        });
        begun.collect()
    }

    /// Refuses the reads that have waited too long.
    fn refuse_old(&self) {
        let is_old = |read: &Waiting<R::Kept>| read.since.elapsed() >= self.with.limits.patience;
        let mut waiting = self.waiting.lock();
        let old: Vec<_> = waiting.extract_if(|_, read| is_old(read)).collect();
        drop(waiting);
        for (_, read) in old {
            self.refuse(read.callers);
        }
    }

    fn refuse(&self, callers: Callers<R::Kept>) {
        if !callers.is_empty() {
            self.with.refused.inc();
            answer(callers, &Err(LookupError::Overloaded));
        }
    }

    /// Reads from the shared cache, and queues for the store what it does not have. Each caller admits
    /// its record again.
    async fn read_shared(&self, cache: &dyn SharedCache<R>, batch: Batch<R>, store: &Queue<R>) {
        let snapshot = self.with.fence.snapshot();
        let Some(span) = span_of::<R>(&batch) else {
            return;
        };
        let redis = span.in_scope(|| {
            tracing::debug_span!(
                "redis",
                otel.name = "MGET",
                otel.kind = "client",
                db.system.name = "redis",
                db.operation.name = "MGET",
            )
        });
        let digests = digests::<R>(&batch);
        let found = cache.get_many(&digests).instrument(redis).await;
        let now = Now::read(&*self.with.clock);
        for ((digest, read), found) in batch.into_iter().zip(found) {
            let usable = found.filter(|(record, stamp)| {
                let admission = snapshot.admit(record.ids(), *stamp, now);
                if admission == Admission::Superseded {
                    cache.note_refused();
                }
                admission != Admission::Superseded
            });
            let Some((record, stamp)) = usable else {
                let callers = read.callers;
                let queue = || self.queue_for_store(store, digest, callers);
                read.span.in_scope(queue);
                continue;
            };
            let record = Some(record);
            answer(read.callers, &Ok(self.kept(&Found { record, stamp })));
        }
    }

    /// Reads from the store. A damaged row fails its own read alone.
    async fn read_store(&self, batch: Batch<R>) {
        let Some(span) = span_of::<R>(&batch) else {
            return;
        };
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            // I4: the snapshot is taken before the read.
            let snapshot = self.with.fence.snapshot();
            let digests = digests::<R>(&batch);
            let found = self.with.store.find_all(&digests);
            match found.instrument(span.clone()).await {
                Ok(found) => self.end(batch, &snapshot, found),
                Err(StoreError::Damaged(_)) if batch.len() > 1 => {
                    batches.extend(batch.into_iter().map(|read| vec![read]));
                }
                Err(error) => {
                    let error = Err(LookupError::Store(Arc::new(error)));
                    for (_, read) in batch {
                        answer(read.callers, &error);
                    }
                }
            }
        }
    }

    /// What is kept of a record, which callers share.
    fn kept(&self, found: &Found<R>) -> Found<Arc<Entry<R::Kept>>> {
        let keep = |record| Arc::new(Entry::new((self.with.keep)(record), found.stamp));
        Found {
            record: found.record.as_ref().map(keep),
            stamp: found.stamp,
        }
    }

    /// Answers the callers of a batch. Puts its records into the shared cache, if there is one: only an
    /// admitted record is worth an entry, and each reader of the entry admits it again.
    fn end(&self, batch: Batch<R>, snapshot: &Snapshot<'_>, found: Vec<Found<R>>) {
        let digests = digests::<R>(&batch);
        // All in one go, so that each thread wakes once for its callers.
        for ((_, read), found) in batch.into_iter().zip(&found) {
            answer(read.callers, &Ok(self.kept(found)));
        }
        let Some(shared) = &self.with.shared else {
            return;
        };
        let now = Now::read(&*self.with.clock);
        for (digest, found) in digests.iter().zip(&found) {
            let Some(record) = &found.record else {
                continue;
            };
            if let Admission::Admitted { restamp: revision } =
                snapshot.admit(record.ids(), found.stamp, now)
            {
                shared.put(
                    digest,
                    record,
                    Stamp {
                        revision,
                        ..found.stamp
                    },
                );
            }
        }
    }
}

/// The span that the work on a batch belongs to: that of its first caller.
fn span_of<R: Record>(batch: &Batch<R>) -> Option<Span> {
    batch.first().map(|(_, read)| read.span.clone())
}

fn digests<R: Record>(batch: &Batch<R>) -> Vec<R::Digests> {
    batch.iter().map(|(digests, _)| digests.clone()).collect()
}

fn answer<K>(callers: Callers<K>, result: &ReadResult<K>) {
    for caller in callers {
        // The caller may have stopped waiting.
        let _ = caller.send(result.clone());
    }
}

impl<R: Record> std::fmt::Debug for Reads<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reads({} waiting)", self.board.waiting.lock().len())
    }
}
