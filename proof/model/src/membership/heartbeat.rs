//! The heartbeats of the model of the membership.

use super::{Heartbeat, Instance, Instances, Phase, Revoke, Row, Stage, State};
use crate::rules::Rule;
use crate::search::Steps;
use crate::time::NEVER;

impl<const N: usize> Instances<N> {
    pub(super) fn may_send(&self, instance: &Instance) -> bool {
        let early = !self.keeps(Rule::TailOnlyAfterRegistration)
            && matches!(instance.phase, Phase::Registering | Phase::Registered);
        early || instance.phase == Phase::Up
    }

    /// A heartbeat of slot `i`: the current one, or one that was given up.
    pub(super) fn heartbeat(&self, steps: &mut Steps<State<N>>, i: usize, given_up: bool) {
        fn of<const N: usize>(next: &mut State<N>, i: usize, given_up: bool) -> &mut Heartbeat {
            match given_up {
                true => &mut next.instances[i].given_up,
                false => &mut next.instances[i].heartbeat,
            }
        }
        let instance = steps.now.instances[i];
        let is_revoked = steps.now.revoke >= Revoke::Committed;
        let heartbeat = *of(&mut steps.now.clone(), i, given_up);
        match heartbeat.stage {
            Stage::None if !given_up && self.may_send(&instance) => {
                steps.add("it sends a heartbeat", |next| {
                    next.instances[i].heartbeat = Heartbeat {
                        stage: Stage::Sent,
                        acknowledges: instance.has_applied,
                        ..Heartbeat::default()
                    };
                });
            }
            Stage::Sent => steps.add("its heartbeat takes a snapshot", |next| {
                let heartbeat = of(next, i, given_up);
                heartbeat.stage = Stage::Snapshot;
                heartbeat.reads_revocation = is_revoked;
                heartbeat.sees_row = instance.row == Row::There;
            }),
            Stage::Snapshot if !heartbeat.sees_row || !instance.is_locked() => {
                steps.add("its heartbeat updates the row", |next| {
                    let heartbeat = of(next, i, given_up);
                    heartbeat.stage = Stage::Done;
                    heartbeat.has_row = heartbeat.sees_row && instance.row == Row::There;
                });
            }
            Stage::Done => {
                steps.add("its heartbeat commits", |next| {
                    self.commit_heartbeat(next, i, heartbeat);
                    *of(next, i, given_up) = match given_up {
                        true => Heartbeat::default(),
                        false => Heartbeat {
                            stage: Stage::Committed,
                            ..heartbeat
                        },
                    };
                });
            }
            Stage::Committed => steps.add("its heartbeat is answered", |next| {
                next.instances[i].heartbeat = Heartbeat::default();
                self.answer_heartbeat(&mut next.instances[i], heartbeat, self.bounds[i]);
            }),
            Stage::None | Stage::Snapshot => {}
        }
        let is_running = !given_up && heartbeat.stage != Stage::None;
        if self.gives_up && is_running && instance.given_up.stage == Stage::None {
            steps.add("it gives up its heartbeat", |next| {
                let instance = &mut next.instances[i];
                instance.heartbeat = Heartbeat::default();
                if heartbeat.stage != Stage::Committed {
                    instance.given_up = heartbeat;
                }
            });
        }
    }

    fn commit_heartbeat(&self, next: &mut State<N>, i: usize, heartbeat: Heartbeat) {
        if !heartbeat.has_row {
            return;
        }
        let rows = match self.keeps(Rule::IdForEachStart) {
            true => i..i + 1,
            false => 0..N,
        };
        for instance in &mut next.instances[rows] {
            if instance.row == Row::There {
                instance.has_acknowledged = heartbeat.acknowledges;
                if instance.row_age != NEVER {
                    instance.row_age = 0;
                }
                if self.keeps(Rule::HeartbeatNeverRepeats) {
                    instance.new_heartbeat();
                }
            }
        }
    }

    fn answer_heartbeat(&self, instance: &mut Instance, heartbeat: Heartbeat, bound: u8) {
        let zero_rows_count = !self.keeps(Rule::ZeroRowsGiveNoFreshness);
        if !self.may_send(instance) {
            return;
        }
        if !heartbeat.has_row && !zero_rows_count {
            // It registers again, as another instance.
            instance.end();
            return;
        }
        instance.has_applied |= heartbeat.reads_revocation;
        let age = match self.keeps(Rule::FreshnessFromTheSending) {
            true => heartbeat.age,
            false => 0,
        };
        instance.fresh = if age <= bound { age } else { NEVER };
    }
}
