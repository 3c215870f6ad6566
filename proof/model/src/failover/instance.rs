//! The instance of the model of a failover.

use keyward_core::fence::Page;
use keyward_core::fence::rules::check_mark;
use keyward_core::key::Timestamp;

use super::{BOUND, Failover, Heartbeat, History, Server, Stage, State, mark};
use crate::rules::Rule;
use crate::search::{Model, Steps};
use crate::time::{EPOCH, NEVER};

impl Failover {
    pub(super) fn instance(&self, steps: &mut Steps<State>) {
        let now = steps.now;
        let server = now.servers[usize::from(now.connection)];
        let history = (now.connection, server.incarnation);
        let can_commit = self.can_commit(&now, now.connection);
        if now.connection == 0 && now.has_failed_over {
            steps.add("the instance connects to the new primary", |next| {
                (next.connection, next.heartbeat) = (1, Heartbeat::default());
            });
        }
        if history != now.history && !now.has_refused {
            steps.add("the connection shows its epoch", |next| {
                self.see_epoch(next, history)
            });
        }
        if !now.is_registered && !now.has_refused && can_commit {
            steps.add("the instance registers", |next| {
                next.is_registered = true;
                let server = &mut next.servers[usize::from(now.connection)];
                (server.has_row, server.acked) = (true, (0, 0));
            });
        }
        if now.has_refused && history.1 > now.history.1 {
            steps.add("the instance starts again after the decision", |next| {
                (next.has_refused, next.history, next.has_applied) = (false, history, 0);
                (next.applied, next.mark) = (server.head, server.mark_at(server.head));
                (next.floor, next.tombstone) = (server.head, 0);
            });
        }
        if self.restarts && now.is_registered {
            let start = self.start();
            steps.add("the instance restarts", |next| {
                *next = State {
                    history: start.history,
                    is_registered: false,
                    has_refused: false,
                    fresh: NEVER,
                    applied: 0,
                    mark: 0,
                    tombstone: 0,
                    floor: 0,
                    has_applied: 0,
                    heartbeat: start.heartbeat,
                    ..*next
                };
            });
        }
        let in_epoch = history == now.history || !self.keeps(Rule::ReadsOnlyInOwnEpoch);
        let is_reading = self.reads && now.is_registered && !now.has_refused;
        if is_reading && in_epoch && server.head > now.applied {
            let compares = self.keeps(Rule::MarkComparedAtRead);
            if !compares || Self::is_ours(&now, &server) {
                steps.add("the instance applies a read", |next| {
                    Self::apply(next, &server)
                });
            }
        }
        if is_reading && can_commit && server.has_row && server.acked.0 != now.applied {
            steps.add("the instance acknowledges", |next| {
                next.servers[usize::from(now.connection)].acked = (now.applied, now.mark);
            });
        }
    }

    fn see_epoch(&self, next: &mut State, history: History) {
        if history == next.history {
            return;
        }
        if history.1 != next.history.1 {
            // An operator has accepted what was lost.
            next.has_applied = 0;
        }
        next.history = history;
        if self.keeps(Rule::NewEpochEndsFreshness) {
            next.fresh = NEVER;
        }
        if !self.keeps(Rule::NewEpochKeepsTombstones) {
            (next.applied, next.mark, next.tombstone, next.floor) = (0, 0, 0, 0);
        }
    }

    /// Whether the core takes a page that was read from `server` at `applied`.
    fn is_ours(state: &State, server: &Server) -> bool {
        let page = Page {
            epoch: EPOCH,
            head: u64::from(server.head),
            head_mark: mark(server.mark_at(server.head)),
            pruned_to: 0,
            mark_at_applied: Some(mark(server.mark_at(state.applied))),
            database_time: Timestamp::default(),
            rows: Vec::new(),
        };
        check_mark(mark(state.mark), u64::from(state.applied), &page).is_ok()
    }

    fn apply(next: &mut State, server: &Server) {
        let revocation = Self::revocation(next, server, next.applied);
        if revocation != 0 {
            next.tombstone = next.tombstone.max(revocation);
            next.has_applied |= 1 << server.mark_at(revocation);
        }
        (next.applied, next.mark) = (server.head, server.mark_at(server.head));
    }

    pub(super) fn heartbeat(&self, steps: &mut Steps<State>) {
        let now = steps.now;
        let server = now.servers[usize::from(now.connection)];
        let heartbeat = now.heartbeat;
        let can_commit = self.can_commit(&now, now.connection);
        match heartbeat.stage {
            Stage::None if now.is_registered => steps.add("a heartbeat is sent", |next| {
                next.heartbeat.stage = Stage::Sent;
            }),
            Stage::Sent if can_commit || !self.keeps(Rule::HeartbeatIsAWrite) => {
                for jumps in [false, true] {
                    if jumps && !(self.jumps && now.applied < server.head && !now.has_refused) {
                        continue;
                    }
                    steps.add("the heartbeat commits", |next| {
                        next.heartbeat = Heartbeat {
                            stage: Stage::Committed,
                            has_row: server.has_row,
                            jumps,
                            read: server,
                            ..heartbeat
                        };
                        if server.has_row && can_commit {
                            let server = &mut next.servers[usize::from(now.connection)];
                            server.acked = (now.applied, now.mark);
                        }
                    });
                }
            }
            Stage::Committed => {
                steps.add("the heartbeat is answered", |next| {
                    self.answer(next, heartbeat)
                });
            }
            Stage::None | Stage::Sent => {}
        }
        if heartbeat.stage != Stage::None {
            steps.add("the heartbeat is lost", |next| {
                next.heartbeat = Heartbeat::default()
            });
        }
    }

    fn answer(&self, next: &mut State, heartbeat: Heartbeat) {
        next.heartbeat = Heartbeat::default();
        let server = heartbeat.read;
        let compares = match heartbeat.jumps {
            true => self.keeps(Rule::MarkComparedAtJump),
            false => self.keeps(Rule::MarkComparedAtHeartbeat),
        };
        if !heartbeat.has_row {
            (next.fresh, next.is_registered) = (NEVER, false);
            return;
        }
        let is_behind_us = server.head < next.applied;
        if is_behind_us || compares && !Self::is_ours(next, &server) {
            (next.fresh, next.has_refused) = (NEVER, true);
            if self.keeps(Rule::NewRegistrationAfterAdvance) {
                next.is_registered = false;
                if self.can_commit(next, next.connection) {
                    next.servers[usize::from(next.connection)].has_row = false;
                }
            }
            return;
        }
        if next.has_refused {
            return;
        }
        self.see_epoch(next, (next.connection, server.incarnation));
        if heartbeat.jumps {
            next.floor = next.floor.max(server.head);
            (next.applied, next.mark) = (server.head, server.mark_at(server.head));
        } else {
            Self::apply(next, &server);
        }
        next.fresh = if heartbeat.age <= BOUND {
            heartbeat.age
        } else {
            NEVER
        };
    }
}
