//! The fence decides whether a cached record may be used. It is pure and synchronous: time is
//! passed in as a value, so tests, models and simulations drive these same types.
//!
//! - The tail (`replication`) reads the log and hands each page to [`Fence::absorb`].
//! - A verification takes a [`Snapshot`], then reads a record from any source, then asks
//!   [`Snapshot::admit`]. Only then does [`judge`] decide the verdict.
//! - A committed change waits for the instances of its [`AckSet`], each for at most its bound
//!   ([`Wait`]).
//! - The [`FailureDetector`] finds instances whose rows may be reaped.
//!
//! Upholds I1, I4 and I8; I2 with `cache`; I5, I6, I7 and I9 with `replication`. A comment with the
//! invariant's number marks the line that upholds it.

mod apply;
mod judge;
mod leases;
mod membership;
mod near;
mod settling;
mod snapshot;
mod tombstones;
mod wait;

#[cfg(test)]
mod tests;

pub use apply::{
    Absorbed, Change, MAX_BEHIND, MAX_ROWS, Mark, Page, Position, Refused, START_BEHIND, Start,
};
pub use judge::{Ask, Terms, judge, judge_all, state_at, token_lives, token_state_at};
pub use leases::{Leases, StreamId};
pub use membership::{
    AckSet, CommittedChange, FailureDetector, Member, Membership, Receipt, RegistrationId,
};
pub use near::{MAX_CHANGES, NearAnswer};
pub use settling::{MAX_STALENESS, Settling, Unsettled};
pub use snapshot::{Admission, SharedStamp, Snapshot, Stamp};
pub use wait::{Progress, Wait, bound};

/// The decisions of the fence, as functions of plain values. The model in `proof/model` takes its decisions
/// by them, too.
pub mod rules {
    pub use super::apply::{check_mark, reached};
    pub use super::snapshot::admits;
}

use std::time::Duration;

use crate::key::{BootTime, Timestamp};
use crate::sync::{ArcSwap, AtomicU64, Mutex, Ordering};
use apply::TailState;
use tombstones::Tombstones;

/// The history that a revision belongs to. An entry of another epoch is never admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// The database: the system identifier on Postgres; drawn at each start on SQLite.
    pub system: u64,
    /// The timeline of the primary; 1 on SQLite.
    pub timeline: u32,
    /// Raised by an operator who accepts that the log lost changes.
    pub incarnation: u64,
}

impl Epoch {
    /// The epoch of a near-cache that has heard of none. No store has it.
    pub const NONE: Self = Self {
        system: 0,
        timeline: 0,
        incarnation: 0,
    };
}

/// Both clocks, read at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The boot clock.
    pub boot: BootTime,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Now {
    /// Reads both clocks.
    pub fn read(clock: &dyn crate::key::Clock) -> Self {
        Self {
            boot: clock.boot(),
            wall: clock.wall(),
        }
    }

    /// The time since `earlier`, by the clock that shows more. A machine that was paused or
    /// restored from a snapshot may see it on one clock only.
    fn age(self, earlier: Self) -> Duration {
        self.boot
            .since(earlier.boot)
            .max(self.wall.since(earlier.wall))
    }

    fn plus(self, by: Duration) -> Self {
        Self {
            boot: self.boot.plus(by),
            wall: self.wall.plus(by),
        }
    }

    /// The later of both points by the boot clock, which is never set. Its wall time stays with it: after the
    /// wall clock was set back, an earlier wall time would bound nothing.
    fn later(self, other: Self) -> Self {
        match other.boot > self.boot {
            true => other,
            false => self,
        }
    }
}

/// What the tail has established. I4: it is one value, so that a snapshot reads `(F, applied)` in
/// one step.
#[derive(Clone, Copy, Debug)]
struct Published {
    epoch: Epoch,
    /// Freshness, `F`. I1: each change that was visible by then has a tombstone here or is at most
    /// `floor`.
    fresh: Option<Now>,
    applied: u64,
    /// The store's time at `anchor`. The time derived from it never falls.
    database_time: Timestamp,
    anchor: BootTime,
}

impl Published {
    fn database_time_at(&self, boot: BootTime) -> Timestamp {
        self.database_time.plus(boot.since(self.anchor))
    }

    /// Notes the store's time in an answer to a request that was sent at `sent_at`. Requests of a near-cache
    /// may be answered in another order than they were sent.
    fn raise_time(&mut self, database_time: Timestamp, sent_at: BootTime) {
        let anchor = self.anchor.max(sent_at);
        let told = database_time.plus(anchor.since(sent_at));
        self.database_time = told.max(self.database_time_at(anchor));
        self.anchor = anchor;
    }
}

/// The state of one instance: freshness, `applied`, epoch, tombstones and floor.
#[derive(Debug)]
pub struct Fence {
    max_staleness: Duration,
    max_tombstones: usize,
    published: ArcSwap<Published>,
    tombstones: Tombstones,
    /// No entry below this revision is admitted. It stands for the pruned tombstones.
    floor: AtomicU64,
    /// No tombstone and no floor is above this revision. It never falls.
    newest: AtomicU64,
    /// How often tombstones and floor were reset. A snapshot from before a reset admits nothing.
    restarts: AtomicU64,
    /// Used by the tail only. Its lock also serialises all writers of `published`.
    tail: Mutex<TailState>,
}

/// The number of tombstones above which the oldest are pruned.
pub const MAX_TOMBSTONES: usize = 100_000;

impl Fence {
    /// The fence of a new instance. It is not fresh until it has absorbed a heartbeat's page.
    /// `max_tombstones` is [`MAX_TOMBSTONES`] outside tests.
    pub fn new(max_staleness: Duration, max_tombstones: usize, start: Start) -> Self {
        Self {
            max_staleness,
            max_tombstones,
            published: ArcSwap::from_pointee(Published {
                epoch: start.epoch,
                fresh: None,
                applied: start.applied,
                database_time: start.database_time,
                anchor: start.taken_at,
            }),
            tombstones: Tombstones::default(),
            floor: AtomicU64::new(start.floor),
            newest: AtomicU64::new(start.floor),
            restarts: AtomicU64::new(0),
            tail: Mutex::new(TailState::new(start.mark)),
        }
    }

    /// Takes a snapshot. I4: this is the first step of every verification.
    pub fn snapshot(&self) -> Snapshot<'_> {
        let restarts = self.restarts.load(Ordering::SeqCst);
        Snapshot::new(self, restarts, **self.published.load())
    }

    /// The longest time for which the instance answers without news from the store.
    pub fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    /// The epoch of `applied`.
    pub fn epoch(&self) -> Epoch {
        self.published.load().epoch
    }

    /// The revision up to which this instance has applied the log.
    pub fn applied(&self) -> u64 {
        self.published.load().applied
    }

    /// The row at `applied`, and the epoch of its log.
    pub fn position(&self) -> (Epoch, Position) {
        let tail = self.tail.lock();
        let published = **self.published.load();
        let position = Position {
            revision: published.applied,
            mark: tail.mark,
        };
        (published.epoch, position)
    }

    /// The revision below which no entry is admitted.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }

    /// The number of tombstones.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// The age of freshness at `now`; `None` without freshness.
    pub fn freshness_age(&self, now: Now) -> Option<Duration> {
        self.published.load().fresh.map(|fresh| now.age(fresh))
    }

    /// Whether the instance can admit records at `now`.
    pub fn is_fresh(&self, now: Now) -> bool {
        self.snapshot().is_fresh(now)
    }

    /// Ends freshness. Nothing is admitted until a later heartbeat restores it.
    pub fn stop_being_fresh(&self) {
        self.lose_freshness(&mut self.tail.lock());
    }

    fn lose_freshness(&self, tail: &mut TailState) {
        tail.lose_heartbeat();
        self.publish(|published| published.fresh = None);
    }

    /// Publishes a new state. The caller holds the lock of `tail`, so no two writers cross.
    fn publish(&self, change: impl Fn(&mut Published)) {
        let mut published = **self.published.load();
        change(&mut published);
        self.published.store(std::sync::Arc::new(published));
    }

    /// Raises the floor. I8: the floor never falls (except in `restart`), and it rises before a
    /// tombstone is removed.
    fn raise_floor(&self, to: u64) {
        self.raise_newest(to);
        self.floor.fetch_max(to, Ordering::SeqCst);
    }

    /// Raises `newest`. I4: it rises before the tombstones and the floor that it bounds.
    fn raise_newest(&self, to: u64) {
        self.newest.fetch_max(to, Ordering::SeqCst);
    }
}
