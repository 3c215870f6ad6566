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

use keyward_core::fence::rules::{admits, check_mark, reached};
use keyward_core::fence::{Mark, Page, Refused, Stamp};
use keyward_core::key::Timestamp;

use crate::rules::{Properties, Rule};
use crate::search::{Model, Steps};
use crate::time::{EPOCH, NEVER, age_of, before, grow};

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

    /// The last change of the tracked key in these revisions.
    fn change_in(state: &State<N>, after: u8, end: u8) -> u8 {
        let changes = [state.revoked_at, state.updated_at].into_iter();
        changes
            .filter(|change| (after + 1..=end).contains(change))
            .max()
            .unwrap_or(0)
    }

    /// What the core says to a page that was read at `applied`.
    fn check(&self, state: &State<N>, trimmed_to: u8) -> Result<(), Refused> {
        if !self.keeps(Rule::TrimmedRowsAreNoticed) {
            return Ok(());
        }
        let page = Page {
            epoch: EPOCH,
            head: u64::from(state.head),
            head_mark: MARK,
            pruned_to: u64::from(trimmed_to),
            mark_at_applied: Some(MARK),
            database_time: Timestamp::default(),
            rows: Vec::new(),
        };
        check_mark(MARK, u64::from(state.applied), &page)
    }

    /// A start, and pages of the log.
    fn tail(&self, steps: &mut Steps<State<N>>) {
        let now = steps.now;
        let reading = now.reading;
        match reading.stage {
            PageStage::None if !now.is_up => {
                for at in now.trimmed_to..=now.head {
                    steps.add("the instance starts", |next| {
                        (next.is_up, next.applied) = (true, at);
                        if self.keeps(Rule::StartRaisesTheFloor) {
                            next.floor = at;
                        }
                    });
                }
            }
            PageStage::None => steps.add("a heartbeat is sent", |next| {
                next.reading = Reading {
                    stage: PageStage::Sent,
                    ..Reading::default()
                };
                if !self.keeps(Rule::TrimReadWithTheRows) {
                    next.reading.trimmed_to = now.trimmed_to;
                }
            }),
            PageStage::Sent => {
                steps.add("the heartbeat commits", |next| self.read_page(next, false));
                if self.jumps && now.applied < now.head {
                    steps.add("the heartbeat commits, far behind", |next| {
                        self.read_page(next, true);
                    });
                }
            }
            PageStage::Behind => {
                steps.add("the next page is read", |next| self.read_page(next, false));
            }
            PageStage::Committed => steps.add("the page is answered", |next| {
                next.reading.stage = PageStage::Answered;
                if !self.keeps(Rule::TombstonesBeforeFreshness) {
                    next.fresh = self.fresh_if_young(reading.age);
                }
                if !self.keeps(Rule::TombstonesBeforeApplied) {
                    next.applied = reading.end;
                }
            }),
            PageStage::Answered => steps.add("its tombstones are set", |next| {
                next.reading.stage = PageStage::Tombstones;
                (next.reading.change, next.reading.jumps) = (0, false);
                if !reading.jumps {
                    next.tombstone = next.tombstone.max(reading.change);
                } else if self.keeps(Rule::JumpRaisesTheFloor) {
                    next.floor = next.floor.max(reading.end);
                }
            }),
            PageStage::Tombstones => {
                steps.add("`applied` is set", |next| self.set_applied(next));
            }
            PageStage::Applied => steps.add("F is set", |next| {
                next.fresh = self.fresh_if_young(reading.age);
                next.reading = Reading::default();
            }),
        }
        if matches!(
            reading.stage,
            PageStage::Sent | PageStage::Committed | PageStage::Answered | PageStage::Behind
        ) {
            steps.add("the page is lost", |next| next.reading = Reading::default());
        }
        let is_pending = now.revoked_at != 0 && !now.has_returned && !now.has_acknowledged;
        if now.is_up && is_pending && now.applied >= now.revoked_at {
            steps.add("the instance acknowledges", |next| {
                next.has_acknowledged = true
            });
        }
    }

    fn read_page(&self, next: &mut State<N>, jumps: bool) {
        let at_sending =
            next.reading.stage == PageStage::Sent && !self.keeps(Rule::TrimReadWithTheRows);
        let trimmed_to = match at_sending {
            true => next.reading.trimmed_to,
            false => next.trimmed_to,
        };
        if self.check(next, trimmed_to).is_err() {
            // It starts again.
            self.restart(next);
            return;
        }
        // The rows that are left.
        let after = next.applied.max(next.trimmed_to);
        let end = match jumps || self.page_rows == 0 {
            true => next.head,
            false => next.head.min(after + self.page_rows),
        };
        let change = match jumps {
            true => 0,
            false => Self::change_in(next, after, end),
        };
        if next.reading.stage == PageStage::Behind && !self.keeps(Rule::PagesGiveTheHeartbeatsTime)
        {
            next.reading.age = 0;
        }
        next.reading = Reading {
            stage: PageStage::Committed,
            change,
            end,
            head: next.head,
            jumps,
            trimmed_to: 0,
            ..next.reading
        };
    }

    fn set_applied(&self, next: &mut State<N>) {
        let reading = &mut next.reading;
        next.applied = match self.keeps(Rule::AppliedEndsWithThePage) {
            true => reading.end,
            false => reading.head,
        };
        let mut ahead = match reading.ahead {
            0 => None,
            head => Some((u64::from(head), before(reading.age))),
        };
        let heartbeat = (reading.ahead == 0).then(|| before(reading.age));
        let head = u64::from(reading.head);
        let fresh = reached(&mut ahead, head, heartbeat, u64::from(next.applied));
        let waits = fresh.is_none() && self.keeps(Rule::NoFreshnessFromACutOffPage);
        if let Some(fresh) = fresh {
            reading.age = age_of(fresh);
        }
        reading.ahead = match waits {
            true => ahead.map_or(0, |(head, _)| u8::try_from(head).unwrap_or(u8::MAX)),
            false => 0,
        };
        reading.stage = match waits {
            true => PageStage::Behind,
            false => PageStage::Applied,
        };
        (reading.end, reading.head) = (0, 0);
    }

    fn restart(&self, next: &mut State<N>) {
        let fresh = self.start();
        let waits = next.revoked_at != 0 && !next.has_returned;
        *next = State {
            has_restarted: waits,
            has_acknowledged: false,
            is_up: false,
            fresh: NEVER,
            applied: 0,
            tombstone: 0,
            floor: 0,
            reading: fresh.reading,
            pruning: 0,
            verify: fresh.verify,
            ..*next
        };
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

    /// Verification `i`.
    fn verify(&self, steps: &mut Steps<State<N>>, i: usize) {
        let now = steps.now;
        let verify = now.verify[i];
        let shares_verdict = !self.keeps(Rule::FlightSharesNoVerdict);
        match verify.stage {
            // The second verification matters only beside the first one.
            VerifyStage::None
                if now.is_up && (i == 0 || now.verify[0].stage >= VerifyStage::Fresh) =>
            {
                steps.add("Verify starts", |next| {
                    next.verify[i] = Verify {
                        stage: VerifyStage::Started,
                        after_return: now.has_returned,
                        after_bound: now.since_commit != NEVER && now.since_commit > self.bound,
                        ..Verify::default()
                    };
                });
            }
            VerifyStage::Started if now.fresh == NEVER => {
                steps.add("Verify is not fresh", |next| {
                    next.verify[i] = Verify::default()
                });
            }
            VerifyStage::Started => steps.add("Verify reads F and `applied`", |next| {
                let knows_head = matches!(
                    now.reading.stage,
                    PageStage::Answered | PageStage::Tombstones
                );
                let verify = &mut next.verify[i];
                verify.stage = VerifyStage::Fresh;
                verify.applied = match !self.keeps(Rule::RestampNeverToTheHead) && knows_head {
                    true => now.reading.end,
                    false => now.applied,
                };
            }),
            VerifyStage::Fresh => {
                if let Some(revision) = now.copy {
                    steps.add("Verify finds a copy", |next| {
                        let verify = &mut next.verify[i];
                        (verify.stage, verify.revision) = (VerifyStage::Entry, revision);
                        verify.is_from_cache = true;
                    });
                }
                let leader = now.verify[0];
                if i == 0 {
                    steps.add("Verify reads the store", |next| {
                        let verify = &mut next.verify[i];
                        (verify.stage, verify.leads) = (VerifyStage::ReadSent, true);
                    });
                } else if leader.leads && (leader.stage <= VerifyStage::ReadDone || shares_verdict)
                {
                    steps.add("Verify joins the read", |next| {
                        next.verify[i].stage = VerifyStage::Joined;
                    });
                }
            }
            VerifyStage::ReadSent if now.revoked_at == 0 => {
                steps.add("the read finds the live key", |next| {
                    let verify = &mut next.verify[i];
                    (verify.stage, verify.revision) = (VerifyStage::ReadDone, now.head);
                });
            }
            VerifyStage::ReadSent => steps.add("the read finds the revoked key", |next| {
                Self::end_read(next);
            }),
            VerifyStage::ReadDone => steps.add("the read is answered", |next| {
                for joined in &mut next.verify {
                    let is_answered = joined.stage == VerifyStage::ReadDone
                        || joined.stage == VerifyStage::Joined && !shares_verdict;
                    if is_answered {
                        (joined.stage, joined.revision) = (VerifyStage::Entry, verify.revision);
                    }
                }
            }),
            VerifyStage::Entry => steps.add("Verify reads the tombstone", |next| {
                let verify = &mut next.verify[i];
                verify.stage = VerifyStage::Half;
                verify.first_read = match self.keeps(Rule::TombstoneBeforeFloor) {
                    true => self.tombstone_for(&now, *verify),
                    false => now.floor,
                };
            }),
            VerifyStage::Half => self.decide(steps, i),
            VerifyStage::None | VerifyStage::Joined => {}
        }
    }

    /// The first verification ends, and those that share its read.
    fn end_read(next: &mut State<N>) {
        next.verify[0] = Verify::default();
        for joined in &mut next.verify {
            if joined.stage == VerifyStage::Joined {
                *joined = Verify::default();
            }
        }
    }

    fn tombstone_for(&self, state: &State<N>, verify: Verify) -> u8 {
        // The copy lies under another digest than the tombstone.
        let is_missed = verify.is_from_cache && !self.keeps(Rule::TombstonesByKey);
        if is_missed { 0 } else { state.tombstone }
    }

    /// Verification `i` reads the floor and decides.
    fn decide(&self, steps: &mut Steps<State<N>>, i: usize) {
        let now = steps.now;
        let verify = now.verify[i];
        let (tombstone, floor) = match self.keeps(Rule::TombstoneBeforeFloor) {
            true => (verify.first_read, now.floor),
            false => (self.tombstone_for(&now, verify), verify.first_read),
        };
        let tombstone = (tombstone != 0).then_some(u64::from(tombstone));
        let stamp = Stamp {
            epoch: EPOCH,
            revision: u64::from(verify.revision),
        };
        let is_unchecked = verify.is_from_cache && !self.keeps(Rule::SharedCacheIsAdmitted);
        if !is_unchecked && !admits(EPOCH, u64::from(floor), tombstone, stamp) {
            steps.add("Verify refuses the entry", |next| Self::end(next, i));
            return;
        }
        steps.add("Verify answers VALID", |next| {
            let applied = match self.keeps(Rule::RestampReadBeforeTombstones) {
                true => verify.applied,
                false => now.applied,
            };
            next.copy = next.copy.max(Some(verify.revision.max(applied)));
            let joined = (0..N).filter(|j| now.verify[*j].stage == VerifyStage::Joined && i == 0);
            for answered in joined.chain([i]) {
                next.broken.0 |= now.verify[answered].after_bound;
                next.broken.1 |= now.verify[answered].after_return;
            }
            Self::end(next, i);
        });
    }

    fn end(next: &mut State<N>, i: usize) {
        if i == 0 {
            Self::end_read(next);
        }
        next.verify[i] = Verify::default();
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
