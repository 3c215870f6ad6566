//! Membership and wait: instances register, send heartbeats, leave, crash and are reaped, against one Revoke.
//!
//! - Every instance has a cached record of the key from before its revocation. So an instance can answer
//!   VALID when it is fresh and has not applied the revocation, and P1 and P2 are properties of a state.
//! - A statement takes its snapshot, waits for the row lock, updates the newest version of the row, commits,
//!   and is answered, each as a step of its own. An instance may give up waiting: the statement goes on.
//! - A heartbeat's number counts only as "the one that the reaper saw". A slot whose instance and row are
//!   gone is used again by a new instance. So the numbers of ticks, heartbeats and instances are not bounded.

mod heartbeat;
mod reaper;

use keyward_core::fence::AckSet;

use crate::rules::{Properties, Rule};
use crate::search::{Model, Steps};
use crate::time::{EPOCH, NEVER, after, grow, is_unresponsive, member, membership, ticks};

/// A run with `N` instances at a time.
pub(crate) struct Instances<const N: usize> {
    pub(crate) without: Vec<Rule>,
    /// `max_staleness` of each instance, in ticks.
    pub(crate) bounds: [u8; N],
    /// `max_staleness` of the process that revokes and reaps.
    pub(crate) own_bound: u8,
    pub(crate) gives_up: bool,
    pub(crate) reaps: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Off,
    Registering,
    /// The registration has committed, but was not answered.
    Registered,
    Up,
    Leaving,
    Gone,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Row {
    #[default]
    None,
    There,
    Deleted,
}

/// How far a statement is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Stage {
    #[default]
    None,
    Sent,
    Snapshot,
    Done,
    Committed,
}

/// A heartbeat.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Heartbeat {
    stage: Stage,
    /// Since it was sent.
    age: u8,
    acknowledges: bool,
    reads_revocation: bool,
    sees_row: bool,
    has_row: bool,
}

impl Heartbeat {
    fn holds_row(&self) -> bool {
        self.stage == Stage::Done && self.has_row
    }
}

/// One slot: an instance and its row, and what the reaper knows of the row.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Instance {
    phase: Phase,
    row: Row,
    has_acknowledged: bool,
    /// The age of freshness.
    fresh: u8,
    has_applied: bool,
    heartbeat: Heartbeat,
    given_up: Heartbeat,
    /// Only without a rule: since the registration was sent, and whether it read the revocation.
    registration: (u8, Stage, bool),
    /// A read of the row, since when it runs, and whether the row's heartbeat is still the one it read.
    look: (Stage, u8, bool),
    /// Since when the reaper knows a heartbeat, and whether it is still the row's.
    seen: (u8, bool),
    /// A DELETE, and whether the heartbeat in it is still the row's.
    delete: (Stage, bool),
    /// Only without a rule: it has registered under this id before.
    registers_again: bool,
    /// Only without a rule: the age of the row by the database's clock.
    row_age: u8,
}

impl Default for Instance {
    fn default() -> Self {
        Self {
            phase: Phase::Off,
            row: Row::None,
            has_acknowledged: false,
            fresh: NEVER,
            has_applied: false,
            heartbeat: Heartbeat::default(),
            given_up: Heartbeat::default(),
            registration: (NEVER, Stage::None, false),
            look: (Stage::None, 0, false),
            seen: (NEVER, false),
            delete: (Stage::None, false),
            registers_again: false,
            row_age: NEVER,
        }
    }
}

impl Instance {
    fn is_locked(&self) -> bool {
        self.delete.0 == Stage::Done || self.heartbeat.holds_row() || self.given_up.holds_row()
    }

    /// The row gets a number that nobody has seen.
    fn new_heartbeat(&mut self) {
        // Numbers that start again reach one that was seen.
        let repeats = self.registers_again && self.seen.0 != NEVER;
        (self.look.2, self.seen.1, self.delete.1) = (false, repeats, false);
    }

    /// The process ends, or gives up its registration.
    fn end(&mut self) {
        let row = *self;
        *self = Self {
            phase: Phase::Gone,
            row: row.row,
            has_acknowledged: row.has_acknowledged,
            look: row.look,
            seen: row.seen,
            delete: row.delete,
            registers_again: row.registers_again,
            row_age: row.row_age,
            ..Self::default()
        };
    }

    fn delete_row(&mut self) {
        (self.row, self.has_acknowledged, self.row_age) = (Row::Deleted, false, NEVER);
    }
}

/// How far Revoke is.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Revoke {
    #[default]
    None,
    Begun,
    Committed,
    Answered,
    Listed,
    Returned,
}

#[derive(Clone, Copy, Hash)]
pub(crate) struct State<const N: usize> {
    revoke: Revoke,
    since_begin: u8,
    since_commit: u8,
    since_answer: u8,
    listed: [bool; N],
    instances: [Instance; N],
    clock_jumped: bool,
}

impl<const N: usize> Instances<N> {
    fn keeps(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }

    /// The largest age that matters.
    fn most(&self) -> u8 {
        self.bounds
            .iter()
            .fold(self.own_bound, |most, one| most.max(*one))
            + 1
    }

    fn can_answer_valid(&self, instance: &Instance, bound: u8) -> bool {
        use Phase::{Registered, Registering, Up};
        let runs = matches!(instance.phase, Registering | Registered | Up);
        runs && instance.fresh <= bound && !instance.has_applied
    }

    fn is_unresponsive(&self, instance: &Instance, i: usize) -> bool {
        let bound = match self.keeps(Rule::ReapByTheRowsBound) {
            true => self.bounds[i],
            false => self.own_bound,
        };
        instance.seen.1 && is_unresponsive(instance.seen.0, bound)
    }

    /// Whether Revoke has waited for every instance that it listed.
    fn may_return(&self, state: &State<N>) -> bool {
        let bound_of = |i: usize| match self.keeps(Rule::WaitByTheRowsBound) {
            true => self.bounds[i],
            false => self.own_bound,
        };
        let members = |is_member: &dyn Fn(usize) -> bool| {
            let ids = (0_u8..).zip(&state.instances).enumerate();
            let members = ids
                .filter(|(i, _)| is_member(*i))
                .map(|(i, (id, instance))| {
                    member(id, u64::from(instance.has_acknowledged), bound_of(i))
                });
            membership(EPOCH, members.collect())
        };
        let first = members(&|i| state.listed[i]);
        let current = members(&|i| {
            let instance = &state.instances[i];
            let is_deleted =
                !self.keeps(Rule::ReapedOnceCommitted) && instance.delete.0 != Stage::None;
            let is_ignored =
                !self.keeps(Rule::SilentRowsAreDeleted) && self.is_unresponsive(instance, i);
            instance.row == Row::There && !is_deleted && !is_ignored
        });
        let mut waited = match self.keeps(Rule::WaitFromTheCommitsAnswer) {
            true => after(state.since_answer),
            false => after(state.since_begin),
        };
        if !self.keeps(Rule::WaitStrictlyLonger) {
            waited = waited.plus(ticks(1) / 2);
        }
        let mut acks = AckSet::new(1, after(0), &first);
        !self.keeps(Rule::WaitAtAll) || acks.observe(&current, waited).is_some()
    }

    fn tick(&self, state: &mut State<N>) {
        let most = self.most();
        if !self.keeps(Rule::WaitFromTheCommitsAnswer) && state.revoke < Revoke::Returned {
            grow(&mut state.since_begin, most);
        }
        grow(&mut state.since_commit, most);
        grow(&mut state.since_answer, most);
        for (instance, bound) in state.instances.iter_mut().zip(self.bounds) {
            grow(&mut instance.fresh, most);
            if instance.fresh > bound {
                instance.fresh = NEVER;
            }
            for heartbeat in [&mut instance.heartbeat, &mut instance.given_up] {
                if heartbeat.stage != Stage::None {
                    grow(&mut heartbeat.age, bound + 1);
                }
            }
            grow(&mut instance.registration.0, most);
            if instance.look.0 != Stage::None && !self.keeps(Rule::SilenceFromTheAnswer) {
                grow(&mut instance.look.1, most);
            }
            grow(&mut instance.seen.0, most);
            grow(&mut instance.row_age, most);
        }
    }

    fn revoke(&self, steps: &mut Steps<State<N>>) {
        let list = |state: &mut State<N>| {
            state.listed = state.instances.map(|instance| instance.row == Row::There);
        };
        match steps.now.revoke {
            Revoke::None => steps.add("Revoke begins", |next| {
                next.revoke = Revoke::Begun;
                if !self.keeps(Rule::WaitFromTheCommitsAnswer) {
                    next.since_begin = 0;
                }
                if !self.keeps(Rule::InstancesListedAfterTheCommit) {
                    list(next);
                }
            }),
            Revoke::Begun => steps.add("Revoke commits", |next| {
                (next.revoke, next.since_commit) = (Revoke::Committed, 0);
            }),
            Revoke::Committed => steps.add("the commit is answered", |next| {
                (next.revoke, next.since_answer) = (Revoke::Answered, 0);
            }),
            Revoke::Answered => steps.add("Revoke lists the instances", |next| {
                next.revoke = Revoke::Listed;
                if self.keeps(Rule::InstancesListedAfterTheCommit) {
                    list(next);
                }
            }),
            Revoke::Listed if self.may_return(&steps.now) => {
                steps.add("Revoke returns", |next| {
                    (next.revoke, next.listed) = (Revoke::Returned, [false; N]);
                    (next.since_begin, next.since_answer) = (NEVER, NEVER);
                });
            }
            Revoke::Listed | Revoke::Returned => {}
        }
    }

    /// The life of one process.
    fn life(&self, steps: &mut Steps<State<N>>, i: usize) {
        let instance = steps.now.instances[i];
        let is_revoked = steps.now.revoke >= Revoke::Committed;
        let reads_log = !self.keeps(Rule::FreshnessNotFromRegistration);
        let row_first = !self.keeps(Rule::FreshnessEndsBeforeTheRow);
        match instance.phase {
            Phase::Off => steps.add("an instance registers", |next| {
                let instance = &mut next.instances[i];
                instance.phase = Phase::Registering;
                if reads_log {
                    instance.registration.0 = 0;
                }
            }),
            Phase::Registering if reads_log && instance.registration.1 == Stage::None => {
                steps.add("the registration reads the log", |next| {
                    let registration = &mut next.instances[i].registration;
                    (registration.1, registration.2) = (Stage::Snapshot, is_revoked);
                });
            }
            Phase::Registering => steps.add("the registration commits", |next| {
                let instance = &mut next.instances[i];
                (instance.phase, instance.row) = (Phase::Registered, Row::There);
                instance.has_acknowledged = false;
                instance.new_heartbeat();
                if !self.keeps(Rule::SilenceByTheReapersClock) {
                    instance.row_age = 0;
                }
            }),
            Phase::Registered => steps.add("the registration is answered", |next| {
                let instance = &mut next.instances[i];
                instance.phase = Phase::Up;
                if reads_log {
                    (instance.fresh, _, instance.has_applied) = instance.registration;
                    instance.registration = (NEVER, Stage::None, false);
                }
            }),
            Phase::Up if row_first && instance.row != Row::There => {
                steps.add("it ends its freshness", |next| next.instances[i].end());
            }
            Phase::Up if row_first && !instance.is_locked() => {
                steps.add("it deletes its row", |next| next.instances[i].delete_row());
            }
            Phase::Up if !row_first => steps.add("it ends its freshness", |next| {
                let instance = &mut next.instances[i];
                (instance.phase, instance.fresh) = (Phase::Leaving, NEVER);
            }),
            Phase::Leaving if instance.row == Row::There && !instance.is_locked() => {
                steps.add("it deletes its row", |next| {
                    next.instances[i].delete_row();
                    next.instances[i].end();
                });
            }
            Phase::Gone if instance.row != Row::There && instance.delete.0 == Stage::None => {
                steps.add("its slot is free", |next| {
                    let seen = next.instances[i].seen.0;
                    next.instances[i] = Instance::default();
                    if !self.keeps(Rule::IdForEachRegistration) {
                        next.instances[i].seen.0 = seen;
                        next.instances[i].registers_again = true;
                    }
                    next.listed[i] = false;
                });
            }
            Phase::Up | Phase::Leaving | Phase::Gone => {}
        }
        if !matches!(instance.phase, Phase::Off | Phase::Gone) {
            steps.add("it crashes", |next| next.instances[i].end());
        }
    }
}

impl<const N: usize> Model for Instances<N> {
    type State = State<N>;

    fn start(&self) -> State<N> {
        State {
            revoke: Revoke::None,
            since_begin: NEVER,
            since_commit: NEVER,
            since_answer: NEVER,
            listed: [false; N],
            instances: [Instance::default(); N],
            clock_jumped: false,
        }
    }

    fn broken(&self, state: &State<N>) -> Properties {
        let mut broken = Properties::NONE;
        for (instance, bound) in state.instances.iter().zip(self.bounds) {
            if self.can_answer_valid(instance, bound) {
                let is_late = state.since_commit != NEVER && state.since_commit > bound;
                broken = broken
                    .with(Properties::P1.when(is_late))
                    .with(Properties::P2.when(state.revoke == Revoke::Returned));
            }
        }
        broken
    }

    fn steps(&self, steps: &mut Steps<State<N>>) {
        steps.add("a tick passes", |next| self.tick(next));
        if !self.keeps(Rule::SilenceByTheReapersClock) && !steps.now.clock_jumped {
            steps.add("the database's clock jumps", |next| {
                next.clock_jumped = true;
                for instance in &mut next.instances {
                    grow(&mut instance.row_age, self.most());
                    grow(&mut instance.row_age, self.most());
                }
            });
        }
        self.revoke(steps);
        for (i, actor) in (0..N).zip(0..) {
            steps.actor = actor;
            self.life(steps, i);
            self.heartbeat(steps, i, false);
            self.heartbeat(steps, i, true);
            if self.reaps {
                self.reap(steps, i);
            }
        }
    }
}
