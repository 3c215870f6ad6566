//! How the fence applies the log: it checks a page, records its changes as tombstones, and moves
//! `applied` and freshness. It also starts, jumps, restarts and prunes.
//!
//! Upholds I1, I6 and I8, and checks I3 on each page.

use std::sync::atomic::Ordering;

use crate::key::{BootTime, KeyId, Timestamp};

use super::{Epoch, Fence, Now};

/// The most rows that a page applies. An instance that is further behind jumps to the head.
pub const MAX_ROWS: usize = 10_000;

/// Random bytes of each log row. They distinguish two logs that share revision numbers.
pub type Mark = [u8; 8];

/// One row of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its revision. I3, upheld by the triggers: revision order is commit order, without gaps.
    pub revision: u64,
    /// The mark of the row.
    pub mark: Mark,
    /// The key or token whose cached records are outdated.
    pub id: KeyId,
}

/// The point in the log at which an instance starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The epoch of the store.
    pub epoch: Epoch,
    /// No entry below this revision is admitted.
    pub floor: u64,
    /// The revision after which the first page begins.
    pub applied: u64,
    /// The mark of the log row at `applied`.
    pub mark: Mark,
    /// The store's time.
    pub database_time: Timestamp,
    /// This process's boot time before the read of the start was sent.
    pub taken_at: BootTime,
}

/// One read of the log, in one snapshot of the database.
#[derive(Clone, Debug)]
pub struct Page {
    /// The epoch of the read.
    pub epoch: Epoch,
    /// The last revision of the log.
    pub head: u64,
    /// The mark of the row at `head`.
    pub head_mark: Mark,
    /// The revision below which the log was trimmed. The row at it is kept.
    pub pruned_to: u64,
    /// The mark of the row at the `applied` of the request; `None` if there is no such row.
    pub mark_at_applied: Option<Mark>,
    /// The store's time.
    pub database_time: Timestamp,
    /// The rows after the `applied` of the request, in order, at most [`MAX_ROWS`] and one more.
    pub rows: Vec<Change>,
}

/// How a page was absorbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absorbed {
    /// All rows were applied.
    Applied,
    /// The instance was too far behind: it jumped to the head and starts cold.
    Jumped,
}

/// Why a page was refused. The instance is not fresh afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The row at `applied` is missing or has another mark: the log may have lost committed
    /// changes.
    #[error(
        "the log lost changes: revision {applied} is not the change that this instance applied (the head is {head}); check whether the database was restored or failed over"
    )]
    LogLost {
        /// The revision up to which this instance has applied the log.
        applied: u64,
        /// The head of the log.
        head: u64,
    },
    /// The rows after `applied` were trimmed: the instance must start again.
    #[error(
        "the log was trimmed up to revision {pruned_to}, but this instance has applied it only up to {applied}"
    )]
    Trimmed {
        /// The revision up to which this instance has applied the log.
        applied: u64,
        /// The revision below which the log was trimmed.
        pruned_to: u64,
    },
    /// A revision is missing between the rows: the log is damaged.
    #[error("the log has a gap after revision {after}")]
    Gap {
        /// The last revision before the gap.
        after: u64,
    },
}

/// The tail's position in the log, in addition to `applied`.
#[derive(Debug)]
pub(super) struct LogPosition {
    /// The mark of the row at `applied`.
    mark: Mark,
    /// Set when the log was found to have lost changes, with the incarnation of that page. Only a
    /// restart clears it.
    lost: Option<(Refused, u64)>,
}

impl LogPosition {
    pub(super) fn new(mark: Mark) -> Self {
        Self { mark, lost: None }
    }
}

impl Fence {
    /// Absorbs the page of a heartbeat, which gives freshness as of `t0`.
    ///
    /// The heartbeat carried the current `applied`. I1: `t0` was read before it was sent. I5: its
    /// commit was answered.
    pub fn absorb(&self, t0: Now, page: &Page) -> Result<Absorbed, Refused> {
        self.apply(t0, page, true)
    }

    /// Absorbs a page that was read without a heartbeat. It moves `applied`, but gives no freshness.
    pub fn absorb_read(&self, t0: Now, page: &Page) -> Result<Absorbed, Refused> {
        self.apply(t0, page, false)
    }

    fn apply(&self, t0: Now, page: &Page, is_heartbeat: bool) -> Result<Absorbed, Refused> {
        let mut position = self.position.lock();
        if let Some((lost, _)) = position.lost {
            return Err(lost);
        }
        let applied = self.applied();
        self.enter_epoch(page.epoch);
        if let Err(refused) = check_position(&position, applied, page) {
            self.lose_freshness();
            if matches!(refused, Refused::LogLost { .. }) {
                position.lost = Some((refused, page.epoch.incarnation));
            }
            return Err(refused);
        }
        let jumped = page.rows.len() > MAX_ROWS;
        if jumped {
            // Cold but correct: the floor refuses every entry from before the head. I8: it rises
            // before the tombstones are removed.
            self.raise_floor(page.head);
            self.tombstones.clear_up_to(page.head);
        } else {
            if let Err(refused) = check_gaps(applied, page) {
                self.lose_freshness();
                return Err(refused);
            }
            for row in &page.rows {
                self.tombstones.set(row.id, row.revision);
            }
        }
        position.mark = page.head_mark;
        // I1, I6: the tombstones are set before `applied` moves, and `applied` is the head of the
        // snapshot that `t0` precedes. One store publishes both.
        self.publish(|published| {
            published.database_time = page.database_time.max(published.database_time_at(t0.boot));
            published.anchor = t0.boot;
            published.applied = page.head;
            if is_heartbeat {
                published.fresh = Some(t0);
            }
        });
        self.prune();
        Ok(if jumped {
            Absorbed::Jumped
        } else {
            Absorbed::Applied
        })
    }

    /// Whether an operator has accepted the log since it was found to have lost changes: `epoch` has
    /// a higher incarnation. Then the fence may restart.
    pub fn may_restart(&self, epoch: Epoch) -> bool {
        let lost = self.position.lock().lost;
        lost.is_some_and(|(_, incarnation)| epoch.incarnation > incarnation)
    }

    /// Restarts at `start` after a refusal. The floor keeps older entries from being admitted. The
    /// fence is not fresh until it has absorbed a heartbeat's page.
    ///
    /// If the log lost changes, the revisions of tombstones and floor now belong to other changes.
    /// Both are then reset, and snapshots from before admit nothing.
    pub fn restart(&self, start: Start) {
        let mut position = self.position.lock();
        if position.lost.is_some() {
            self.lose_freshness();
            self.restarts.fetch_add(1, Ordering::SeqCst);
            self.tombstones.clear();
            // I8: the floor may fall only here, where `restarts` invalidates every older snapshot.
            self.floor.store(start.floor, Ordering::SeqCst);
        }
        self.raise_floor(start.floor);
        self.publish(|published| {
            published.fresh = None;
            published.epoch = start.epoch;
            published.applied = start.applied;
            published.database_time = start
                .database_time
                .max(published.database_time_at(start.taken_at));
            published.anchor = start.taken_at;
        });
        *position = LogPosition::new(start.mark);
    }

    /// A new epoch ends freshness, and entries of the old epoch are no longer admitted. `applied`,
    /// its mark and the tombstones stay: the mark is still to be compared.
    fn enter_epoch(&self, epoch: Epoch) {
        if self.published.load().epoch != epoch {
            self.publish(|published| {
                published.fresh = None;
                published.epoch = epoch;
            });
        }
    }

    /// Prunes the oldest tombstones. I8: the floor rises first.
    fn prune(&self) {
        while self.tombstones.len() > self.max_tombstones {
            let Some((id, revision)) = self.tombstones.oldest() else {
                return;
            };
            self.raise_floor(revision);
            self.tombstones.remove(id, revision);
        }
    }
}

fn check_position(position: &LogPosition, applied: u64, page: &Page) -> Result<(), Refused> {
    if page.head < applied {
        return Err(Refused::LogLost {
            applied,
            head: page.head,
        });
    }
    // The row at `pruned_to` is kept. Below it there is no mark to compare.
    if applied < page.pruned_to {
        return Err(Refused::Trimmed {
            applied,
            pruned_to: page.pruned_to,
        });
    }
    if page.mark_at_applied != Some(position.mark) {
        return Err(Refused::LogLost {
            applied,
            head: page.head,
        });
    }
    Ok(())
}

/// I3: the rows lead from `applied` to the head, without a gap.
fn check_gaps(applied: u64, page: &Page) -> Result<(), Refused> {
    let mut last = applied;
    for row in &page.rows {
        if row.revision != last + 1 {
            return Err(Refused::Gap { after: last });
        }
        last = row.revision;
    }
    if last != page.head {
        return Err(Refused::Gap { after: last });
    }
    Ok(())
}
