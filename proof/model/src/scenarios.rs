//! The runs: what can happen in each.

use crate::cache::Memory;
use crate::failover::Failover;
use crate::membership::Instances;
use crate::rules::{Properties, Rule};
use crate::search::{Outcome, search};

/// A model with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// One instance after the other, with heartbeats that are given up.
    Membership,
    /// The same without heartbeats that are given up.
    PatientMembership,
    /// Two instances at a time, without reaping.
    TwoInstances,
    /// One verification and everything that can happen to the memory.
    Cache,
    /// A key that is updated before it is revoked.
    CacheWithUpdate,
    /// Two verifications that share a read.
    Flight,
    /// Pages of one row.
    Pages,
    /// Pages of one row of a log that is trimmed.
    PagesOfATrimmedLog,
    /// A failover with a lost tail, and three changes on both servers together.
    Failover,
    /// With jumps and reads between heartbeats, of a Revoke that never returns.
    FailoverOfACommit,
    /// With two changes.
    ShortFailover,
    /// With two changes and `epoch advance`.
    FailoverWithOperator,
    /// With two changes, reads between heartbeats and restarts.
    FailoverWithReads,
    /// A failover that keeps the rows, so that no epoch has to settle.
    RowsKept,
    /// With two changes, reads between heartbeats and `epoch advance`.
    RowsKeptWithReads,
}

/// All scenarios, those with the most states first.
pub(crate) const ALL: [Scenario; 15] = {
    use Scenario::*;
    [
        FailoverOfACommit,
        Failover,
        Flight,
        RowsKept,
        FailoverWithReads,
        RowsKeptWithReads,
        FailoverWithOperator,
        CacheWithUpdate,
        PagesOfATrimmedLog,
        Membership,
        Pages,
        PatientMembership,
        ShortFailover,
        Cache,
        TwoInstances,
    ]
};

impl Scenario {
    /// Searches this scenario without some rules. Stops when the `wanted` properties are broken.
    pub(crate) fn search(self, without: &[Rule], wanted: Properties) -> Outcome {
        let without = without.to_vec();
        match self {
            Self::TwoInstances => {
                let two = Instances {
                    without,
                    bounds: [1, 1],
                    own_bound: 1,
                    gives_up: false,
                    reaps: false,
                };
                search(&two, wanted)
            }
            Self::Membership | Self::PatientMembership => {
                let one = Instances {
                    without,
                    bounds: [2],
                    own_bound: 1,
                    gives_up: self == Self::Membership,
                    reaps: true,
                };
                search(&one, wanted)
            }
            Self::Flight => search(&self.memory::<2>(without), wanted),
            Self::Cache | Self::CacheWithUpdate | Self::Pages | Self::PagesOfATrimmedLog => {
                search(&self.memory::<1>(without), wanted)
            }
            _ => search(&self.failover(without), wanted),
        }
    }

    fn memory<const N: usize>(self, without: Vec<Rule>) -> Memory<N> {
        let has_pages = matches!(self, Self::Pages | Self::PagesOfATrimmedLog);
        Memory {
            without,
            bound: 1,
            revisions: if matches!(self, Self::Cache | Self::Flight) {
                2
            } else {
                3
            },
            updates: matches!(self, Self::CacheWithUpdate | Self::Pages),
            restarts: self == Self::Cache,
            trims: matches!(self, Self::Cache | Self::PagesOfATrimmedLog),
            prunes: self != Self::PagesOfATrimmedLog,
            jumps: self == Self::Cache,
            page_rows: u8::from(has_pages),
        }
    }

    fn failover(self, without: Vec<Rule>) -> Failover {
        use Scenario::{
            Failover as Base, FailoverOfACommit, FailoverWithOperator, FailoverWithReads, RowsKept,
            RowsKeptWithReads,
        };
        Failover {
            without,
            changes: if matches!(self, Base | FailoverOfACommit | RowsKept) {
                3
            } else {
                2
            },
            returns: self != FailoverOfACommit,
            keeps_rows: matches!(self, RowsKept | RowsKeptWithReads),
            advances: matches!(self, FailoverWithOperator | RowsKeptWithReads),
            restarts: self == FailoverWithReads,
            jumps: self == FailoverOfACommit,
            reads: matches!(
                self,
                FailoverOfACommit | FailoverWithReads | RowsKeptWithReads
            ),
        }
    }
}
