//! An exhaustive search, breadth first, so that each trace is a shortest one.
//!
//! A state is known by a hash of 64 bits. The chance that any two of n states share one is about n² / 2^65:
//! 3 in a million for ten million states.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::rules::Properties;

/// A system of states and steps.
pub(crate) trait Model {
    /// Small, because all states of one depth are kept.
    type State: Copy + Hash;

    /// The first state.
    fn start(&self) -> Self::State;
    /// Adds every step that can be taken now.
    fn steps(&self, steps: &mut Steps<Self::State>);
    /// The properties that are broken in this state.
    fn broken(&self, state: &Self::State) -> Properties;
}

/// The steps that can be taken in a state.
pub(crate) struct Steps<S> {
    pub(crate) now: S,
    /// Which of several instances or calls takes the next steps.
    pub(crate) actor: u8,
    found: Vec<(Label, S)>,
}

type Label = (&'static str, u8);

impl<S: Copy> Steps<S> {
    pub(crate) fn add(&mut self, name: &'static str, change: impl FnOnce(&mut S)) {
        let mut next = self.now;
        change(&mut next);
        self.found.push(((name, self.actor), next));
    }

    fn new(now: S) -> Self {
        Self {
            now,
            actor: 0,
            found: Vec::new(),
        }
    }

    /// The steps of `model` in `state`.
    fn find<M: Model<State = S>>(&mut self, model: &M, state: S) -> &[(Label, S)] {
        (self.now, self.actor) = (state, 0);
        self.found.clear();
        model.steps(self);
        &self.found
    }
}

/// The result of a search.
pub(crate) struct Outcome {
    pub(crate) states: u32,
    pub(crate) depth: usize,
    pub(crate) time: Duration,
    /// Whether nothing was left to search.
    pub(crate) is_complete: bool,
    pub(crate) broken: Properties,
    /// For each broken property a shortest trace.
    pub(crate) traces: Vec<(Properties, Vec<String>)>,
    /// How many different steps were taken.
    pub(crate) kinds_of_steps: usize,
}

impl Outcome {
    /// Whether all was searched and nothing broke.
    pub(crate) fn holds(&self) -> bool {
        self.is_complete && self.broken == Properties::NONE
    }

    /// Whether these properties broke; without any, whether the rules hold.
    pub(crate) fn breaks_as(&self, expected: Properties) -> bool {
        match expected == Properties::NONE {
            true => self.holds(),
            false => self.broken.contain(expected),
        }
    }
}

/// The most states of a search: about 2 GB of memory.
const MAX_STATES: u32 = 40_000_000;

/// Searches every state. With properties in `wanted` it stops when all of them are broken.
pub(crate) fn search<M: Model>(model: &M, wanted: Properties) -> Outcome {
    #[expect(clippy::disallowed_methods, reason = "only printed")]
    let began = Instant::now();
    let mut known: HashSet<u64, BuildHasherDefault<Fingerprint>> = HashSet::default();
    // For each state the number of its predecessor, and of the step from there.
    let mut origins: Vec<(u32, u8)> = vec![(0, 0)];
    let mut layer = vec![model.start()];
    let mut steps = Steps::new(layer[0]);
    known.insert(fingerprint(&layer[0]));
    let mut outcome = Outcome {
        states: 0,
        depth: 0,
        time: Duration::ZERO,
        is_complete: true,
        broken: Properties::NONE,
        traces: Vec::new(),
        kinds_of_steps: 0,
    };
    let mut kinds = HashSet::new();
    let (mut first, mut states) = (0_u32, 1_u32);
    'search: while !layer.is_empty() {
        let mut next_layer = Vec::new();
        let next_first = states;
        for (state, number) in layer.iter().zip(first..) {
            let broken = model.broken(state).without(outcome.broken);
            if broken != Properties::NONE {
                outcome.broken = outcome.broken.with(broken);
                outcome
                    .traces
                    .push((broken, trace(model, &origins, number)));
            }
            let is_done = wanted != Properties::NONE && outcome.broken.contain(wanted);
            if is_done || states > MAX_STATES {
                outcome.is_complete = false;
                break 'search;
            }
            for (step, (label, next)) in (0..).zip(steps.find(model, *state)) {
                kinds.insert(label.0);
                if known.insert(fingerprint(next)) {
                    states += 1;
                    origins.push((number, step));
                    next_layer.push(*next);
                }
            }
        }
        first = next_first;
        layer = next_layer;
        outcome.depth += 1;
    }
    outcome.states = states;
    outcome.kinds_of_steps = kinds.len();
    outcome.time = began.elapsed();
    outcome
}

/// The steps to a state.
fn trace<M: Model>(model: &M, origins: &[(u32, u8)], mut number: u32) -> Vec<String> {
    let mut way = Vec::new();
    while number != 0 {
        let (origin, step) = origins[number as usize];
        way.push(step);
        number = origin;
    }
    let mut state = model.start();
    let steps = way.into_iter().rev().map(|step| {
        let ((name, actor), next) = Steps::new(state).find(model, state)[usize::from(step)];
        state = next;
        match actor {
            0 => name.to_owned(),
            actor => format!("{name} ({})", actor + 1),
        }
    });
    steps.collect()
}

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = Fingerprint::default();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Hashes a state, whose numbers are all below 256, by the steps of MurmurHash3. Passes on a number that is
/// a hash already.
#[derive(Default)]
struct Fingerprint {
    hash: u64,
    word: u64,
    bytes: u32,
}

impl Fingerprint {
    fn mix(&self) -> u64 {
        let word = self
            .word
            .wrapping_mul(0x87C3_7B91_1142_53D5)
            .rotate_left(31);
        let hash = self.hash ^ word.wrapping_mul(0x4CF5_AD43_2745_937F);
        hash.rotate_left(27)
            .wrapping_mul(5)
            .wrapping_add(0x52DC_E729)
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u8(*byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.word = self.word << 8 | u64::from(byte);
        self.bytes += 1;
        if self.bytes == 8 {
            (self.hash, self.word, self.bytes) = (self.mix(), 0, 0);
        }
    }

    /// The variant of an enum.
    fn write_isize(&mut self, variant: isize) {
        self.write_u8(variant.to_le_bytes()[0]);
    }

    /// The length of an array.
    fn write_usize(&mut self, _: usize) {}

    fn write_u64(&mut self, hash: u64) {
        self.hash = hash;
    }

    fn finish(&self) -> u64 {
        if self.bytes == 0 {
            return self.hash;
        }
        let mut hash = self.mix();
        for factor in [0xFF51_AFD7_ED55_8CCD, 0xC4CE_B9FE_1A85_EC53] {
            hash = (hash ^ hash >> 33).wrapping_mul(factor);
        }
        hash ^ hash >> 33
    }
}
