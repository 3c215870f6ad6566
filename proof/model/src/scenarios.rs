//! The runs: what can happen in each.

use crate::cache::Memory;
use crate::failover::Failover;
use crate::membership::Instances;
use crate::rules::{Properties, Rule};
use crate::search::{Outcome, search};

/// A model with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// One instance after the other, with statements that are given up.
    Membership,
    /// Two instances at a time, without reaping.
    TwoBoots,
    /// One verification and everything that can happen to the memory.
    Cache,
    /// The same with a key that was updated before it is revoked.
    CacheWithUpdate,
    /// Two verifications that share a read.
    Flight,
    /// Pages of one row.
    Pages,
    /// Pages of one row of a log that is trimmed.
    PagesOfATrimmedLog,
    /// A failover with a lost tail, and two changes on both servers together.
    FailoverOfTwoChanges,
    /// The same with three changes.
    Failover,
    /// The same with `epoch advance`.
    FailoverWithOperator,
    /// The same with an instance that jumps.
    FailoverWithJump,
    /// The same with reads between heartbeats.
    FailoverWithReads,
    /// The same with restarts.
    FailoverWithRestarts,
    /// A failover that keeps the rows, so that no epoch has to settle.
    RowsKept,
    /// The same with reads between heartbeats.
    RowsKeptWithReads,
    /// The same with `epoch advance`.
    RowsKeptWithOperator,
}

/// All scenarios.
pub(crate) const ALL: [Scenario; 16] = {
    use Scenario::*;
    [
        TwoBoots,
        FailoverOfTwoChanges,
        Flight,
        RowsKept,
        Cache,
        Pages,
        Membership,
        CacheWithUpdate,
        PagesOfATrimmedLog,
        Failover,
        FailoverWithOperator,
        FailoverWithJump,
        FailoverWithReads,
        FailoverWithRestarts,
        RowsKeptWithReads,
        RowsKeptWithOperator,
    ]
};

impl Scenario {
    /// Searches this scenario without some rules. Stops when the `wanted` properties are broken.
    pub(crate) fn search(self, without: &[Rule], wanted: Properties) -> Outcome {
        let without = without.to_vec();
        match self {
            Self::TwoBoots => {
                let two = Instances {
                    without,
                    bounds: [1, 1],
                    own_bound: 1,
                    gives_up: false,
                    reaps: false,
                };
                search(&two, wanted)
            }
            Self::Membership => {
                let one = Instances {
                    without,
                    bounds: [2],
                    own_bound: 1,
                    gives_up: true,
                    reaps: true,
                };
                search(&one, wanted)
            }
            Self::Flight => {
                let two = Memory::<2> {
                    restarts: false,
                    trims: false,
                    jumps: false,
                    ..self.memory(without)
                };
                search(&two, wanted)
            }
            Self::Cache | Self::CacheWithUpdate | Self::Pages | Self::PagesOfATrimmedLog => {
                search(&self.memory::<1>(without), wanted)
            }
            _ => search(&self.failover(without), wanted),
        }
    }

    fn memory<const N: usize>(self, without: Vec<Rule>) -> Memory<N> {
        let has_pages = matches!(self, Self::Pages | Self::PagesOfATrimmedLog);
        let has_update = has_pages || self == Self::CacheWithUpdate;
        Memory {
            without,
            bound: 1,
            revisions: if has_update { 3 } else { 2 },
            updates: has_update,
            restarts: self == Self::Cache,
            trims: self != Self::Pages,
            prunes: true,
            jumps: !has_pages,
            page_rows: u8::from(has_pages),
        }
    }

    fn failover(self, without: Vec<Rule>) -> Failover {
        use Scenario::{
            FailoverWithJump, FailoverWithOperator, FailoverWithReads, FailoverWithRestarts,
            RowsKept, RowsKeptWithOperator, RowsKeptWithReads,
        };
        Failover {
            without,
            changes: if self == Self::FailoverOfTwoChanges {
                2
            } else {
                3
            },
            keeps_rows: matches!(self, RowsKept | RowsKeptWithReads | RowsKeptWithOperator),
            advances: matches!(self, FailoverWithOperator | RowsKeptWithOperator),
            restarts: self == FailoverWithRestarts,
            jumps: self == FailoverWithJump,
            reads: matches!(self, FailoverWithReads | RowsKeptWithReads),
        }
    }
}
