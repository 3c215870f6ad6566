//! The revoker of the model of a failover.

use keyward_core::fence::{AckSet, Position, RegistrationId, Settling};

use super::{BOUND, Failover, Revoke, State, mark};
use crate::rules::Rule;
use crate::search::Steps;
use crate::time::{NEVER, after, member, membership};

impl Failover {
    pub(super) fn revoke(&self, steps: &mut Steps<State>) {
        let now = steps.now;
        let i = now.revoke_on;
        let server = now.servers[usize::from(i)];
        if i == 0 && now.has_failed_over {
            steps.add("the revoker connects to the new primary", |next| {
                (next.revoke_on, next.since_epoch) = (1, 0);
                if now.revoke == Revoke::Listed {
                    next.revoke = Revoke::Answered;
                }
            });
        }
        let found = Self::revocation(&now, &server, 0);
        if !self.returns && now.revoke == Revoke::Answered {
            return;
        }
        match now.revoke {
            Revoke::None | Revoke::Returned if found == 0 && self.has_room(&now, i) => {
                steps.add("Revoke commits", |next| {
                    next.revoke_mark = now.next_mark;
                    self.commit(next, i, true);
                    next.revision = server.head + 1;
                    (next.revoke, next.since_commit, next.since_answer) = (Revoke::Answered, 0, 0);
                });
            }
            Revoke::None if found != 0 && self.can_commit(&now, i) => {
                steps.add("Revoke finds the key revoked", |next| {
                    (next.revision, next.revoke_mark) = (found, server.mark_at(found));
                    (next.revoke, next.since_answer) = (Revoke::Answered, 0);
                });
            }
            Revoke::Answered => steps.add("Revoke lists the instances", |next| {
                (next.revoke, next.is_listed) = (Revoke::Listed, server.has_row);
            }),
            Revoke::Listed if self.may_confirm(&now) => {
                let stands = server.mark_at(now.revision) == now.revoke_mark;
                if stands || !self.keeps(Rule::ConfirmBeforeReturn) {
                    steps.add("Revoke returns", |next| {
                        let primary = next.servers[usize::from(now.has_failed_over)];
                        next.has_lied |= !primary.has_mark(now.revoke_mark);
                        Self::end(next, Revoke::Returned);
                    });
                }
            }
            _ => {}
        }
        if matches!(now.revoke, Revoke::Answered | Revoke::Listed) {
            steps.add("Revoke ends UNAVAILABLE", |next| {
                Self::end(next, Revoke::None)
            });
        }
    }

    fn end(next: &mut State, stage: Revoke) {
        (next.revoke, next.revision) = (stage, 0);
        (next.since_answer, next.is_listed) = (NEVER, false);
    }

    /// Whether the epoch is settled, no instance is left to wait for, and the confirmation commits.
    fn may_confirm(&self, state: &State) -> bool {
        if self.keeps(Rule::ConfirmIsAWrite) && !self.can_commit(state, state.revoke_on) {
            return false;
        }
        let server = &state.servers[usize::from(state.revoke_on)];
        let epoch = self.epoch((state.revoke_on, server.incarnation));
        let (acked, acked_mark) = server.acked;
        let counts =
            server.mark_at(acked) == acked_mark || !self.keeps(Rule::AcknowledgementHasMark);
        let acked = if counts { u64::from(acked) } else { 0 };
        let members = |is_there: bool| match is_there {
            true => vec![member(0, acked, BOUND)],
            false => Vec::new(),
        };
        let first = membership(epoch, members(state.is_listed));
        let current = membership(epoch, members(server.has_row));
        if self.keeps(Rule::NewEpochSettles) && state.revoke_on == 1 {
            let mut settling = Settling::new(self.keeps_rows);
            // The answer, if the epoch was new.
            let _ = settling.observe(&current, after(0));
            if settling
                .observe(&current, after(state.since_epoch))
                .is_err()
            {
                return false;
            }
        }
        // This process is also the instance.
        let own = state
            .is_registered
            .then(|| RegistrationId::from_bytes([0; 16]));
        let fence_epoch = match self.keeps(Rule::OwnMemoryInItsEpoch) {
            true => self.epoch(state.history),
            false => epoch,
        };
        let acked = Position {
            revision: u64::from(state.applied),
            mark: mark(state.mark),
        };
        let current = current.with_own_memory(own, (fence_epoch, acked));
        let mut acks = AckSet::new(u64::from(state.revision), after(0), &first);
        acks.observe(&current, after(state.since_answer)).is_some()
    }
}
