//! How the fence applies the log: it checks a page, records its changes as tombstones, and moves
//! `applied` and freshness. It also starts, jumps, restarts and prunes.
//!
//! An instance that is behind reads page after page. It becomes fresh only when its pages have reached
//! the head that a heartbeat has seen.
//!
//! Upholds I1, I6 and I8, and checks I3 on each page.

use crate::key::{BootTime, KeyId, Timestamp};
use crate::sync::Ordering;

use super::{Epoch, Fence, Now};

/// The most rows in a page.
pub const MAX_ROWS: usize = 10_000;

/// An instance that is further behind than this jumps to the head.
pub const MAX_BEHIND: u64 = 100_000;

/// How far before the head a new instance starts on a shared store, so that it learns which entries of
/// a shared cache are outdated, and uses the others. Less than [`MAX_BEHIND`], because the log grows
/// while the instance reads it.
pub const START_BEHIND: u64 = 90_000;

/// Random bytes of each log row. They distinguish two logs that share revision numbers.
pub type Mark = [u8; 8];

/// A row of the log up to which an instance has applied or acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its revision.
    pub revision: u64,
    /// Its mark. A revision without its mark can belong to another log.
    pub mark: Mark,
}

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
    /// The first rows after the `applied` of the request, in order, at most [`MAX_ROWS`].
    pub rows: Vec<Change>,
}

impl Page {
    /// The start at the head of this page, which was requested at `taken_at`. Nothing from before it is
    /// admitted.
    pub fn start_at_head(&self, taken_at: BootTime) -> Start {
        Start {
            epoch: self.epoch,
            floor: self.head,
            applied: self.head,
            mark: self.head_mark,
            database_time: self.database_time,
            taken_at,
        }
    }
}

/// How a page was absorbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absorbed {
    /// The page reached the head.
    Applied,
    /// The page was applied, but it ends before the head: read the next one.
    Behind,
    /// The instance was too far behind: it jumped to the head and starts cold.
    Jumped,
    /// A read in another epoch than the fence's. Nothing was applied: a heartbeat must compare the mark
    /// first.
    OtherEpoch,
}

/// Why a page was refused. The instance is not fresh afterwards. After [`Refused::LogLost`] and
/// [`Refused::Gap`] the fence refuses every page until an operator has advanced the epoch.
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
    #[error(
        "the log has a gap after revision {after}; check whether rows of key_changes were deleted"
    )]
    Gap {
        /// The last revision before the gap.
        after: u64,
    },
}

/// What only the tail uses, in addition to `applied`.
#[derive(Debug)]
pub(super) struct TailState {
    /// The mark of the row at `applied`.
    pub(super) mark: Mark,
    /// A heartbeat whose rows did not reach its head: that head, and its `t0`.
    ahead: Option<(u64, Now)>,
    /// Set when the log was refused, with the incarnation of that page. Only a restart clears it.
    refused: Option<(Refused, u64)>,
}

impl TailState {
    pub(super) fn new(mark: Mark) -> Self {
        Self {
            mark,
            ahead: None,
            refused: None,
        }
    }

    /// Freshness has ended, so no earlier heartbeat may restore it.
    pub(super) fn lose_heartbeat(&mut self) {
        self.ahead = None;
    }
}

impl Fence {
    /// Absorbs the page of a heartbeat. If it reaches its head, it gives freshness as of `t0`;
    /// otherwise the pages that reach this head do so.
    ///
    /// The heartbeat carried the current `applied`. I1: `t0` was read before it was sent. I5: its
    /// commit was answered.
    pub fn absorb(&self, t0: Now, page: &Page) -> Result<Absorbed, Refused> {
        self.apply(t0, page, true)
    }

    /// Absorbs a page that was read without a heartbeat. It moves `applied`. It gives no freshness of its
    /// own, because a replaced primary still answers reads.
    pub fn absorb_read(&self, t0: Now, page: &Page) -> Result<Absorbed, Refused> {
        self.apply(t0, page, false)
    }

    fn apply(&self, t0: Now, page: &Page, is_heartbeat: bool) -> Result<Absorbed, Refused> {
        let mut tail = self.tail.lock();
        if let Some((refused, _)) = tail.refused {
            return Err(refused);
        }
        let (epoch, applied) = (self.epoch(), self.applied());
        if page.epoch != epoch {
            if !is_heartbeat {
                return Ok(Absorbed::OtherEpoch);
            }
            self.lose_freshness(&mut tail);
        }
        let is_far_behind = page.head.saturating_sub(applied) > MAX_BEHIND;
        let checked = check_mark(tail.mark, applied, page);
        let checked = checked.and_then(|()| match is_far_behind {
            true => Ok(()),
            false => check_gaps(applied, page),
        });
        if let Err(refused) = checked {
            self.lose_freshness(&mut tail);
            if !matches!(refused, Refused::Trimmed { .. }) {
                tail.refused = Some((refused, page.epoch.incarnation));
            }
            return Err(refused);
        }
        let end = if is_far_behind {
            self.jump(page)
        } else {
            self.set_tombstones(
                page,
                Position {
                    revision: applied,
                    mark: tail.mark,
                },
            )
        };
        let heartbeat = is_heartbeat.then_some(t0);
        let fresh = reached(&mut tail.ahead, page.head, heartbeat, end.revision);
        tail.mark = end.mark;
        // I1, I6: the tombstones are set before `applied` moves. One store publishes all. The epoch is
        // published with it, after the mark was compared: `applied` never counts in an epoch whose log
        // may lack it.
        self.publish(|published| {
            published.raise_time(page.database_time, t0.boot);
            published.epoch = page.epoch;
            published.applied = end.revision;
            published.fresh = fresh.or(published.fresh);
        });
        self.prune();
        Ok(match (is_far_behind, end.revision == page.head) {
            (true, _) => Absorbed::Jumped,
            (false, true) => Absorbed::Applied,
            (false, false) => Absorbed::Behind,
        })
    }

    /// Jumps to the head: cold but correct, because the floor refuses every entry from before it. I8: the
    /// floor rises before the tombstones are removed.
    fn jump(&self, page: &Page) -> Position {
        self.raise_floor(page.head);
        self.tombstones.clear_up_to(page.head);
        Position {
            revision: page.head,
            mark: page.head_mark,
        }
    }

    /// Sets the tombstones of a page, and returns its end. `start` is the end of a page without rows.
    fn set_tombstones(&self, page: &Page, start: Position) -> Position {
        self.raise_newest(page.rows.last().map_or(0, |last| last.revision));
        for row in &page.rows {
            self.tombstones.set(row.id, row.revision);
        }
        page.rows.last().map_or(start, |last| Position {
            revision: last.revision,
            mark: last.mark,
        })
    }

    /// Whether the log was refused. Then the instance must not be registered.
    pub fn has_refused(&self) -> bool {
        self.tail.lock().refused.is_some()
    }

    /// Whether an operator has accepted the log since it was refused: `epoch` has a higher incarnation.
    /// Then the fence may restart.
    pub fn may_restart(&self, epoch: Epoch) -> bool {
        let refused = self.tail.lock().refused;
        refused.is_some_and(|(_, incarnation)| epoch.incarnation > incarnation)
    }

    /// Restarts at `start` after a refusal. The floor keeps older entries from being admitted. The
    /// fence is not fresh until it has absorbed a heartbeat's page.
    ///
    /// If the log was refused, the revisions of tombstones and floor may belong to other changes now.
    /// Both are then reset, and snapshots from before admit nothing.
    pub fn restart(&self, start: Start) {
        let mut tail = self.tail.lock();
        if tail.refused.is_some() {
            self.lose_freshness(&mut tail);
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
            published.raise_time(start.database_time, start.taken_at);
        });
        *tail = TailState::new(start.mark);
    }

    /// Prunes the oldest tombstones. I8: the floor rises first.
    pub(super) fn prune(&self) {
        while self.tombstones.len() > self.max_tombstones {
            let Some((id, revision)) = self.tombstones.oldest() else {
                return;
            };
            self.raise_floor(revision);
            self.tombstones.remove(id, revision);
        }
    }
}

/// The freshness that a page gives, which ends at `applied`. `heartbeat` is the `t0` of a heartbeat;
/// `ahead` is an earlier heartbeat whose head was not reached, and its head.
///
/// I1: all changes that were visible at the `t0` of a heartbeat are at most its head. So its `t0` counts
/// once the rows up to that head are applied, by its own page or by later ones.
pub fn reached(
    ahead: &mut Option<(u64, Now)>,
    head: u64,
    heartbeat: Option<Now>,
    applied: u64,
) -> Option<Now> {
    if let Some(t0) = heartbeat {
        if applied == head {
            *ahead = None;
            return Some(t0);
        }
        // An earlier heartbeat is reached earlier.
        ahead.get_or_insert((head, t0));
    }
    let (_, t0) = ahead.take_if(|(head, _)| applied >= *head)?;
    Some(t0)
}

/// The row at `applied` must have the mark that this instance has applied.
pub fn check_mark(mark: Mark, applied: u64, page: &Page) -> Result<(), Refused> {
    let lost = Refused::LogLost {
        applied,
        head: page.head,
    };
    if page.head < applied {
        return Err(lost);
    }
    // The row at `pruned_to` is kept. Below it there is no mark to compare.
    if applied < page.pruned_to {
        return Err(Refused::Trimmed {
            applied,
            pruned_to: page.pruned_to,
        });
    }
    if page.mark_at_applied != Some(mark) {
        return Err(lost);
    }
    Ok(())
}

/// I3: the rows follow `applied` without a gap. Without rows, the instance is at the head.
fn check_gaps(applied: u64, page: &Page) -> Result<(), Refused> {
    let mut last = applied;
    for row in &page.rows {
        if row.revision != last + 1 {
            return Err(Refused::Gap { after: last });
        }
        last = row.revision;
    }
    if page.rows.is_empty() && applied != page.head {
        return Err(Refused::Gap { after: last });
    }
    Ok(())
}
