//! Which keys changed at which revision. Read by every verification, written by the tail alone.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::key::KeyId;

const SHARDS: usize = 64;

/// Key id to the revision of its last change, in shards so that verifying threads do not meet.
#[derive(Debug)]
pub(super) struct Tombstones {
    shards: Vec<RwLock<HashMap<KeyId, u64>>>,
    count: AtomicUsize,
    /// In order of revision; an element whose key changed again since is skipped when its turn
    /// comes.
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
    /// The revision of the key's last change, if one is kept.
    pub(super) fn get(&self, id: KeyId) -> Option<u64> {
        self.shard(id).read().get(&id).copied()
    }

    pub(super) fn set(&self, id: KeyId, revision: u64) {
        if self.shard(id).write().insert(id, revision).is_none() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        let mut order = self.order.lock();
        order.push_back((id, revision));
        // A key that changes again and again leaves dead elements behind: sweep them in bulk.
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

    /// Removes the tombstone only if it is still the one of `revision`: a later change stays.
    pub(super) fn remove(&self, id: KeyId, revision: u64) {
        let mut shard = self.shard(id).write();
        if shard.get(&id) == Some(&revision) {
            shard.remove(&id);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Removes all that a floor at `revision` covers.
    pub(super) fn clear_up_to(&self, revision: u64) {
        while let Some((id, at)) = self.oldest().filter(|(_, at)| *at <= revision) {
            self.remove(id, at);
        }
    }

    /// Forgets all.
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
