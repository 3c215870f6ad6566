//! A short form of `make model`.

use super::*;

/// Their shortest traces are too deep for `make test`.
const DEEP: &[Rule] = &[
    Rule::TailOnlyAfterRegistration,
    Rule::SilentRowsAreDeleted,
    Rule::ReapOnlyAnUnchangedHeartbeat,
    Rule::ReapByTheRowsBound,
    Rule::SilenceFromTheAnswer,
    Rule::SilenceByTheReapersClock,
    Rule::ReapedOnceCommitted,
    Rule::HeartbeatNeverRepeats,
    Rule::IdForEachRegistration,
    Rule::ZeroRowsGiveNoFreshness,
    Rule::RestampReadBeforeTombstones,
    Rule::RestampNeverToTheHead,
    Rule::PruneByKeyAndRevision,
    Rule::TombstonesBeforeApplied,
    Rule::FlightSharesNoVerdict,
    Rule::PagesGiveTheHeartbeatsTime,
    Rule::NewRegistrationAfterAdvance,
    Rule::NewEpochKeepsTombstones,
    Rule::MarkComparedAtHeartbeat,
    Rule::MarkComparedAtRead,
    Rule::MarkComparedAtJump,
    Rule::HeartbeatIsAWrite,
    Rule::OnePrimaryCommits,
    Rule::AcknowledgementHasMark,
    Rule::ReadsOnlyInOwnEpoch,
];

#[test]
fn the_rules_hold() {
    assert!(all_rules_hold(&[
        Scenario::TwoInstances,
        Scenario::PatientMembership,
        Scenario::ShortFailover,
        Scenario::Cache,
    ]));
}

#[test]
fn without_a_rule_the_promise_breaks() {
    let rules = RULES.iter().filter(|(rule, ..)| !DEEP.contains(rule));
    let rules: Vec<_> = rules.copied().collect();
    assert!(each_rule_is_needed(&rules));
}

#[test]
fn a_trace_is_a_shortest_one() {
    let outcome = Scenario::Failover.search(&[Rule::ConfirmIsAWrite], Properties::H1);
    let (_, trace) = &outcome.traces[0];
    assert_eq!(
        trace[..],
        [
            "Revoke commits",
            "the standby is promoted",
            "Revoke lists the instances",
            "Revoke returns",
        ]
    );
}
