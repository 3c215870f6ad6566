//! The tombstones: for each changed key, the revision of its latest change. Every verification
//! reads them; only the tail writes them. A removed tombstone is covered by the floor (I8).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use crate::key::KeyId;
use crate::sync::{AtomicUsize, Mutex, Ordering, RwLock};

const SHARDS: usize = if cfg!(loom) { 1 } else { 64 };

/// The latest change of each key. Shards keep verifying threads from contending for one lock.
#[derive(Debug)]
pub(super) struct Tombstones {
    shards: Vec<RwLock<HashMap<KeyId, u64>>>,
    count: AtomicUsize,
    /// In revision order. An element is outdated if its key has changed again; `oldest` skips it.
    order: Mutex<VecDeque<(KeyId, u64)>>,
}

impl Default for Tombstones {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            count: AtomicUsize::new(0),
            order: Mutex::default(),
        }
    }
}

impl Tombstones {
    /// The revision of the key's latest change, unless it was pruned.
    pub(super) fn get(&self, id: KeyId) -> Option<u64> {
        self.shard(id).read().get(&id).copied()
    }

    /// Sets the key's tombstone, which never falls.
    pub(super) fn set(&self, id: KeyId, revision: u64) {
        match self.shard(id).write().entry(id) {
            Entry::Occupied(mut known) if *known.get() < revision => drop(known.insert(revision)),
            Entry::Occupied(_) => return,
            Entry::Vacant(new) => {
                new.insert(revision);
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut order = self.order.lock();
        order.push_back((id, revision));
        // A key that changes repeatedly leaves outdated elements. Remove them in bulk.
        if order.len() > 2 * self.len() + 1_024 {
            order.retain(|(id, revision)| self.get(*id) == Some(*revision));
        }
    }

    /// The tombstone with the lowest revision.
    pub(super) fn oldest(&self) -> Option<(KeyId, u64)> {
        let mut order = self.order.lock();
        while let Some(&(id, revision)) = order.front() {
            if self.get(id) == Some(revision) {
                return Some((id, revision));
            }
            order.pop_front();
        }
        None
    }

    /// The changes above `revision`, in order; `None` if there are more than `limit`. Some may be
    /// outdated: to leave those out would lose a key whose next tombstone is being set.
    pub(super) fn after(&self, revision: u64, limit: usize) -> Option<Vec<(KeyId, u64)>> {
        let order = self.order.lock();
        let newer = order.iter().rev().take_while(|(_, at)| *at > revision);
        let mut changes: Vec<_> = newer.take(limit + 1).copied().collect();
        changes.reverse();
        (changes.len() <= limit).then_some(changes)
    }

    /// Removes the key's tombstone if it is still at `revision`. A later change stays.
    pub(super) fn remove(&self, id: KeyId, revision: u64) {
        let mut shard = self.shard(id).write();
        if shard.get(&id) == Some(&revision) {
            shard.remove(&id);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Removes all tombstones up to `revision`. The floor must already be there (I8).
    pub(super) fn clear_up_to(&self, revision: u64) {
        while let Some((id, at)) = self.oldest().filter(|(_, at)| *at <= revision) {
            self.remove(id, at);
        }
    }

    /// Removes all tombstones.
    pub(super) fn clear(&self) {
        self.clear_up_to(u64::MAX);
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn shard(&self, id: KeyId) -> &RwLock<HashMap<KeyId, u64>> {
        // The last byte of a UUIDv7 is random.
        &self.shards[usize::from(id.as_bytes()[15]) % SHARDS]
    }
}
