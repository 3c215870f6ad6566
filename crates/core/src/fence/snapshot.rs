//! The one predicate. A record may be used only if a [`Snapshot`] that was taken before it was got
//! admits it: the same rule for the cache in memory, for a shared cache, for a direct read and
//! for a record that another caller's read brought.

use std::sync::atomic::Ordering;

use crate::key::{BootTime, KeyId, Timestamp};

use super::{Epoch, Fence, Now, Published};

/// How recent a record is: the head of the log in the snapshot that read it, or a later `applied`
/// at which it was admitted (I2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The history the revision belongs to.
    pub epoch: Epoch,
    /// Every change of the record up to this revision is in it.
    pub revision: u64,
}

/// The answer of the predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The record may be judged. It may be stamped anew with the revision given here: the
    /// `applied` that was read before the tombstones.
    Admitted {
        /// The stamp that the record has earned by this admission.
        restamp: u64,
    },
    /// The record may be older than a change that this instance knows of: read it again.
    Superseded,
    /// This instance cannot prove that it knows of every change: answer UNAVAILABLE.
    NotFresh,
}

/// The state of the fence before a record was got.
#[derive(Debug)]
pub struct Snapshot<'f> {
    fence: &'f Fence,
    /// Which tombstones and floor it goes by.
    life: u64,
    published: Published,
}

impl<'f> Snapshot<'f> {
    pub(super) fn new(fence: &'f Fence, life: u64, published: Published) -> Self {
        Self {
            fence,
            life,
            published,
        }
    }

    /// Whether the record of `id` with this stamp may be used at `now`. The record must have been
    /// got after this snapshot was taken, and `now` read after that (I4).
    pub fn admit(&self, id: KeyId, stamp: Stamp, now: Now) -> Admission {
        if !self.is_fresh(now) {
            return Admission::NotFresh;
        }
        // I4: (F, applied) came with the snapshot, then the entry; now the tombstone, then the floor.
        // Were the floor read first, a tombstone pruned in between would be missed by both.
        let tombstone = self.fence.tombstones.get(id);
        let floor = self.fence.floor();
        if stamp.epoch != self.published.epoch
            || stamp.revision < floor
            || tombstone.is_some_and(|revision| stamp.revision < revision)
            || self.outlived()
        {
            return Admission::Superseded;
        }
        // I2: `applied` was read before the tombstones, so every change up to it was looked at.
        Admission::Admitted {
            restamp: stamp.revision.max(self.published.applied),
        }
    }

    /// Whether "the store has no such key", read under this stamp, may be answered at `now`.
    pub fn admit_absence(&self, stamp: Stamp, now: Now) -> Admission {
        if !self.is_fresh(now) {
            return Admission::NotFresh;
        }
        let floor = self.fence.floor();
        if stamp.epoch != self.published.epoch || stamp.revision < floor || self.outlived() {
            return Admission::Superseded;
        }
        Admission::Admitted {
            restamp: stamp.revision,
        }
    }

    /// Whether tombstones and floor were begun anew since this snapshot was taken. Asked after they
    /// were read: those of the new life say nothing of the old.
    fn outlived(&self) -> bool {
        self.fence.restarts.load(Ordering::SeqCst) != self.life
    }

    /// Whether freshness is young enough at `now` (I1 then covers all that is older).
    pub fn is_fresh(&self, now: Now) -> bool {
        self.published
            .fresh
            .is_some_and(|fresh| now.age(fresh) <= self.fence.max_staleness)
    }

    /// The database's time at `boot`, by which ends are judged: what the last tail read, plus the
    /// boot time since that read was sent. Never behind the database, whatever the wall clock says.
    pub fn database_time(&self, boot: BootTime) -> Timestamp {
        self.published.database_time_at(boot)
    }
}
