//! How the fence takes in the log: start, apply, jump, refuse, prune.

use std::sync::atomic::Ordering;

use crate::key::{BootTime, KeyId, Timestamp};

use super::{Epoch, Fence, Now};

/// A tail that is behind by more rows than this reads the head alone and starts cold.
pub const MAX_ROWS: usize = 10_000;

/// Random bytes of each log row: tell a log from another log with the same numbers.
pub type Mark = [u8; 8];

/// One row of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place: revision order is commit order, without gaps (I3, upheld by the triggers).
    pub revision: u64,
    /// Its mark.
    pub mark: Mark,
    /// The key or token whose cached record became wrong.
    pub id: KeyId,
}

/// Where an instance begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The epoch of the store.
    pub epoch: Epoch,
    /// Entries older than this are refused.
    pub floor: u64,
    /// The revision after which the first tail reads.
    pub applied: u64,
    /// The mark of the log row at `applied`.
    pub mark: Mark,
    /// The database's time.
    pub database_time: Timestamp,
    /// This process's boot clock when the read of the start was sent.
    pub taken_at: BootTime,
}

/// What one tail statement read, in one snapshot.
#[derive(Clone, Debug)]
pub struct Page {
    /// The epoch in which it was read.
    pub epoch: Epoch,
    /// The last revision of the log.
    pub head: u64,
    /// The mark of the row at `head`.
    pub head_mark: Mark,
    /// Up to where the log was trimmed; the row at it is kept.
    pub pruned_to: u64,
    /// The mark of the row at the revision that was asked after; `None` when there is no such row.
    pub mark_at_applied: Option<Mark>,
    /// The database's time.
    pub database_time: Timestamp,
    /// The rows after the revision that was asked after, in order, at most [`MAX_ROWS`] and one.
    pub rows: Vec<Change>,
}

/// What a page led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absorbed {
    /// All is applied, and the instance is fresh as of the time the read was sent.
    Fresh,
    /// The instance was too far behind and started cold at the head; fresh as well.
    Jumped,
}

/// Why a page was refused. The instance is not fresh then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The row this instance stands at is gone or is another one: changes that were answered may
    /// be lost.
    #[error(
        "the log lost its tail: revision {applied} is not the change this instance applied (the head is {head}); was the database restored or failed over?"
    )]
    LogLost {
        /// Where this instance stands.
        applied: u64,
        /// The head of the log it found.
        head: u64,
    },
    /// The rows after `applied` were trimmed: start anew.
    #[error("the log was trimmed up to {pruned_to}, this instance stands at {applied}")]
    Trimmed {
        /// Where this instance stands.
        applied: u64,
        /// Up to where the log was trimmed.
        pruned_to: u64,
    },
    /// The rows do not follow each other without a gap: the log is damaged.
    #[error("the log has a gap after revision {after}")]
    Gap {
        /// The last revision before the gap.
        after: u64,
    },
}

/// The tail's place in the log, beside `applied`.
#[derive(Debug)]
pub(super) struct Place {
    /// The mark of the row at `applied`.
    mark: Mark,
    /// Set when the log was found to have lost its tail, with the incarnation in which that was:
    /// only a new start clears it.
    lost: Option<(Refused, u64)>,
}

impl Place {
    pub(super) fn new(mark: Mark) -> Self {
        Self { mark, lost: None }
    }
}

impl Fence {
    /// Takes in the page of a heartbeat that was asked for at `t0` (both clocks, read before the heartbeat
    /// was sent) with the present `applied`, and whose commit was answered (I5).
    pub fn absorb(&self, t0: Now, page: &Page) -> Result<Absorbed, Refused> {
        self.take_in(t0, page, true)
    }

    /// Takes in a page that was merely read, at a hint: it advances `applied`, never freshness.
    pub fn absorb_hint(&self, t0: Now, page: &Page) -> Result<Absorbed, Refused> {
        self.take_in(t0, page, false)
    }

    fn take_in(&self, t0: Now, page: &Page, proven: bool) -> Result<Absorbed, Refused> {
        let mut place = self.place.lock();
        if let Some((lost, _)) = place.lost {
            return Err(lost);
        }
        let applied = self.applied();
        self.enter_epoch(page.epoch);
        if let Err(refused) = check_place(&place, applied, page) {
            self.lose_freshness();
            if matches!(refused, Refused::LogLost { .. }) {
                place.lost = Some((refused, page.epoch.incarnation));
            }
            return Err(refused);
        }
        let jumped = page.rows.len() > MAX_ROWS;
        if jumped {
            // Cold but right: whatever was cached before the head is read again.
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
        place.mark = page.head_mark;
        // I1, I6: the tombstones stand before `applied` moves, and `applied` is the head of the
        // very snapshot that `t0` precedes. One store publishes both.
        self.publish(|published| {
            published.database_time = page.database_time.max(published.database_time_at(t0.boot));
            published.anchor = t0.boot;
            published.applied = page.head;
            if proven {
                published.fresh = Some(t0);
            }
        });
        self.prune();
        Ok(if jumped {
            Absorbed::Jumped
        } else {
            Absorbed::Fresh
        })
    }

    /// Whether an operator has decided, since the log was found to have lost its tail, that it
    /// goes on as it stands (`epoch`): then a new start is in order.
    pub fn may_restart(&self, epoch: Epoch) -> bool {
        let lost = self.place.lock().lost;
        lost.is_some_and(|(_, incarnation)| epoch.incarnation > incarnation)
    }

    /// Begins anew at `start`, after a refusal. The floor keeps entries of before from being
    /// admitted; not fresh until a page was absorbed. After a lost tail, tombstones and floor
    /// would speak of revisions that now mean other changes: they begin anew, too, and whatever
    /// snapshot was taken before is refused.
    pub fn restart(&self, start: Start) {
        let mut place = self.place.lock();
        if place.lost.is_some() {
            self.lose_freshness();
            self.restarts.fetch_add(1, Ordering::SeqCst);
            self.tombstones.clear();
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
        *place = Place::new(start.mark);
    }

    /// A new epoch turns freshness off; entries of the old one are no longer admitted. `applied`,
    /// its mark and the tombstones stay until the mark was compared.
    fn enter_epoch(&self, epoch: Epoch) {
        if self.published.load().epoch != epoch {
            self.publish(|published| {
                published.fresh = None;
                published.epoch = epoch;
            });
        }
    }

    /// Prunes the oldest tombstones into the floor. I8: the floor rises first.
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

fn check_place(place: &Place, applied: u64, page: &Page) -> Result<(), Refused> {
    if page.head < applied {
        return Err(Refused::LogLost {
            applied,
            head: page.head,
        });
    }
    // The row at `pruned_to` itself is kept; below it there is nothing to compare with.
    if applied < page.pruned_to {
        return Err(Refused::Trimmed {
            applied,
            pruned_to: page.pruned_to,
        });
    }
    if page.mark_at_applied != Some(place.mark) {
        return Err(Refused::LogLost {
            applied,
            head: page.head,
        });
    }
    Ok(())
}

/// I3 as seen from here: the rows lead from `applied` to the head, one by one.
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
