//! L1: the cache in memory, from digests to records, bounded by size. I2: an entry's stamp only rises.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::{Kept, Record};
use keyward_core::fence::{SharedStamp, Stamp};

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

impl<D, K: Kept> Weighter<D, Arc<Entry<K>>> for ByWeight {
    fn weight(&self, _: &D, entry: &Arc<Entry<K>>) -> u64 {
        let weight = OVERHEAD + size_of::<Entry<K>>() + entry.kept.weight();
        u64::try_from(weight).unwrap_or(u64::MAX)
    }
}

/// The memory of an entry besides itself, in bytes: its place in the tables, and what allocators round up.
const OVERHEAD: usize = 128;
/// The usual size of an entry in bytes, from which the cache plans its tables.
const USUAL_WEIGHT: usize = 320;

/// Entries by digests.
pub struct L1<R: Record> {
    entries: Cache<R::Digests, Arc<Entry<R::Kept>>, ByWeight>,
}

impl<R: Record> L1<R> {
    /// A cache of at most `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        let limit = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self {
            entries: Cache::with_weighter(bytes / USUAL_WEIGHT, limit, ByWeight),
        }
    }

    pub(super) fn get(&self, digests: &R::Digests) -> Option<Arc<Entry<R::Kept>>> {
        self.entries.get(digests)
    }

    /// Visits all entries. Entries that come or go meanwhile may be left out.
    pub(super) fn each(&self, mut visit: impl FnMut(&Entry<R::Kept>)) {
        self.entries.iter().for_each(|(_, entry)| visit(&entry));
    }

    pub(super) fn insert(&self, digests: R::Digests, entry: Arc<Entry<R::Kept>>) {
        self.entries.insert(digests, entry);
    }
}

impl<R: Record> std::fmt::Debug for L1<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "L1({} entries)", self.entries.len())
    }
}
