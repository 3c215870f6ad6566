//! L1: the cache in memory, from digest to record, bounded by size. I2: an entry's stamp only rises.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Kept;
use keyward_core::fence::{SharedStamp, Stamp};
use keyward_crypto::Digest;

/// What is kept of a record, and its stamp. The record never changes.
#[derive(Debug)]
pub struct Entry<K> {
    kept: K,
    stamp: SharedStamp,
}

impl<K> Entry<K> {
    /// An entry for a record that was read under `stamp`.
    pub fn new(kept: K, stamp: Stamp) -> Self {
        Self {
            kept,
            stamp: SharedStamp::new(stamp),
        }
    }

    /// What is kept of the record.
    pub fn kept(&self) -> &K {
        &self.kept
    }

    /// The stamp.
    pub fn stamp(&self) -> Stamp {
        self.stamp.get()
    }

    /// Raises the stamp to `revision`, which an admission returned (I2).
    pub(super) fn restamp(&self, revision: u64) {
        self.stamp.raise(revision);
    }
}

#[derive(Clone, Copy, Debug)]
struct ByWeight;

impl<K: Kept> Weighter<Digest, Arc<Entry<K>>> for ByWeight {
    fn weight(&self, _: &Digest, entry: &Arc<Entry<K>>) -> u64 {
        let weight = OVERHEAD + size_of::<Entry<K>>() + entry.kept.weight();
        u64::try_from(weight).unwrap_or(u64::MAX)
    }
}

/// The memory of an entry besides itself, in bytes: its place in the tables, and what allocators round up.
const OVERHEAD: usize = 128;
/// The usual size of an entry in bytes, from which the cache plans its tables.
const USUAL_WEIGHT: usize = 380;

/// Entries by digest.
pub struct L1<K: Kept> {
    entries: Cache<Digest, Arc<Entry<K>>, ByWeight>,
}

impl<K: Kept> L1<K> {
    /// A cache of at most `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        let limit = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self {
            entries: Cache::with_weighter(bytes / USUAL_WEIGHT, limit, ByWeight),
        }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Entry<K>>> {
        self.entries.get(digest)
    }

    pub(super) fn insert(&self, digest: Digest, entry: Arc<Entry<K>>) {
        self.entries.insert(digest, entry);
    }
}

impl<K: Kept> std::fmt::Debug for L1<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "L1({} entries)", self.entries.len())
    }
}
