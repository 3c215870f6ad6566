//! The fence of a near-cache: a cache in a caller's process, which an instance keeps fresh. It polls its
//! instance, and the answer tells it the changes since its last poll and for how long they keep it fresh.
//!
//! It is a [`Fence`] like that of an instance, with one difference: nobody but its instance knows when the
//! answer's knowledge was complete. So the answer says how long after the *sending* of its poll the near-cache
//! is fresh, and the fence keeps that end, with a `max_staleness` of 0.
//!
//! Upholds I1, I4 and I8 in a near-cache.

use std::time::Duration;

use super::apply::Start;
use super::{Epoch, Fence, MAX_TOMBSTONES, Now};
use crate::key::{BootTime, Clock, KeyId, Timestamp};

/// The most changes in one answer. A near-cache that missed more starts cold.
pub const MAX_CHANGES: usize = 10_000;

/// What an instance tells a near-cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearAnswer {
    /// The epoch of all numbers.
    pub epoch: Epoch,
    /// The revision up to which the instance has applied the log.
    pub applied: u64,
    /// For how long after the sending of the poll the near-cache is fresh; `None` if the instance cannot
    /// make it fresh.
    pub fresh_for: Option<Duration>,
    /// The store's time.
    pub database_time: Timestamp,
    /// The changes since the revision that the poll acknowledged; `None`: all that the near-cache holds
    /// from before `applied` is outdated.
    pub changes: Option<Vec<(KeyId, u64)>>,
}

impl Fence {
    /// The fence of a near-cache that knows nothing. It is not fresh until it has taken an answer.
    pub fn near(epoch: Epoch) -> Self {
        let start = Start {
            epoch,
            floor: 0,
            applied: 0,
            mark: [0; 8],
            database_time: Timestamp::from_micros(0),
            taken_at: BootTime::from_micros(0),
        };
        Self::new(Duration::ZERO, MAX_TOMBSTONES, start)
    }

    /// The answer to a poll of a near-cache that has applied the log of an epoch up to a revision. `fresh_for`
    /// is the longest time for which it keeps a near-cache fresh; `None` for a process that gives no more
    /// freshness. Returns `None` if nothing can be said now.
    ///
    /// The order matters: epoch, `F` and `applied` as one value, then the changes, then the floor, then the
    /// epoch again.
    pub fn answer(
        &self,
        (known, applied): (Epoch, u64),
        fresh_for: Option<Duration>,
        clock: &dyn Clock,
    ) -> Option<NearAnswer> {
        if self.has_refused() {
            return None;
        }
        let snapshot = self.snapshot();
        let now = Now::read(clock);
        let (epoch, own_applied) = snapshot.position();
        let age = snapshot.age(now).filter(|_| snapshot.is_fresh(now));
        // A change whose tombstone is above `applied` stands for an earlier one of the same key, so it is
        // not left out.
        let changes = self.tombstones.after(applied, MAX_CHANGES);
        // What it applied of another log says nothing about this one.
        let changes = changes.filter(|_| known == epoch && self.floor() <= applied);
        if snapshot.fence_has_restarted() || self.epoch() != epoch {
            return None;
        }
        Some(NearAnswer {
            epoch,
            applied: own_applied,
            fresh_for: age.and_then(|age| fresh_for?.checked_sub(age)),
            database_time: snapshot.database_time(now.boot),
            changes,
        })
    }

    /// Takes an answer to the poll that was sent at `sent_at`. Returns whether it is about the log that this
    /// fence knows. If not, nothing was taken: install a new fence.
    pub fn take(&self, sent_at: Now, answer: &NearAnswer) -> bool {
        let _tail = self.tail.lock();
        if answer.epoch != self.epoch() {
            return false;
        }
        match &answer.changes {
            None => {
                self.raise_floor(answer.applied);
                self.tombstones.clear_up_to(answer.applied);
            }
            Some(changes) => {
                self.raise_newest(changes.iter().map(|(_, at)| *at).max().unwrap_or(0));
                for (id, revision) in changes {
                    self.tombstones.set(*id, *revision);
                }
            }
        }
        // I1, I6: the tombstones are set before `applied` moves, which the next poll acknowledges.
        self.publish(|published| {
            published.applied = published.applied.max(answer.applied);
            let end = answer.fresh_for.map(|fresh_for| sent_at.plus(fresh_for));
            published.fresh = match (published.fresh, end) {
                (Some(one), Some(other)) => Some(one.later(other)),
                (one, other) => one.or(other),
            };
            published.raise_time(answer.database_time, sent_at.boot);
        });
        self.prune();
        true
    }

    /// The epoch and the revision up to which its log is applied.
    pub fn known(&self) -> (Epoch, u64) {
        self.snapshot().position()
    }

    /// For how long a near-cache is fresh without news; `None` if it is not.
    pub fn fresh_for(&self, now: Now) -> Option<Duration> {
        let end = self.published.load().fresh?;
        let left = end.boot.since(now.boot).min(end.wall.since(now.wall));
        self.is_fresh(now).then_some(left)
    }

    /// Notes that the store's time was at least `database_time` some time after `sent_at`.
    pub fn note_time(&self, database_time: Timestamp, sent_at: BootTime) {
        let _tail = self.tail.lock();
        self.publish(|published| published.raise_time(database_time, sent_at));
    }
}
