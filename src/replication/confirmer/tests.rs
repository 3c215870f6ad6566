//! When a pending confirmation ends, and how often it polls.

use keyward_core::fence::{Member, RegistrationId};

use super::*;

const EPOCH: Epoch = Epoch {
    system: 1,
    timeline: 1,
    incarnation: 1,
};
const PROMOTED: Epoch = Epoch {
    timeline: 2,
    ..EPOCH
};

#[test]
fn a_change_is_confirmed_only_in_a_settled_epoch_and_a_read_only_in_its_own() {
    let sender = || oneshot::channel().0;
    let at = BootTime::from_micros(0);
    let change = |read_in| {
        let change = CommittedChange::NOTHING.read_in(read_in);
        PendingConfirmation::of_change(change, at, sender())
    };
    let read = PendingConfirmation::of_read(EPOCH, at, sender());
    let (settled, unsettled) = (Ok(()), Err(Unsettled::NoStandby));
    for (pending, outcome, allowed_in) in [
        (&change(None), settled, &[EPOCH, PROMOTED][..]),
        (&change(None), unsettled, &[]),
        // A call that changed nothing relies on what it read.
        (&change(Some(EPOCH)), settled, &[EPOCH]),
        (&change(Some(EPOCH)), unsettled, &[]),
        // No instance need apply anything.
        (&read, settled, &[EPOCH]),
        (&read, unsettled, &[EPOCH]),
    ] {
        for epoch in [EPOCH, PROMOTED] {
            let is_allowed = pending.refusal(epoch, outcome).is_none();
            assert_eq!(
                is_allowed,
                allowed_in.contains(&epoch),
                "{epoch:?} {outcome:?}"
            );
        }
    }
}

fn at(millis: u64) -> BootTime {
    BootTime::from_micros(0).plus(Duration::from_millis(millis))
}

fn change_waiting_for(members: &[(u8, u64)]) -> (PendingConfirmation, Membership) {
    let change = CommittedChange {
        revision: 7,
        ..CommittedChange::NOTHING
    };
    let members = members.iter().map(|(id, acked)| Member {
        registration: RegistrationId::from_bytes([*id; 16]),
        heartbeat: 0,
        acked: *acked,
        max_staleness: Duration::from_secs(2),
    });
    let membership = Membership {
        epoch: EPOCH,
        settled: None,
        has_standby: false,
        members: members.collect(),
    };
    let sender = oneshot::channel().0;
    (
        PendingConfirmation::of_change(change, at(0), sender),
        membership,
    )
}

#[test]
fn a_change_is_confirmed_by_a_write_after_all_acknowledgements() {
    for (acked, stands, outcome) in [
        (7, Some(true), Some(true)),
        (7, Some(false), Some(false)),
        (7, None, None),
        (6, Some(true), None),
    ] {
        let (mut pending, membership) = change_waiting_for(&[(1, 7), (2, acked)]);
        assert_eq!(pending.awaited(at(1)), 7);
        pending.observe(&membership, at(1));
        let confirmed = pending.outcome(stands).map(|outcome| outcome.is_ok());
        assert_eq!(confirmed, outcome, "{acked} {stands:?}");
        assert_eq!(pending.awaited(at(1)), if acked == 7 { 0 } else { 7 });
    }
}

#[test]
fn polls_follow_each_other_at_first_and_then_as_the_wait_grows() {
    let (mut pending, membership) = change_waiting_for(&[(1, 6)]);
    pending.observe(&membership, at(0));
    // The bound ends at 2,140 ms.
    for (millis, pause) in [
        (3, 0),
        (4, 1),
        (40, 10),
        (1_000, 100),
        (2_100, 40),
        (2_140, 1),
    ] {
        let expected = Duration::from_millis(pause);
        assert_eq!(pending.pause(at(millis)), expected, "{millis}");
    }
    assert_eq!(
        (pending.awaited(at(2_140)), pending.awaited(at(2_141))),
        (7, 0)
    );
}
