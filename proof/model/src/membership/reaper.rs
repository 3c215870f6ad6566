//! The reaper of the model of the membership.

use super::{Instances, Row, Stage, State};
use crate::rules::Rule;
use crate::search::Steps;
use crate::time::NEVER;

impl<const N: usize> Instances<N> {
    /// The reaper reads the row, and deletes it.
    pub(super) fn reap(&self, steps: &mut Steps<State<N>>, i: usize) {
        let instance = steps.now.instances[i];
        let is_there = instance.row == Row::There;
        match instance.look.0 {
            Stage::None if is_there => steps.add("the reaper asks for the row", |next| {
                next.instances[i].look = (Stage::Sent, 0, false);
            }),
            Stage::Sent if is_there => steps.add("the reaper's read takes a snapshot", |next| {
                let look = &mut next.instances[i].look;
                (look.0, look.2) = (Stage::Snapshot, true);
            }),
            Stage::Snapshot => steps.add("the reaper's read is answered", |next| {
                let instance = &mut next.instances[i];
                let (_, age, is_current) =
                    std::mem::replace(&mut instance.look, (Stage::None, 0, false));
                let is_known = instance.seen.0 != NEVER && instance.seen.1 && is_current;
                if !is_known {
                    instance.seen = (age, is_current);
                }
            }),
            _ => {}
        }
        let by_clock = self.keeps(Rule::SilenceByTheReapersClock);
        let is_silent = match by_clock {
            true => self.is_unresponsive(&instance, i),
            false => instance.row_age != NEVER && instance.row_age > self.bounds[i],
        };
        match instance.delete.0 {
            Stage::None if is_there && is_silent => {
                steps.add("the reaper sends a DELETE", |next| {
                    next.instances[i].delete = (Stage::Sent, true);
                })
            }
            Stage::Sent if !instance.is_locked() => steps.add("the DELETE is executed", |next| {
                let is_unchanged =
                    instance.delete.1 || !self.keeps(Rule::ReapOnlyAnUnchangedHeartbeat);
                next.instances[i].delete = match is_there && is_unchanged {
                    true => (Stage::Done, false),
                    false => (Stage::None, false),
                };
            }),
            Stage::Done => {
                steps.add("the DELETE commits", |next| {
                    let instance = &mut next.instances[i];
                    instance.delete_row();
                    instance.delete = (Stage::None, false);
                    // Without the rule, another process has reaped, and this one has not noticed.
                    instance.seen.1 = false;
                    if self.keeps(Rule::IdForEachRegistration) {
                        instance.seen.0 = NEVER;
                    }
                });
                steps.add("the DELETE is rolled back", |next| {
                    next.instances[i].delete.0 = Stage::None;
                });
            }
            _ => {}
        }
    }
}
