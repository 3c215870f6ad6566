//! The fence's one predicate, [`Snapshot::admit`]. It is the same for every source of a record: L1,
//! L2, a read of the store, and a read that another caller started. The caller takes the snapshot
//! first and reads the record afterwards.
//!
//! Upholds I4 and, by the new stamp, I2.

use std::time::Duration;

use crate::key::{BootTime, KeyId, Timestamp};
use crate::sync::{AtomicU64, Ordering};

use super::{Epoch, Fence, Now, Published};

/// How recent a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The history that the revision belongs to.
    pub epoch: Epoch,
    /// The record contains each of its changes up to this revision. I2: it is the head of the log
    /// in the snapshot that read the record, or a later `applied` that an admission established.
    pub revision: u64,
}

/// The stamp of a cached record, which threads share. I2: its revision only rises, and only by an
/// admission.
#[derive(Debug)]
pub struct SharedStamp {
    epoch: Epoch,
    revision: AtomicU64,
}

impl SharedStamp {
    /// The stamp of a record that was read under `stamp`.
    pub fn new(stamp: Stamp) -> Self {
        Self {
            epoch: stamp.epoch,
            revision: AtomicU64::new(stamp.revision),
        }
    }

    /// The stamp.
    pub fn get(&self) -> Stamp {
        Stamp {
            epoch: self.epoch,
            revision: self.revision.load(Ordering::Acquire),
        }
    }

    /// Raises the stamp to `restamp`, which an admission returned (I2).
    pub fn raise(&self, restamp: u64) {
        if restamp > self.revision.load(Ordering::Relaxed) {
            self.revision.fetch_max(restamp, Ordering::AcqRel);
        }
    }
}

/// The decision of the predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The record may be used.
    Admitted {
        /// The record's new stamp: `applied` as it was before the tombstones were read, or the old
        /// stamp if that is higher.
        restamp: u64,
    },
    /// The record may be older than a change that this instance knows. Read it again.
    Superseded,
    /// This instance cannot prove that it knows every change. Answer UNAVAILABLE.
    NotFresh,
}

/// The state of the fence before a record was read.
#[derive(Debug)]
pub struct Snapshot<'f> {
    fence: &'f Fence,
    /// The fence's count of restarts when the snapshot was taken.
    restarts: u64,
    published: Published,
}

impl<'f> Snapshot<'f> {
    pub(super) fn new(fence: &'f Fence, restarts: u64, published: Published) -> Self {
        Self {
            fence,
            restarts,
            published,
        }
    }

    /// Decides whether what was read under this stamp may be used at `now`. `ids` name in the log all that
    /// can outdate it: the id of a record, or those of several that one answer rests on.
    ///
    /// I4: the caller read the record after it took this snapshot, and read `now` after the call arrived.
    pub fn admit(&self, ids: &[KeyId], stamp: Stamp, now: Now) -> Admission {
        if !self.is_fresh(now) {
            return Admission::NotFresh;
        }
        // I4: the order is (F, applied), entry, newest, tombstone, floor. With the floor read before the
        // tombstone, both reads would miss a tombstone that is pruned between them.
        let newest = self.fence.newest.load(Ordering::SeqCst);
        let (tombstone, floor) = if stamp.revision >= newest {
            // No tombstone and no floor is higher, so there is nothing to look up.
            (None, newest)
        } else {
            let tombstones = ids.iter().filter_map(|id| self.fence.tombstones.get(*id));
            (tombstones.max(), self.fence.floor())
        };
        if !admits(self.published.epoch, floor, tombstone, stamp) || self.fence_has_restarted() {
            return Admission::Superseded;
        }
        // I2: `applied` was read before the tombstones, so this check covers every change up to it.
        Admission::Admitted {
            restamp: stamp.revision.max(self.published.applied),
        }
    }

    /// Decides whether "the store has no such key", read under this stamp, may be answered at `now`.
    pub fn admit_absence(&self, stamp: Stamp, now: Now) -> Admission {
        if !self.is_fresh(now) {
            return Admission::NotFresh;
        }
        let floor = self.fence.floor();
        if !admits(self.published.epoch, floor, None, stamp) || self.fence_has_restarted() {
            return Admission::Superseded;
        }
        Admission::Admitted {
            restamp: stamp.revision,
        }
    }

    /// Whether tombstones and floor were reset after this snapshot. Call it after they were read:
    /// after a reset they do not describe the log that the snapshot belongs to.
    pub(super) fn fence_has_restarted(&self) -> bool {
        self.fence.restarts.load(Ordering::SeqCst) != self.restarts
    }

    /// Whether freshness is at most `max_staleness` old at `now`. I1 covers all older changes.
    pub fn is_fresh(&self, now: Now) -> bool {
        self.age(now)
            .is_some_and(|age| age <= self.fence.max_staleness)
    }

    /// The age of freshness at `now`; `None` without freshness.
    pub(super) fn age(&self, now: Now) -> Option<Duration> {
        self.published.fresh.map(|fresh| now.age(fresh))
    }

    /// The epoch and `applied`.
    pub(super) fn position(&self) -> (Epoch, u64) {
        (self.published.epoch, self.published.applied)
    }

    /// The store's time at `boot`: the time in the latest page, plus the boot time since that read
    /// was sent. It is never behind the database and does not depend on the wall clock.
    pub fn database_time(&self, boot: BootTime) -> Timestamp {
        self.published.database_time_at(boot)
    }
}

/// Whether a record with this stamp contains every change of its key that the instance knows.
pub fn admits(epoch: Epoch, floor: u64, tombstone: Option<u64>, stamp: Stamp) -> bool {
    stamp.epoch == epoch
        && stamp.revision >= floor
        && tombstone.is_none_or(|revision| stamp.revision >= revision)
}
