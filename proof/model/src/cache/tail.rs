//! The tail of the model of the cache: a start, heartbeats and pages.

use keyward_core::fence::rules::{check_mark, reached};
use keyward_core::fence::{Page, Refused};
use keyward_core::key::Timestamp;

use super::{MARK, Memory, PageStage, Reading, State};
use crate::rules::Rule;
use crate::search::{Model, Steps};
use crate::time::{EPOCH, NEVER, age_of, before};

impl<const N: usize> Memory<N> {
    /// A start, and pages of the log.
    pub(super) fn tail(&self, steps: &mut Steps<State<N>>) {
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

    /// The last change of the tracked key in these revisions.
    pub(super) fn change_in(state: &State<N>, after: u8, end: u8) -> u8 {
        let changes = [state.revoked_at, state.updated_at].into_iter();
        changes
            .filter(|change| (after + 1..=end).contains(change))
            .max()
            .unwrap_or(0)
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

    pub(super) fn restart(&self, next: &mut State<N>) {
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
}
