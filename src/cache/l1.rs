//! L1: the cache in memory, from digest to record, bounded by size. I2: an entry's stamp only rises.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Fenced;
use keyward_core::fence::{SharedStamp, Stamp};
use keyward_crypto::Digest;

/// A record and its stamp. The record never changes.
#[derive(Debug)]
pub struct Entry<R> {
    record: R,
    stamp: SharedStamp,
    weight: u64,
    reply: OnceLock<Bytes>,
}

impl<R: Fenced> Entry<R> {
    /// An entry for a record that was read under `stamp`.
    pub fn new(record: R, stamp: Stamp) -> Self {
        let weight = record.weight() + size_of::<Self>() + size_of::<Digest>();
        Self {
            record,
            stamp: SharedStamp::new(stamp),
            weight: u64::try_from(weight).unwrap_or(u64::MAX),
            reply: OnceLock::new(),
        }
    }
}

impl<R> Entry<R> {
    /// The record.
    pub fn record(&self) -> &R {
        &self.record
    }

    /// The bytes that answer a call with this record, made by `encode` once. They depend on the record
    /// alone, and are sent only after the fence has admitted it for the call.
    pub fn reply(&self, encode: impl FnOnce(&R) -> Bytes) -> Bytes {
        self.reply.get_or_init(|| encode(&self.record)).clone()
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
