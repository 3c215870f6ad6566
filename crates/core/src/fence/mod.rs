//! The fence: what decides whether a key lives. Pure and synchronous: time comes in as values,
//! so that a test, a model or a simulation can drive these very types.
//!
//! One log of changes, one predicate. The tail (`feed`) hands the log to [`Fence::absorb`]; a
//! verifier takes a [`Snapshot`], gets a record from wherever, and asks [`Snapshot::admit`]. What is
//! admitted is judged by [`judge`]. A change that must hold everywhere waits by [`Wait`], for
//! each instance of a [`Membership`]; [`FailureDetector`] says whose row may go.
//!
//! Upholds I1, I4, I8 and, with `cache`, I2, with `feed` I7 and I9 (each named at its line).

mod judge;
mod membership;
mod snapshot;
mod tail;
mod tombstones;
mod wait;

#[cfg(test)]
mod tests;

pub use judge::{Ask, judge, state_at, token_lives};
pub use membership::{
    AckSet, CommittedChange, FailureDetector, Member, Membership, Receipt, RegistrationId,
};
pub use snapshot::{Admission, Snapshot, Stamp};
pub use tail::{Absorbed, Change, MAX_ROWS, Mark, Page, Refused, Start};
pub use wait::{Progress, Wait, bound};

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::key::{BootTime, Timestamp};
use tombstones::Tombstones;

/// Which history a revision belongs to. Entries of another epoch are never admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// The database: the system identifier on Postgres, drawn at each start on SQLite.
    pub system: u64,
    /// The timeline of the primary; 1 on SQLite.
    pub timeline: u32,
    /// Raised by an operator who accepts that the log lost its tail.
    pub incarnation: u64,
}

/// Both clocks, read at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The boot-time clock.
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

    /// The larger of what the two clocks say has passed since `earlier`: a machine that was
    /// paused or restored finds itself old, whichever clock noticed.
    fn age(self, earlier: Self) -> Duration {
        self.boot
            .since(earlier.boot)
            .max(self.wall.since(earlier.wall))
    }
}

/// What the tail has established, published as one value so that `(F, applied)` is read in one
/// step (I4).
#[derive(Clone, Copy, Debug)]
struct Published {
    epoch: Epoch,
    /// `F`: every change visible by then is a tombstone here or at most `floor` (I1).
    fresh: Option<Now>,
    applied: u64,
    /// The database's time at `anchor`; as used it never falls.
    database_time: Timestamp,
    anchor: BootTime,
}

impl Published {
    fn database_time_at(&self, boot: BootTime) -> Timestamp {
        self.database_time.plus(boot.since(self.anchor))
    }
}

/// The state of one instance: freshness, applied revision, tombstones, floor and epoch.
#[derive(Debug)]
pub struct Fence {
    max_staleness: Duration,
    max_tombstones: usize,
    published: ArcSwap<Published>,
    tombstones: Tombstones,
    /// Entries below it are refused whatever their key: stands for all tombstones that went.
    floor: AtomicU64,
    /// How often tombstones and floor were begun anew: a snapshot that began before is refused.
    restarts: AtomicU64,
    /// What only the tail touches: its place in the log.
    place: Mutex<tail::Place>,
}

/// Tombstones kept before the oldest are pruned into the floor.
pub const MAX_TOMBSTONES: usize = 100_000;

impl Fence {
    /// A fence at the start of an instance: not fresh until a tail was absorbed.
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
            restarts: AtomicU64::new(0),
            place: Mutex::new(tail::Place::new(start.mark)),
        }
    }

    /// Reads `(F, applied)`: the first step of every verification (I4).
    pub fn snapshot(&self) -> Snapshot<'_> {
        let life = self.restarts.load(Ordering::SeqCst);
        Snapshot::new(self, life, **self.published.load())
    }

    /// How old freshness is allowed to become.
    pub fn max_staleness(&self) -> Duration {
        self.max_staleness
    }

    /// The epoch of the last page that was taken in.
    pub fn epoch(&self) -> Epoch {
        self.published.load().epoch
    }

    /// The revision up to which this instance has applied the log.
    pub fn applied(&self) -> u64 {
        self.published.load().applied
    }

    /// Entries below this revision are refused.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }

    /// How many tombstones are kept.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// How old freshness is; `None` when there is none.
    pub fn freshness_age(&self, now: Now) -> Option<Duration> {
        self.published.load().fresh.map(|fresh| now.age(fresh))
    }

    /// Whether anything can be admitted at `now`.
    pub fn is_fresh(&self, now: Now) -> bool {
        self.snapshot().is_fresh(now)
    }

    /// Gives up freshness: nothing is admitted until a later tail was absorbed.
    pub fn stop_being_fresh(&self) {
        let _place = self.place.lock();
        self.lose_freshness();
    }

    fn lose_freshness(&self) {
        self.publish(|published| published.fresh = None);
    }

    /// Publishes a new state; whoever calls it holds `place`, so no two changes cross.
    fn publish(&self, change: impl Fn(&mut Published)) {
        let mut published = **self.published.load();
        change(&mut published);
        self.published.store(std::sync::Arc::new(published));
    }

    /// Raises the floor. I8: it never falls, and rises before a tombstone goes.
    fn raise_floor(&self, to: u64) {
        self.floor.fetch_max(to, Ordering::SeqCst);
    }
}
