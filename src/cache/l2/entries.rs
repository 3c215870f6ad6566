//! The cache of records in Redis. Each entry is sealed with the cache key. Reads are bounded in time;
//! writes and removals are queued, and dropped if the queue is full.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::link::Link;
use super::servers::MAX_ENTRY;
use super::{Background, PREFIX, encoding};
use crate::cache::SharedCache;
use keyward_core::fence::Stamp;
use keyward_core::key::{Entropy, KeyRecord};
use keyward_crypto::{CACHE_SEAL_LEN, CacheKey, Digest};
use keyward_ops::L2Metrics;

/// The shortest lifetime of an entry, and the most that is added to it. The addition varies, so that
/// entries that were written together do not expire together.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(600));
/// The most entries that are written or removed in one round trip.
const BATCH: usize = 64;
/// The most entries that wait to be written, and the most names that wait to be removed.
const QUEUE: usize = 1_024;

/// One write: name, sealed entry and lifetime in seconds.
type Write = (String, Vec<u8>, u64);

/// The cache of key records in Redis.
pub struct Entries {
    key: Arc<CacheKey>,
    entropy: Arc<dyn Entropy>,
    metrics: L2Metrics,
    link: Arc<Link>,
    writes: mpsc::Sender<Write>,
    removals: mpsc::Sender<String>,
}

impl Entries {
    /// Starts the tasks in the background.
    pub(super) fn start(
        link: Arc<Link>,
        key: Arc<CacheKey>,
        entropy: Arc<dyn Entropy>,
        metrics: L2Metrics,
        background: &Background<'_>,
    ) -> Arc<Self> {
        let (writes, queue) = mpsc::channel(QUEUE);
        let writing = write_all(Arc::clone(&link), queue, metrics.clone());
        background.spawn("redis writes", writing);
        let (removals, queue) = mpsc::channel(QUEUE);
        background.spawn("redis removals", remove_all(Arc::clone(&link), queue));
        Arc::new(Self {
            key,
            entropy,
            metrics,
            link,
            writes,
            removals,
        })
    }

    /// Queues the removal of the entries for `digests`. It is best effort.
    pub fn remove(&self, digests: &[Digest]) {
        for digest in digests {
            // The queue may be full. The fence does not admit the entry anyway.
            let _ = self.removals.try_send(self.name(digest));
        }
    }

    fn name(&self, digest: &Digest) -> String {
        format!("{PREFIX}{}", self.key.name(digest))
    }

    /// Reads the sealed entries for `digests`. A missing entry is empty; `None` means no answer in time.
    async fn read(&self, digests: &[Digest]) -> Vec<Option<Vec<u8>>> {
        let count = digests.len();
        if !self.link.lets_calls_through() {
            self.metrics.skipped.inc_by(as_count(count));
            return vec![None; count];
        }
        let names = digests.iter().map(|digest| self.name(digest)).collect();
        let read = self.link.call(|connection| connection.read(names)).await;
        let values = read.unwrap_or_else(|_| vec![None; count]);
        let failed = values.iter().filter(|value| value.is_none()).count();
        self.metrics.failed.inc_by(as_count(failed));
        values
    }

    /// Opens and decodes the sealed entry for `digest`.
    fn open(&self, digest: &Digest, sealed: &[u8]) -> Option<(KeyRecord, Stamp)> {
        if sealed.is_empty() {
            self.metrics.miss.inc();
            return None;
        }
        let Some(plain) = self.key.open(digest, sealed) else {
            // Log the first one only: an attacker can cause any number.
            if self.metrics.bad.inc() == 0 {
                tracing::error!(
                    "an entry in redis was not made with this cache key: another program, or an \
                     instance with another keyring, writes there. The entry counts as a miss \
                     (keyward_l2_total, outcome bad_mac)"
                );
            }
            return None;
        };
        let entry = encoding::decode(&plain);
        match &entry {
            Some(_) => self.metrics.hit.inc(),
            None => self.metrics.unreadable.inc(),
        };
        entry
    }
}

#[async_trait]
impl SharedCache<KeyRecord> for Entries {
    async fn get_many(&self, digests: &[Digest]) -> Vec<Option<(KeyRecord, Stamp)>> {
        let sealed = self.read(digests).await;
        let opened = digests.iter().zip(sealed);
        opened
            .map(|(digest, sealed)| self.open(digest, &sealed?))
            .collect()
    }

    fn put(&self, digest: &Digest, record: &KeyRecord, stamp: Stamp) {
        if !self.link.lets_calls_through() {
            return;
        }
        let plain = encoding::encode(record, stamp);
        if plain.len() + CACHE_SEAL_LEN > MAX_ENTRY {
            return;
        }
        let Some(sealed) = self.key.seal(digest, &plain, &*self.entropy) else {
            return;
        };
        let (shortest, spread) = LIFETIME;
        let random = u64::from(sealed.first().copied().unwrap_or_default());
        let seconds = shortest.as_secs() + spread.as_secs() * random / 255;
        let write = (self.name(digest), sealed, seconds);
        if self.writes.try_send(write).is_err() {
            self.metrics.dropped.inc();
        }
    }

    fn note_refused(&self) {
        self.metrics.refused.inc();
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entries")
    }
}

async fn write_all(link: Arc<Link>, mut queue: mpsc::Receiver<Write>, metrics: L2Metrics) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let count = as_count(batch.len());
        let entries = &batch;
        let written = link.call(|connection| async move { connection.write(entries).await });
        let written = as_count(written.await.unwrap_or_default());
        metrics.written.inc_by(written);
        metrics.dropped.inc_by(count.saturating_sub(written));
        batch.clear();
    }
}

async fn remove_all(link: Arc<Link>, mut queue: mpsc::Receiver<String>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let names = std::mem::take(&mut batch);
        let removed = link.call(|connection| connection.delete(names));
        if removed.await.is_err() {
            tracing::debug!("entries of changed keys were not removed; the fence refuses them");
        }
    }
}

fn as_count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
