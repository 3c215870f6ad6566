//! Failover: an old primary and a new one, an instance, a process that revokes, an operator.
//!
//! - The new primary holds some earlier state of the old one: log, row, acknowledgement, all of one moment. It
//!   gives the lost revisions to other changes. The old primary commits nothing any more, but answers reads.
//! - A statement is one step on its server, and its answer is another one. Joining and crossing steps of a
//!   verification are in the other models. So the instance can answer VALID in a state in which it is fresh and
//!   a copy of the record is admitted: one in the cache, or a read of either server.
//! - One copy, which anybody fills and the instance may stamp again, stands for all, as in the model of the
//!   cache.
//! - `admits`, `check_mark`, `AckSet`, `Settling` and the epoch of own memory are the core's.

mod instance;
mod revoke;

use keyward_core::fence::rules::admits;
use keyward_core::fence::{Epoch, Mark, Stamp};

use crate::rules::{Properties, Rule};
use crate::search::{Model, Steps};
use crate::time::{EPOCH, NEVER, grow};

/// A run with a failover.
pub(crate) struct Failover {
    pub(crate) without: Vec<Rule>,
    /// The most changes on both servers together.
    pub(crate) changes: u8,
    /// Revoke goes on after its commit.
    pub(crate) returns: bool,
    /// The failover keeps the row, and the operator has declared that it loses nothing.
    pub(crate) keeps_rows: bool,
    pub(crate) advances: bool,
    pub(crate) restarts: bool,
    pub(crate) jumps: bool,
    /// The instance also reads the log between heartbeats.
    pub(crate) reads: bool,
}

/// `max_staleness` in ticks: the largest allowed one.
const BOUND: u8 = 1;
/// The most revisions of a log.
const ROWS: usize = 3;

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Server {
    /// The mark of each revision; `log[0]` is that of revision 1.
    log: [u8; ROWS],
    head: u8,
    has_row: bool,
    /// Revision and mark of the acknowledgement in the row.
    acked: (u8, u8),
    incarnation: u8,
}

impl Server {
    /// The mark at `revision`; 0 at revision 0, and without such a row.
    fn mark_at(&self, revision: u8) -> u8 {
        match revision {
            0 => 0,
            _ if revision > self.head => 0,
            _ => self.log[usize::from(revision) - 1],
        }
    }

    fn has_mark(&self, mark: u8) -> bool {
        mark != 0 && (1..=self.head).any(|revision| self.mark_at(revision) == mark)
    }
}

/// A history, by the number of its server and the incarnation.
type History = (u8, u8);

/// A copy of the record of the live key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Record {
    history: History,
    revision: u8,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Stage {
    #[default]
    None,
    Sent,
    Committed,
}

/// A heartbeat: what it read, once it has committed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Heartbeat {
    stage: Stage,
    age: u8,
    has_row: bool,
    jumps: bool,
    read: Server,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Revoke {
    #[default]
    None,
    Answered,
    Listed,
    Returned,
}

#[derive(Clone, Copy, Hash)]
pub(crate) struct State {
    servers: [Server; 2],
    has_failed_over: bool,
    next_mark: u8,
    /// Bit `mark` is set if the row with this mark is the key's revocation.
    revocations: u8,
    // The instance.
    connection: u8,
    history: History,
    is_registered: bool,
    has_refused: bool,
    fresh: u8,
    applied: u8,
    mark: u8,
    tombstone: u8,
    floor: u8,
    /// The revocations that it has applied, by their marks.
    has_applied: u8,
    heartbeat: Heartbeat,
    copy: Option<Record>,
    // The process that revokes.
    revoke: Revoke,
    revoke_on: u8,
    revision: u8,
    revoke_mark: u8,
    since_commit: u8,
    since_answer: u8,
    is_listed: bool,
    /// Since it first saw the new primary's present epoch.
    since_epoch: u8,
    has_lied: bool,
}

fn mark(mark: u8) -> Mark {
    u64::from(mark).to_be_bytes()
}

impl Failover {
    fn keeps(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }

    fn epoch(&self, history: History) -> Epoch {
        let timeline = match self.keeps(Rule::EpochHasTimeline) {
            true => history.0,
            false => 0,
        };
        Epoch {
            timeline: EPOCH.timeline + u32::from(timeline),
            incarnation: EPOCH.incarnation + u64::from(history.1),
            ..EPOCH
        }
    }

    fn can_commit(&self, state: &State, server: u8) -> bool {
        server == u8::from(state.has_failed_over)
            || server == 0 && !self.keeps(Rule::OnePrimaryCommits)
    }

    /// The revision of the key's revocation after `after` in a log; 0 without one.
    fn revocation(state: &State, server: &Server, after: u8) -> u8 {
        let is_revocation = |revision: &u8| state.revocations >> server.mark_at(*revision) & 1 == 1;
        (after + 1..=server.head).find(is_revocation).unwrap_or(0)
    }

    /// A read of the live key.
    fn read(&self, state: &State, i: u8) -> Option<Record> {
        let server = &state.servers[usize::from(i)];
        let serves = i == 0 || state.has_failed_over;
        let is_live = Self::revocation(state, server, 0) == 0;
        (serves && is_live).then_some(Record {
            history: (i, server.incarnation),
            revision: server.head,
        })
    }

    fn copies(&self, state: &State) -> impl Iterator<Item = Record> {
        [state.copy, self.read(state, 0), self.read(state, 1)]
            .into_iter()
            .flatten()
    }

    fn is_admitted(&self, state: &State, record: Record) -> bool {
        let stamp = Stamp {
            epoch: self.epoch(record.history),
            revision: u64::from(record.revision),
        };
        let tombstone = (state.tombstone != 0).then_some(u64::from(state.tombstone));
        state.is_registered
            && !state.has_refused
            && state.fresh <= BOUND
            && admits(
                self.epoch(state.history),
                u64::from(state.floor),
                tombstone,
                stamp,
            )
    }

    fn commit(&self, next: &mut State, i: u8, revokes: bool) {
        let server = &mut next.servers[usize::from(i)];
        server.log[usize::from(server.head)] = next.next_mark;
        server.head += 1;
        next.revocations |= u8::from(revokes) << next.next_mark;
        next.next_mark += 1;
    }

    fn has_room(&self, state: &State, i: u8) -> bool {
        state.next_mark <= self.changes
            && usize::from(state.servers[usize::from(i)].head) < ROWS
            && self.can_commit(state, i)
    }

    fn servers(&self, steps: &mut Steps<State>) {
        let now = steps.now;
        if !now.has_failed_over {
            steps.add("the standby catches up", |next| {
                next.servers[1] = now.servers[0]
            });
            steps.add("the standby is promoted", |next| {
                next.has_failed_over = true;
                next.servers[1].has_row |= self.keeps_rows && now.servers[0].has_row;
            });
        } else if self.advances && now.servers[1].incarnation == 0 {
            steps.add("an operator advances the epoch", |next| {
                next.servers[1].incarnation = 1;
                next.since_epoch = if now.revoke_on == 1 { 0 } else { NEVER };
            });
        }
        for i in 0..2 {
            if self.has_room(&now, i) {
                steps.actor = i;
                steps.add("another key changes on server", |next| {
                    self.commit(next, i, false)
                });
            }
        }
        steps.actor = 0;
    }

    /// Anybody reads the live key, and the instance stamps again what it admits.
    fn cache(&self, steps: &mut Steps<State>) {
        let now = steps.now;
        for record in self.copies(&now) {
            if now.copy != Some(record) {
                steps.add("a read of the live key becomes a copy", |next| {
                    next.copy = Some(record)
                });
            }
            if now.applied > record.revision && self.is_admitted(&now, record) {
                steps.add("the instance stamps a copy again", |next| {
                    next.copy = Some(Record {
                        revision: now.applied,
                        ..record
                    });
                });
            }
        }
    }
}

impl Model for Failover {
    type State = State;

    fn start(&self) -> State {
        State {
            servers: [Server::default(); 2],
            has_failed_over: false,
            next_mark: 1,
            revocations: 0,
            connection: 0,
            history: (0, 0),
            is_registered: false,
            has_refused: false,
            fresh: NEVER,
            applied: 0,
            mark: 0,
            tombstone: 0,
            floor: 0,
            has_applied: 0,
            heartbeat: Heartbeat::default(),
            copy: None,
            revoke: Revoke::None,
            revoke_on: 0,
            revision: 0,
            revoke_mark: 0,
            since_commit: NEVER,
            since_answer: NEVER,
            is_listed: false,
            since_epoch: NEVER,
            has_lied: false,
        }
    }

    fn broken(&self, state: &State) -> Properties {
        let lied = Properties::H1.when(state.has_lied);
        if !self
            .copies(state)
            .any(|record| self.is_admitted(state, record))
        {
            return lied;
        }
        let primary = state.servers[usize::from(state.has_failed_over)];
        let stands = primary.has_mark(state.revoke_mark);
        let is_late = state.since_commit != NEVER && state.since_commit > BOUND;
        lied.with(Properties::P1.when(stands && is_late))
            .with(Properties::P2.when(stands && state.revoke == Revoke::Returned))
            .with(Properties::H2.when(state.has_applied != 0))
    }

    fn steps(&self, steps: &mut Steps<State>) {
        steps.add("a tick passes", |next| {
            for age in [
                &mut next.since_commit,
                &mut next.since_answer,
                &mut next.since_epoch,
            ] {
                grow(age, BOUND + 1);
            }
            grow(&mut next.fresh, BOUND + 1);
            if next.fresh > BOUND {
                next.fresh = NEVER;
            }
            if next.heartbeat.stage != Stage::None {
                grow(&mut next.heartbeat.age, BOUND + 1);
            }
        });
        self.servers(steps);
        self.revoke(steps);
        self.cache(steps);
        self.instance(steps);
        self.heartbeat(steps);
    }
}
