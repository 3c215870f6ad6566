//! The memory of one instance beside a shared cache: pages of the log, tombstones, floor, pruning, a jump,
//! a start, new stamps, and single flight with two verifications.
//!
//! - One key is tracked: it is updated once and revoked once. Other changes only take revisions.
//! - A verification, a page and pruning are steps that can cross. A registration is not modelled: Revoke
//!   waits for this instance alone.
//! - Each copy of the record is judged alone, nobody's write to the shared cache is refused, and it outlives
//!   a restart. So one copy, which anybody fills from a read of the live key and which an admission may stamp
//!   again, stands for all. The newest is the worst, because admission grows with the revision.
//! - `admits`, `check_mark` and `reached` are the core's.

mod tail;
mod verify;

use keyward_core::fence::Mark;

use crate::rules::{Properties, Rule};
use crate::search::{Model, Steps};
use crate::time::{NEVER, grow};

/// A run with `N` verifications at a time.
pub(crate) struct Memory<const N: usize> {
    pub(crate) without: Vec<Rule>,
    /// `max_staleness` in ticks.
    pub(crate) bound: u8,
    /// The most revisions.
    pub(crate) revisions: u8,
    pub(crate) updates: bool,
    pub(crate) restarts: bool,
    pub(crate) trims: bool,
    pub(crate) prunes: bool,
    pub(crate) jumps: bool,
    /// The most rows of a page; 0 if a page has all rows.
    pub(crate) page_rows: u8,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum PageStage {
    #[default]
    None,
    Sent,
    Committed,
    Answered,
    /// The tombstones and the floor are set.
    Tombstones,
    /// `applied` is set.
    Applied,
    /// The heartbeat's head is not reached: the next page is due.
    Behind,
}

/// A heartbeat and the reads that follow it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Reading {
    stage: PageStage,
    /// Since the heartbeat was sent.
    age: u8,
    /// The tracked key's last change in the page; 0 for none.
    change: u8,
    /// The last revision of the page.
    end: u8,
    head: u8,
    /// The head of the heartbeat that pages still have to reach; 0 for none.
    ahead: u8,
    jumps: bool,
    /// Only without a rule: `trimmed_to` from before the page was read.
    trimmed_to: u8,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum VerifyStage {
    #[default]
    None,
    Started,
    /// F and `applied` are read, and F was fresh.
    Fresh,
    /// A read of the store was sent.
    ReadSent,
    /// That read has taken its snapshot.
    ReadDone,
    /// Waits for the read of the first verification.
    Joined,
    /// It has the entry.
    Entry,
    /// It has read the tombstone, or the floor without a rule.
    Half,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Verify {
    stage: VerifyStage,
    /// Whether it started after Revoke returned, and after the bound.
    after_return: bool,
    after_bound: bool,
    applied: u8,
    revision: u8,
    /// The tombstone, or the floor without a rule.
    first_read: u8,
    is_from_cache: bool,
    leads: bool,
}

#[derive(Clone, Copy, Hash)]
pub(crate) struct State<const N: usize> {
    head: u8,
    revoked_at: u8,
    updated_at: u8,
    since_commit: u8,
    has_returned: bool,
    has_acknowledged: bool,
    has_restarted: bool,
    trimmed_to: u8,
    is_up: bool,
    fresh: u8,
    applied: u8,
    tombstone: u8,
    floor: u8,
    /// The revision of the copy.
    copy: Option<u8>,
    reading: Reading,
    /// The tombstone that is being pruned; 0 for none.
    pruning: u8,
    verify: [Verify; N],
    broken: (bool, bool),
}

const MARK: Mark = [1; 8];

impl<const N: usize> Memory<N> {
    fn keeps(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }

    fn fresh_if_young(&self, age: u8) -> u8 {
        if age <= self.bound { age } else { NEVER }
    }

    /// The store and the log.
    fn store(&self, steps: &mut Steps<State<N>>) {
        let now = steps.now;
        if now.head < self.revisions {
            steps.add("another key changes", |next| next.head += 1);
            if now.revoked_at == 0 {
                steps.add("Revoke commits", |next| {
                    next.head += 1;
                    (next.revoked_at, next.since_commit) = (next.head, 0);
                });
            }
            if self.updates && now.revoked_at == 0 && now.updated_at == 0 {
                steps.add("Update commits", |next| {
                    next.head += 1;
                    next.updated_at = next.head;
                });
            }
        }
        let is_over = now.since_commit != NEVER && now.since_commit > self.bound;
        let may_return = now.has_acknowledged || now.has_restarted || is_over;
        if now.revoked_at != 0 && !now.has_returned && may_return {
            steps.add("Revoke returns", |next| {
                next.has_returned = true;
                (next.has_acknowledged, next.has_restarted) = (false, false);
            });
        }
        if self.trims && now.trimmed_to < now.head {
            steps.add("a row is trimmed from the log", |next| next.trimmed_to += 1);
        }
        if now.revoked_at == 0 && now.copy != Some(now.head) {
            steps.add("a read of the live key becomes a copy", |next| {
                next.copy = Some(now.head)
            });
        }
    }

    /// Pruning of the tombstones in memory.
    fn prune(&self, steps: &mut Steps<State<N>>) {
        let now = steps.now;
        let floor_first = self.keeps(Rule::FloorRisesFirst);
        if now.pruning == 0 && now.tombstone != 0 {
            steps.add("pruning raises the floor", |next| {
                next.pruning = now.tombstone;
                if !floor_first {
                    next.tombstone = 0;
                } else if self.keeps(Rule::PruneRaisesTheFloor) {
                    next.floor = next.floor.max(now.tombstone);
                }
            });
        } else if now.pruning != 0 {
            steps.add("pruning removes the tombstone", |next| {
                next.pruning = 0;
                if !floor_first {
                    next.floor = next.floor.max(now.pruning);
                } else if now.tombstone == now.pruning || !self.keeps(Rule::PruneByKeyAndRevision) {
                    next.tombstone = 0;
                }
            });
        }
    }
}

impl<const N: usize> Model for Memory<N> {
    type State = State<N>;

    fn start(&self) -> State<N> {
        State {
            head: 0,
            revoked_at: 0,
            updated_at: 0,
            since_commit: NEVER,
            has_returned: false,
            has_acknowledged: false,
            has_restarted: false,
            trimmed_to: 0,
            is_up: false,
            fresh: NEVER,
            applied: 0,
            tombstone: 0,
            floor: 0,
            copy: None,
            reading: Reading::default(),
            pruning: 0,
            verify: [Verify::default(); N],
            broken: (false, false),
        }
    }

    fn broken(&self, state: &State<N>) -> Properties {
        let claims_too_much =
            state.revoked_at != 0 && state.copy.is_some_and(|copy| copy >= state.revoked_at);
        Properties::I2
            .when(claims_too_much)
            .with(Properties::P1.when(state.broken.0))
            .with(Properties::P2.when(state.broken.1))
    }

    fn steps(&self, steps: &mut Steps<State<N>>) {
        steps.add("a tick passes", |next| {
            let most = self.bound + 1;
            grow(&mut next.since_commit, most);
            grow(&mut next.fresh, most);
            next.fresh = self.fresh_if_young(next.fresh);
            if next.reading.stage != PageStage::None {
                grow(&mut next.reading.age, most);
            }
        });
        self.store(steps);
        self.tail(steps);
        if self.prunes {
            self.prune(steps);
        }
        if self.restarts && steps.now.is_up {
            steps.add("the instance restarts", |next| self.restart(next));
        }
        for (i, actor) in (0..N).zip(0..) {
            steps.actor = actor;
            self.verify(steps, i);
        }
    }
}
