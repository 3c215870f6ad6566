//! The cache in memory: digest to record, bounded by weight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Fenced;
use keyward_core::fence::{Epoch, Stamp};
use keyward_crypto::Digest;

/// A record and how recent it is. The record never changes; its revision only rises, by an
/// admission (I2).
#[derive(Debug)]
pub struct Entry<R> {
    record: R,
    epoch: Epoch,
    revision: AtomicU64,
    weight: u64,
}

impl<R: Fenced> Entry<R> {
    /// An entry as it was read.
    pub fn new(record: R, stamp: Stamp) -> Self {
        let weight = record.weight() + size_of::<Self>() + size_of::<Digest>();
        Self {
            record,
            epoch: stamp.epoch,
            revision: AtomicU64::new(stamp.revision),
            weight: u64::try_from(weight).unwrap_or(u64::MAX),
        }
    }
}

impl<R> Entry<R> {
    /// The record.
    pub fn record(&self) -> &R {
        &self.record
    }

    /// How recent it is.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            epoch: self.epoch,
            revision: self.revision.load(Ordering::Acquire),
        }
    }

    /// Notes that it was admitted by a snapshot at `revision`.
    pub(super) fn restamp(&self, revision: u64) {
        if revision > self.revision.load(Ordering::Relaxed) {
            self.revision.fetch_max(revision, Ordering::AcqRel);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct ByWeight;

impl<R> Weighter<Digest, Arc<Entry<R>>> for ByWeight {
    fn weight(&self, _: &Digest, entry: &Arc<Entry<R>>) -> u64 {
        entry.weight
    }
}

/// Entries by digest.
pub struct L1<R> {
    entries: Cache<Digest, Arc<Entry<R>>, ByWeight>,
}

impl<R> L1<R> {
    /// A cache of about `items` entries and at most `bytes` bytes.
    pub fn new(items: usize, bytes: u64) -> Self {
        Self {
            entries: Cache::with_weighter(items, bytes, ByWeight),
        }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Entry<R>>> {
        self.entries.get(digest)
    }

    pub(super) fn insert(&self, digest: Digest, entry: Arc<Entry<R>>) {
        self.entries.insert(digest, entry);
    }
}

impl<R> std::fmt::Debug for L1<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "L1({} entries)", self.entries.len())
    }
}
