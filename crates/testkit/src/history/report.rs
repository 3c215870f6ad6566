//! The result of a check, for people and for tests.

use std::collections::BTreeMap;
use std::fmt;

/// The numbers of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of Verify.
    pub verifies: usize,
    /// The calls without a verdict.
    pub unavailable: usize,
    /// The calls with the verdict VALID.
    pub valid: usize,
    /// The calls that started after the key was promised dead.
    pub after_death: usize,
}

/// A violation of the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// VALID for a call that started after the key was promised dead.
    ValidAfterDeath {
        /// The delay, in microseconds.
        late: u64,
    },
    /// Another verdict, answered before the end of the key was requested.
    LiveKeyCalledDead {
        /// The verdict.
        verdict: String,
    },
}

/// An answer that violates the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key's id.
    pub key: String,
    /// The instance that answered.
    pub instance: usize,
    /// The start of the call, in microseconds of the history.
    pub began: u64,
    /// The kind of violation.
    pub fault: Fault,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, instance, began) = (&self.key, self.instance, self.began);
        write!(f, "{key}: instance {instance}, call at {began} us: ")?;
        match &self.fault {
            Fault::ValidAfterDeath { late } => write!(f, "VALID {late} us after its end"),
            Fault::LiveKeyCalledDead { verdict } => write!(f, "{verdict}, though it lived"),
        }
    }
}

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The number of issued keys.
    pub keys: usize,
    /// The number of these that were promised dead.
    pub dead: usize,
    /// The numbers of all instances together.
    pub total: Counts,
    /// The numbers of each instance.
    pub instances: BTreeMap<usize, Counts>,
    /// The violations, in the order of the file.
    pub violations: Vec<Violation>,
}

impl Report {
    /// The number of VALID answers after the death of the key.
    pub fn valid_after_death(&self) -> usize {
        let late =
            |violation: &&Violation| matches!(violation.fault, Fault::ValidAfterDeath { .. });
        self.violations.iter().filter(late).count()
    }
}

/// One line. Each [`Violation`] has its own line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.valid_after_death();
        write!(
            f,
            "VALID after death: {after} of {} verifies that began after it; live keys called dead: \
             {}; {} verifies ({} VALID, {} UNAVAILABLE) of {} keys, {} of which died, on {} \
             instances",
            self.total.after_death,
            self.violations.len() - after,
            self.total.verifies,
            self.total.valid,
            self.total.unavailable,
            self.keys,
            self.dead,
            self.instances.len()
        )
    }
}
