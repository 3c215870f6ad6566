//! Reads behind L1, in batches. Concurrent callers that need the same record share one read. The reads
//! that arrive while others are in progress form the next batch, which takes one statement. Limits
//! bound the batches and the waiting reads, so neither a flood of unknown keys nor an empty L2
//! overloads the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{SetOnce, mpsc};
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::{Entry, Fenced, Fetched, LookupError, SharedCache, Source};
use keyward_core::fence::{Admission, Fence, Now, Snapshot, Stamp};
use keyward_core::key::{Clock, KeyRecord, TokenRecord};
use keyward_crypto::Digest;
use keyward_ops::Tasks;
use keyward_store::{Found, Store, StoreError};

/// Reads the records behind digests from the store, in the order of the digests.
pub type Fetch<R> =
    Arc<dyn Fn(Vec<Digest>) -> BoxFuture<'static, Result<Vec<Found<R>>, StoreError>> + Send + Sync>;

type ReadResult<R> = Result<Fetched<R>, LookupError>;

/// Reads keys from `store`.
pub fn fetch_keys(store: Arc<dyn Store>) -> Fetch<KeyRecord> {
    Arc::new(move |digests| {
        let store = Arc::clone(&store);
        async move { store.find_keys(&digests).await }.boxed()
    })
}

/// Reads callers' tokens from `store`.
pub fn fetch_tokens(store: Arc<dyn Store>) -> Fetch<TokenRecord> {
    Arc::new(move |digests| {
        let store = Arc::clone(&store);
        async move {
            let mut found = Vec::with_capacity(digests.len());
            for digest in &digests {
                found.push(store.find_token(digest).await?);
            }
            Ok(found)
        }
        .boxed()
    })
}

/// The limits of the reads of one kind of record.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// The concurrent batches: of the store, and of the shared cache.
    pub readers: usize,
    /// The reads of one batch.
    pub batch: usize,
    /// The reads that wait for the store.
    pub waiting: usize,
    /// How long each of them waits.
    pub patience: Duration,
}

impl ReadLimits {
    /// The reads that take part in a batch at the same time.
    const fn running(&self) -> usize {
        self.readers * self.batch
    }
}

/// The dependencies of [`Reads`].
pub struct Dependencies<R> {
    /// Reads the store.
    pub fetch: Fetch<R>,
    /// The shared cache in front of the store, if there is one.
    pub shared: Option<Arc<dyn SharedCache<R>>>,
    /// Admits records to the shared cache.
    pub fence: Arc<Fence>,
    /// The clock of the admissions.
    pub clock: Arc<dyn Clock>,
    /// The limits.
    pub limits: ReadLimits,
    /// Counts refused reads.
    pub refused: Counter,
}

/// Reads records for callers.
pub struct Reads<R> {
    sources: Arc<Sources<R>>,
    shared: Option<Queue<R>>,
    store: Queue<R>,
}

type Queue<R> = mpsc::Sender<Reading<R>>;

impl<R: Fenced> Reads<R> {
    /// Starts the readers on the current runtime. They end when this is dropped.
    pub fn start(dependencies: Dependencies<R>, tasks: &Tasks) -> Self {
        let limits = dependencies.limits;
        let sources = Arc::new(Sources {
            dependencies,
            joinable: Mutex::default(),
        });
        let (store, waiting) = mpsc::channel(limits.waiting + limits.running());
        let reader = Arc::clone(&sources);
        start_readers("store reads", waiting, limits, tasks, move |batch| {
            Arc::clone(&reader).read_store(batch)
        });
        let shared = sources.dependencies.shared.clone().map(|cache| {
            let (queue, waiting) = mpsc::channel(limits.running());
            let (reader, store) = (Arc::clone(&sources), store.clone());
            start_readers("shared reads", waiting, limits, tasks, move |batch| {
                let (reader, cache) = (Arc::clone(&reader), Arc::clone(&cache));
                reader.read_shared(cache, batch, store.clone())
            });
            queue
        });
        Self {
            sources,
            shared,
            store,
        }
    }

    /// Reads a record. A shared read may have begun before this call; its stamp says how recent the
    /// result is.
    pub(super) async fn read(&self, digest: &Digest, source: Source) -> ReadResult<R> {
        let read = self.join_or_queue((*digest, source));
        let patience = self.sources.dependencies.limits.patience;
        if timeout(patience, read.result.wait()).await.is_err() && read.take() {
            self.sources.refuse(&read);
        }
        read.result.wait().await.clone()
    }

    /// Counts an entry of the shared cache that the fence did not admit.
    pub(super) fn note_refused(&self) {
        if let Some(shared) = &self.sources.dependencies.shared {
            shared.note_refused();
        }
    }

    fn join_or_queue(&self, key: (Digest, Source)) -> Arc<Read<R>> {
        let is_joinable = key.1 != Source::StoreUnshared;
        let mut joinable = self.sources.joinable.lock();
        if is_joinable && let Some(read) = joinable.get(&key) {
            return Arc::clone(read);
        }
        let read = Arc::new(Read {
            key,
            is_taken: AtomicBool::new(false),
            result: SetOnce::new(),
            span: Span::current(),
        });
        if is_joinable {
            joinable.insert(key, Arc::clone(&read));
        }
        drop(joinable);
        let mut reading = Reading {
            read: Arc::clone(&read),
            sources: Arc::clone(&self.sources),
        };
        if key.1 == Source::SharedCacheFirst
            && let Some(shared) = &self.shared
        {
            match shared.try_send(reading) {
                Ok(()) => return read,
                // The shared cache is slow.
                Err(error) => reading = error.into_inner(),
            }
        }
        reading.queue_for_store(&self.store);
        read
    }
}

/// Starts the readers of a queue: each takes what waits there and performs it as one batch.
fn start_readers<R: Fenced, F>(
    name: &str,
    queue: mpsc::Receiver<Reading<R>>,
    limits: ReadLimits,
    tasks: &Tasks,
    perform: impl Fn(Vec<Reading<R>>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    for _ in 0..limits.readers {
        let (queue, perform) = (Arc::clone(&queue), perform.clone());
        tasks.spawn(name, async move {
            loop {
                let mut batch = Vec::with_capacity(limits.batch);
                // The lock is released before the reads, so that the next reader gathers meanwhile.
                let count = queue.lock().await.recv_many(&mut batch, limits.batch).await;
                if count == 0 {
                    return;
                }
                perform(batch).await;
            }
        });
    }
}

/// What the readers share.
struct Sources<R> {
    dependencies: Dependencies<R>,
    /// The reads that later callers may join.
    joinable: Mutex<HashMap<(Digest, Source), Arc<Read<R>>>>,
}

impl<R: Fenced> Sources<R> {
    /// Reads from the shared cache, and queues for the store what is not there.
    async fn read_shared(
        self: Arc<Self>,
        cache: Arc<dyn SharedCache<R>>,
        batch: Vec<Reading<R>>,
        store: Queue<R>,
    ) {
        let found = cache.get_many(&digests(&batch)).await;
        for (reading, found) in batch.into_iter().zip(found) {
            match found {
                Some((record, stamp)) => reading.end(Ok(Fetched {
                    record: Some(Arc::new(Entry::new(record, stamp))),
                    stamp,
                    from_shared_cache: true,
                })),
                None => reading.queue_for_store(&store),
            }
        }
    }

    /// Reads from the store. The records are put into the shared cache.
    async fn read_store(self: Arc<Self>, mut batch: Vec<Reading<R>>) {
        batch.retain(|reading| reading.read.take());
        let Some(first) = batch.first() else {
            return;
        };
        let span = first.read.span.clone();
        let work = async {
            match self.fetch(&batch).await {
                // A damaged row fails its own read alone.
                (_, Err(StoreError::Damaged(_))) if batch.len() > 1 => {
                    for reading in batch {
                        let alone = vec![reading];
                        let (snapshot, found) = self.fetch(&alone).await;
                        self.end(alone, &snapshot, found);
                    }
                }
                (snapshot, found) => self.end(batch, &snapshot, found),
            }
        };
        work.instrument(span).await;
    }

    /// The records of a batch. I4: the snapshot is taken before the read.
    async fn fetch(
        &self,
        batch: &[Reading<R>],
    ) -> (Snapshot<'_>, Result<Vec<Found<R>>, StoreError>) {
        let snapshot = self.dependencies.fence.snapshot();
        (snapshot, (self.dependencies.fetch)(digests(batch)).await)
    }

    fn end(
        &self,
        batch: Vec<Reading<R>>,
        snapshot: &Snapshot<'_>,
        found: Result<Vec<Found<R>>, StoreError>,
    ) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let error = LookupError::Store(Arc::new(error));
                return batch
                    .into_iter()
                    .for_each(|reading| reading.end(Err(error.clone())));
            }
        };
        let digests = digests(&batch);
        let found: Vec<_> = found.into_iter().map(Fetched::from).collect();
        // In one go, so that a thread wakes once for all its callers.
        for (reading, found) in batch.into_iter().zip(&found) {
            reading.end(Ok(found.clone()));
        }
        if let Some(shared) = &self.dependencies.shared {
            let now = Now::read(&*self.dependencies.clock);
            for (digest, found) in digests.iter().zip(&found) {
                share(&**shared, digest, found, snapshot, now);
            }
        }
    }

    /// Refuses a read that finds no place or has waited too long.
    fn refuse(&self, read: &Read<R>) {
        self.dependencies.refused.inc();
        self.finish(read, Err(LookupError::Overloaded));
    }
}

impl<R> Sources<R> {
    /// Gives the callers of a read their result. A later caller starts a new read.
    fn finish(&self, read: &Read<R>, result: ReadResult<R>) {
        let mut joinable = self.joinable.lock();
        if joinable
            .get(&read.key)
            .is_some_and(|joined| std::ptr::eq(&**joined, read))
        {
            joinable.remove(&read.key);
        }
        drop(joinable);
        // It has a result already if it waited too long.
        let _ = read.result.set(result);
    }
}

/// Puts a record into the shared cache. Only an admitted record is worth an entry. Each reader of the
/// entry admits it again.
fn share<R: Fenced>(
    shared: &dyn SharedCache<R>,
    digest: &Digest,
    found: &Fetched<R>,
    snapshot: &Snapshot<'_>,
    now: Now,
) {
    let Some(entry) = &found.record else { return };
    let admission = snapshot.admit(entry.record().id(), found.stamp, now);
    if let Admission::Admitted { restamp } = admission {
        let stamp = Stamp {
            revision: restamp,
            ..found.stamp
        };
        shared.put(digest, entry.record(), stamp);
    }
}

fn digests<R>(batch: &[Reading<R>]) -> Vec<Digest> {
    batch.iter().map(|reading| reading.read.key.0).collect()
}

/// One read, which callers may share.
struct Read<R> {
    key: (Digest, Source),
    /// Whether a reader of the store has begun it, or a caller has refused it.
    is_taken: AtomicBool,
    result: SetOnce<ReadResult<R>>,
    /// The span of the call that began it.
    span: Span,
}

impl<R> Read<R> {
    /// Takes the read; `false` if it was taken before.
    fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::Relaxed)
    }
}

/// A read that is queued or in progress. Its callers get a result even if this is lost.
struct Reading<R> {
    read: Arc<Read<R>>,
    sources: Arc<Sources<R>>,
}

impl<R: Fenced> Reading<R> {
    fn end(self, result: ReadResult<R>) {
        self.sources.finish(&self.read, result);
    }

    /// Queues the read for the store, or refuses it if too many wait.
    fn queue_for_store(self, store: &Queue<R>) {
        if let Err(mpsc::error::TrySendError::Full(refused)) = store.try_send(self) {
            refused.sources.refuse(&refused.read);
        }
    }
}

impl<R> Drop for Reading<R> {
    fn drop(&mut self) {
        if !self.read.result.initialized() {
            let lost = StoreError::Unavailable("a read ended without a result".to_owned());
            let lost = LookupError::Store(Arc::new(lost));
            self.sources.finish(&self.read, Err(lost));
        }
    }
}

impl<R> std::fmt::Debug for Reads<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reads({} shared)", self.sources.joinable.lock().len())
    }
}
