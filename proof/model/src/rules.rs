//! The rules that can be taken away, each with the search that shows what breaks without it.

use crate::scenarios::Scenario;

/// A set of properties of the promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Properties(u8);

impl Properties {
    pub(crate) const NONE: Self = Self(0);
    /// No Verify that starts later than the commit plus `max_staleness` answers VALID.
    pub(crate) const P1: Self = Self(1);
    /// No Verify that starts after Revoke returned answers VALID.
    pub(crate) const P2: Self = Self(2);
    /// No copy of a key claims a revision at or above its revocation.
    pub(crate) const I2: Self = Self(4);
    /// No Revoke returns OK after the failover that lost its commit.
    pub(crate) const H1: Self = Self(8);
    /// No instance that applied a revocation answers VALID before an operator has accepted its loss.
    pub(crate) const H2: Self = Self(16);

    /// This set if `is_broken`, otherwise none.
    pub(crate) fn when(self, is_broken: bool) -> Self {
        if is_broken { self } else { Self::NONE }
    }

    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn contain(self, others: Self) -> bool {
        others.without(self) == Self::NONE
    }

    /// The names, with a space between them.
    pub(crate) fn names(self) -> String {
        let all = [
            (Self::P1, "P1"),
            (Self::P2, "P2"),
            (Self::I2, "I2"),
            (Self::H1, "H1"),
            (Self::H2, "H2"),
        ];
        let names = all.into_iter().filter(|(one, _)| self.contain(*one));
        names.map(|(_, name)| name).collect::<Vec<_>>().join(" ")
    }
}

/// Declares the rules. Each line: the rule, the scenario whose search breaks without it, and what breaks.
macro_rules! rules {
    ($($(#[doc = $text:literal])* $rule:ident $scenario:ident [$($broken:ident)*],)*) => {
        /// A rule of the design.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Rule { $($(#[doc = $text])* $rule,)* }

        /// Each rule, a scenario, and what breaks in it without the rule.
        pub(crate) const RULES: &[(Rule, Scenario, Properties)] = &[
            $((Rule::$rule, Scenario::$scenario, Properties::NONE$(.with(Properties::$broken))*),)*
        ];
    };
}

rules! {
    // Membership and wait.
    FreshnessNotFromRegistration Membership [P2],
    /// Nothing breaks without it, as long as a heartbeat without a row gives no freshness.
    TailOnlyAfterRegistration Membership [],
    IdForEachStart TwoInstances [P2],
    WaitByTheRowsBound Membership [P2],
    WaitFromTheCommitsAnswer Membership [P2],
    WaitStrictlyLonger Membership [P2],
    WaitAtAll Membership [P2],
    SilentRowsAreDeleted Membership [P2],
    ReapOnlyAnUnchangedHeartbeat Membership [P2],
    ReapByTheRowsBound Membership [P2],
    SilenceFromTheAnswer Membership [P2],
    SilenceByTheReapersClock Membership [P2],
    ReapedOnceCommitted Membership [P2],
    HeartbeatNeverRepeats Membership [P2],
    IdForEachRegistration PatientMembership [P2],
    ZeroRowsGiveNoFreshness Membership [P2],
    InstancesListedAfterTheCommit Membership [P2],
    FreshnessEndsBeforeTheRow Membership [P2],
    FreshnessFromTheSending Membership [P1 P2],
    // Cache, pruning, new stamps, single flight.
    RestampReadBeforeTombstones Cache [I2 P1 P2],
    RestampNeverToTheHead Cache [I2 P1 P2],
    StartRaisesTheFloor Cache [P1 P2],
    TrimReadWithTheRows Cache [P1 P2],
    JumpRaisesTheFloor Cache [P1 P2],
    TrimmedRowsAreNoticed Cache [P1 P2],
    PruneRaisesTheFloor Cache [P1 P2],
    FloorRisesFirst Cache [P1 P2],
    PruneByKeyAndRevision CacheWithUpdate [P1 P2],
    TombstoneBeforeFloor Cache [P1 P2],
    TombstonesBeforeApplied Cache [P1 P2],
    TombstonesBeforeFreshness Cache [P1 P2],
    TombstonesByKey Cache [P1 P2],
    FlightSharesNoVerdict Flight [P1 P2],
    SharedCacheIsAdmitted Cache [P1 P2],
    // Pages.
    NoFreshnessFromACutOffPage Pages [P1],
    AppliedEndsWithThePage Pages [P1],
    PagesGiveTheHeartbeatsTime Pages [P1],
    // Failover.
    NewEpochSettles Failover [P2],
    ConfirmIsAWrite Failover [H1],
    ConfirmBeforeReturn Failover [H1],
    /// Nothing breaks without it, as long as acknowledgements have marks.
    NewRegistrationAfterAdvance FailoverWithOperator [],
    NewEpochEndsFreshness Failover [H2],
    NewEpochKeepsTombstones Failover [H2],
    MarkComparedAtHeartbeat FailoverOfACommit [P1 H2],
    MarkComparedAtRead FailoverOfACommit [P1],
    MarkComparedAtJump FailoverOfACommit [H2],
    EpochHasTimeline Failover [P1 P2 H2],
    HeartbeatIsAWrite Failover [P1 P2],
    OnePrimaryCommits Failover [P1 P2 H1],
    // Acknowledgements over a failover that keeps the rows.
    OwnMemoryInItsEpoch RowsKept [P2],
    AcknowledgementHasMark RowsKept [P2],
    ReadsOnlyInOwnEpoch RowsKeptWithReads [H2 P2],
}
