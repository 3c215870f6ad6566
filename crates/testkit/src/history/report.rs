//! What a history says, for a person and for a test.

use std::collections::BTreeMap;
use std::fmt;

/// How often something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of Verify.
    pub verifies: usize,
    /// Those that ended without a verdict.
    pub unavailable: usize,
    /// Those that said VALID.
    pub valid: usize,
    /// Those that began after the key was promised dead.
    pub after_death: usize,
}

/// What breaks the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// VALID to a call that began after the key was promised dead.
    ValidAfterDeath {
        /// So many microseconds after.
        late: u64,
    },
    /// Another verdict, answered before anybody had asked for the key's end.
    LiveKeyCalledDead {
        /// What was said instead.
        verdict: String,
    },
}

/// One answer that breaks the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key's id.
    pub key: String,
    /// Who answered.
    pub instance: usize,
    /// When the call began, in microseconds of the history.
    pub began: u64,
    /// What is wrong.
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

/// What a history says.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Keys that were issued.
    pub keys: usize,
    /// Those of them that were promised dead.
    pub dead: usize,
    /// All instances together.
    pub total: Counts,
    /// Each instance.
    pub instances: BTreeMap<usize, Counts>,
    /// What breaks the promise, in the order of the file.
    pub violations: Vec<Violation>,
}

impl Report {
    /// How many were VALID after the key's death.
    pub fn valid_after_death(&self) -> usize {
        let late =
            |violation: &&Violation| matches!(violation.fault, Fault::ValidAfterDeath { .. });
        self.violations.iter().filter(late).count()
    }
}

/// One line; [`Violation`]s have their own.
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
