//! The lookup of the record for a digest, or of the records for the digests of a foreign key: first in L1, then in L2, then in the store. The fence admits
//! the record from every source. A cache holds records with their stamps, never verdicts.
//!
//! Upholds I2 and I4, with `fence`.

mod foreign;
mod kept;
mod l1;
pub mod l2;
mod reads;
mod shared_cache;
mod uses;

#[cfg(test)]
pub(crate) mod tests;

use std::hash::Hash;
use std::sync::Arc;

use keyward_core::fence::{Admission, Fence, Now, Snapshot, Stamp};
use keyward_core::key::{Clock, KeyId, KeyRecord, Timestamp, TokenRecord};
use keyward_crypto::Digest;
use keyward_ops::CacheMetrics;
use keyward_store::StoreError;

pub use foreign::{ForeignDigests, ForeignKeys, KeptForeign};
pub use kept::{Kept, KeptAnswer, KeptKey};
pub use l1::{Entry, L1};
pub use reads::{Dependencies, Keep, ReadLimits, Reads, Records};
pub use shared_cache::SharedCache;
pub use uses::{Collected, Share, Uses};

/// The number of further reads for a record that was not admitted. Then the answer is UNAVAILABLE.
const RETRIES: usize = 3;

/// What one read of the store finds, whose changes are in the log.
pub trait Record: Send + Sync + 'static {
    /// What it is found by.
    type Digests: Clone + Eq + Hash + Send + Sync + 'static;
    /// What L1 keeps of it.
    type Kept: Kept;

    /// The ids in the log whose changes outdate it.
    fn ids(&self) -> &[KeyId];
}

impl Record for KeyRecord {
    type Digests = Digest;
    type Kept = KeptKey;

    fn ids(&self) -> &[KeyId] {
        std::slice::from_ref(&self.id)
    }
}

impl Record for TokenRecord {
    type Digests = Digest;
    type Kept = Self;

    fn ids(&self) -> &[KeyId] {
        std::slice::from_ref(&self.id)
    }
}

/// Why a lookup has no answer. It says nothing about the key.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// This instance cannot prove that it knows every change.
    #[error("freshness cannot be proven")]
    NotFresh,
    /// Too many reads are waiting for the store.
    #[error("too many reads are waiting for the store")]
    Overloaded,
    /// The store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
}

/// The allowed sources of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// L1, L2, or a read of the store.
    Default,
    /// Only a read of the store that begins after the call.
    Strong,
}

/// An admitted record, and the store's time for its verdict.
#[derive(Debug)]
pub struct Admitted<K> {
    /// What is kept of the record.
    pub entry: Arc<Entry<K>>,
    /// The stamp by which it was admitted.
    pub stamp: Stamp,
    /// The store's time at the admission.
    pub at: Timestamp,
}

/// Looks up records of one kind.
pub struct Lookup<R: Record> {
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    l1: Arc<L1<R>>,
    reads: Reads<R>,
    metrics: CacheMetrics,
}

impl<R: Record> Lookup<R> {
    /// A lookup in `l1`, and behind it through `reads`.
    pub fn new(
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        l1: Arc<L1<R>>,
        reads: Reads<R>,
        metrics: CacheMetrics,
    ) -> Self {
        Self {
            fence,
            clock,
            l1,
            reads,
            metrics,
        }
    }

    /// Whether this instance knows every change, and so every active generation of the keyring.
    pub fn is_fresh(&self) -> bool {
        self.fence.is_fresh(self.now())
    }

    /// The time of the clocks.
    pub fn now(&self) -> Now {
        Now::read(&*self.clock)
    }

    /// The record for `digests` in L1, if the fence admits it at `now`, which was read after the call
    /// arrived. No I/O. `None` says nothing: ask `find`.
    pub fn cached(&self, digests: &R::Digests, now: Now) -> Option<Admitted<R::Kept>> {
        // I4: the snapshot is taken before the entry is read.
        let snapshot = self.fence.snapshot();
        let entry = self.l1.get(digests)?;
        let admitted = self.admit(&snapshot, entry, now).ok()??;
        self.metrics.hit.inc();
        Some(admitted)
    }

    /// Admits a record of an earlier call once more, as `cached` does.
    pub fn admit_again(&self, entry: &Arc<Entry<R::Kept>>, now: Now) -> Option<Admitted<R::Kept>> {
        let snapshot = self.fence.snapshot();
        self.admit(&snapshot, Arc::clone(entry), now).ok()?
    }

    /// Finds the record for `digests`; `None` if the store has none. A hit in L1 does not wait.
    pub async fn find(
        &self,
        digests: &R::Digests,
        consistency: Consistency,
    ) -> Result<Option<Admitted<R::Kept>>, LookupError> {
        if consistency == Consistency::Default
            && let Some(admitted) = self.cached(digests, Now::read(&*self.clock))
        {
            return Ok(Some(admitted));
        }
        self.find_behind(digests, consistency).await
    }

    /// Finds the record for `digests` behind L1, after `cached` has returned `None`.
    pub async fn find_behind(
        &self,
        digests: &R::Digests,
        consistency: Consistency,
    ) -> Result<Option<Admitted<R::Kept>>, LookupError> {
        if consistency == Consistency::Default {
            let found = self.l1.get(digests);
            found
                .map_or(&self.metrics.miss, |_| &self.metrics.refused)
                .inc();
        }
        for retry in 0..=RETRIES {
            let source = match (consistency, retry) {
                (Consistency::Default, 0) => Source::SharedCacheFirst,
                _ => Source::Store,
            };
            match self.read(digests, source).await? {
                ReadOutcome::Found(admitted) => return Ok(Some(admitted)),
                ReadOutcome::Absent => return Ok(None),
                ReadOutcome::Superseded => self.metrics.refused.inc(),
            };
        }
        Err(LookupError::NotFresh)
    }

    /// Reads behind L1. Callers may share the read, but not its admission: each caller uses the
    /// snapshot that it took before (I4).
    async fn read(
        &self,
        digests: &R::Digests,
        source: Source,
    ) -> Result<ReadOutcome<R::Kept>, LookupError> {
        let snapshot = self.fence.snapshot();
        if !snapshot.is_fresh(Now::read(&*self.clock)) {
            return Err(LookupError::NotFresh);
        }
        let found = self.reads.read(digests, source).await?;
        let Some(entry) = &found.record else {
            return match snapshot.admit_absence(found.stamp, Now::read(&*self.clock)) {
                Admission::Admitted { .. } => Ok(ReadOutcome::Absent),
                Admission::Superseded => Ok(ReadOutcome::Superseded),
                Admission::NotFresh => Err(LookupError::NotFresh),
            };
        };
        let now = Now::read(&*self.clock);
        let Some(admitted) = self.admit(&snapshot, Arc::clone(entry), now)? else {
            return Ok(ReadOutcome::Superseded);
        };
        self.l1.insert(digests.clone(), Arc::clone(entry));
        Ok(ReadOutcome::Found(admitted))
    }

    /// Asks the fence; `None` if the record is superseded.
    fn admit(
        &self,
        snapshot: &Snapshot<'_>,
        entry: Arc<Entry<R::Kept>>,
        now: Now,
    ) -> Result<Option<Admitted<R::Kept>>, LookupError> {
        let stamp = entry.stamp();
        match snapshot.admit(entry.kept().ids(), stamp, now) {
            Admission::Admitted { restamp } => {
                // I2: the higher stamp keeps an entry in use above the floor when tombstones are
                // pruned.
                entry.restamp(restamp);
                Ok(Some(Admitted {
                    entry,
                    stamp: Stamp {
                        revision: restamp,
                        ..stamp
                    },
                    at: snapshot.database_time(now.boot),
                }))
            }
            Admission::Superseded => Ok(None),
            Admission::NotFresh => Err(LookupError::NotFresh),
        }
    }
}

/// The source of a read behind L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// The shared cache, and the store if the shared cache has no entry.
    SharedCacheFirst,
    /// The store.
    Store,
}

/// The outcome of a read behind L1.
enum ReadOutcome<K> {
    /// The record, admitted.
    Found(Admitted<K>),
    /// The store has no such key, admitted.
    Absent,
    /// The result may be older than a change that this instance knows. Read again.
    Superseded,
}

impl<R: Record> std::fmt::Debug for Lookup<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lookup")
    }
}
