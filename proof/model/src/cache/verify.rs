//! The verifications of the model of the cache.

use keyward_core::fence::Stamp;
use keyward_core::fence::rules::admits;

use super::{Memory, PageStage, State, Verify, VerifyStage};
use crate::rules::Rule;
use crate::search::Steps;
use crate::time::{EPOCH, NEVER};

impl<const N: usize> Memory<N> {
    /// Verification `i`.
    pub(super) fn verify(&self, steps: &mut Steps<State<N>>, i: usize) {
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
