//! Single cases of the fence: what it refuses and what it keeps.

use super::*;

pub(super) fn fresh_fence(world: &World, at: i64) -> Fence {
    let fence = Fence::new(BOUND, 10, world.start());
    fence.absorb(now(at), &world.page(fence.applied())).unwrap();
    fence
}

#[test]
fn nothing_is_admitted_before_the_first_heartbeat() {
    let world = World::default();
    let fence = Fence::new(BOUND, 10, world.start());
    let stamp = Stamp {
        epoch: EPOCH,
        revision: 0,
    };
    assert_eq!(
        fence.snapshot().admit(&[id(1)], stamp, now(1)),
        Admission::NotFresh
    );
    assert_eq!(
        fence.snapshot().admit_absence(stamp, now(1)),
        Admission::NotFresh
    );
}

#[test]
fn freshness_ends_by_either_clock() {
    let fence = fresh_fence(&World::default(), 0);
    let end = i64::try_from(BOUND.as_micros()).unwrap();
    assert!(fence.is_fresh(now(end)) && !fence.is_fresh(now(end + 1)));
    // A frozen machine: its boot clock stopped, its wall clock did not.
    let frozen = Now {
        boot: now(0).boot,
        wall: now(end + 1).wall,
    };
    assert!(!fence.is_fresh(frozen));
    // A wall clock that was set back changes nothing.
    let back = Now {
        boot: now(5).boot,
        wall: Timestamp::from_micros(-3_600_000_000),
    };
    assert!(fence.is_fresh(back));
}

#[test]
fn freshness_counts_from_the_request_of_the_heartbeat() {
    let world = World::default();
    let fence = Fence::new(BOUND, 10, world.start());
    let page = world.page(0);
    fence.absorb(now(0), &page).unwrap();
    assert_eq!(
        fence.freshness_age(now(100)),
        Some(Duration::from_micros(100))
    );
}

#[test]
fn a_log_that_lost_changes_is_refused_until_a_restart() {
    let mut world = World::default();
    for _ in 0..3 {
        world.change(1, 1);
    }
    let fence = fresh_fence(&world, 2);
    let mut other = world.page(3);
    other.mark_at_applied = Some(mark(3, 1));
    let lost = Refused::LogLost {
        applied: 3,
        head: 3,
    };
    assert_eq!(fence.absorb(now(3), &other), Err(lost));
    assert!(!fence.is_fresh(now(3)));
    assert_eq!(
        fence.absorb(now(4), &world.page(3)),
        Err(lost),
        "a later page does not end the refusal"
    );
    fence.restart(world.start());
    assert!(!fence.is_fresh(now(5)));
    fence.absorb(now(5), &world.page(3)).unwrap();
    assert!(fence.is_fresh(now(5)));
}

#[test]
fn a_head_below_applied_means_lost_changes() {
    let mut world = World::default();
    world.change(1, 1);
    let fence = fresh_fence(&world, 2);
    let refused = fence.absorb(now(3), &World::default().page(1));
    assert_eq!(
        refused,
        Err(Refused::LogLost {
            applied: 1,
            head: 0
        })
    );
}

#[test]
fn a_gap_and_a_trimmed_log_are_refused() {
    let mut world = World::default();
    let fence = fresh_fence(&world, 1);
    world.change(1, 2);
    world.change(2, 2);
    let mut page = world.page(0);
    page.rows.remove(0);
    assert_eq!(fence.absorb(now(3), &page), Err(Refused::Gap { after: 0 }));
    assert!(!fence.is_fresh(now(3)) && fence.has_refused());
    assert!(
        fence.absorb(now(4), &world.page(0)).is_err(),
        "until a restart"
    );

    let fence = fresh_fence(&World::default(), 1);
    let mut page = world.page(0);
    page.rows.clear();
    assert_eq!(fence.absorb(now(3), &page), Err(Refused::Gap { after: 0 }));

    let fence = fresh_fence(&World::default(), 1);
    world.pruned_to = 1;
    let trimmed = Refused::Trimmed {
        applied: 0,
        pruned_to: 1,
    };
    assert_eq!(fence.absorb(now(3), &world.page(0)), Err(trimmed));
    assert!(!fence.is_fresh(now(3)) && !fence.has_refused());
}

#[test]
fn an_entry_of_an_older_epoch_is_refused() {
    let world = World::default();
    let fence = fresh_fence(&world, 1);
    let mut page = world.page(0);
    page.epoch.timeline = 2;
    fence.absorb(now(2), &page).unwrap();
    let old = Stamp {
        epoch: EPOCH,
        revision: 0,
    };
    assert_eq!(
        fence.snapshot().admit(&[id(1)], old, now(3)),
        Admission::Superseded
    );
    let ours = Stamp {
        epoch: page.epoch,
        revision: 0,
    };
    assert_eq!(
        fence.snapshot().admit(&[id(1)], ours, now(3)),
        Admission::Admitted { restamp: 0 }
    );
}

#[test]
fn an_instance_too_far_behind_jumps_to_the_head() {
    let mut world = World::default();
    let fence = fresh_fence(&world, 1);
    for _ in 0..=MAX_BEHIND {
        world.change(1, 2);
    }
    assert_eq!(fence.absorb(now(3), &world.page(0)), Ok(Absorbed::Jumped));
    assert!(fence.is_fresh(now(3)));
    assert_eq!(
        (fence.applied(), fence.floor()),
        (world.head(), world.head())
    );
    let before = Stamp {
        epoch: EPOCH,
        revision: world.head() - 1,
    };
    assert_eq!(
        fence.snapshot().admit(&[id(5)], before, now(3)),
        Admission::Superseded
    );
}

#[test]
fn pruning_raises_the_floor_and_keeps_later_changes() {
    let mut world = World::default();
    let fence = Fence::new(BOUND, 2, world.start());
    for key in [1, 2, 1, 3] {
        world.change(key, 1);
    }
    fence.absorb(now(2), &world.page(0)).unwrap();
    // Key 2 (revision 2) has the oldest tombstone: key 1 changed again at revision 3.
    assert_eq!((fence.tombstones(), fence.floor()), (2, 2));
    let at = |revision| Stamp {
        epoch: EPOCH,
        revision,
    };
    assert_eq!(
        fence.snapshot().admit(&[id(1)], at(2), now(3)),
        Admission::Superseded
    );
    assert_eq!(
        fence.snapshot().admit(&[id(2)], at(1), now(3)),
        Admission::Superseded
    );
    assert_eq!(
        fence.snapshot().admit(&[id(2)], at(2), now(3)),
        Admission::Admitted { restamp: 4 }
    );
}

/// An answer that rests on several keys.
#[test]
fn a_change_of_each_key_outdates_their_answer() {
    for changed in [1, 2, 3] {
        let mut world = World::default();
        let fence = Fence::new(BOUND, 10, world.start());
        for key in [3, changed] {
            world.change(key, 1);
        }
        fence.absorb(now(2), &world.page(0)).unwrap();
        let at = |revision| Stamp {
            epoch: EPOCH,
            revision,
        };
        let admit = |ids: &[KeyId], stamp| fence.snapshot().admit(ids, stamp, now(3));
        let both = [id(1), id(2)];
        let outdated = match changed {
            3 => Admission::Admitted { restamp: 2 },
            _ => Admission::Superseded,
        };
        assert_eq!(admit(&both, at(1)), outdated, "key {changed}");
        assert_eq!(admit(&both, at(2)), Admission::Admitted { restamp: 2 });
        assert_eq!(admit(&[], at(1)), Admission::Admitted { restamp: 2 });
    }
}

#[test]
fn database_time_never_falls() {
    let world = World::default();
    let fence = Fence::new(BOUND, 10, world.start());
    let mut page = world.page(0);
    page.database_time = Timestamp::from_micros(1_000);
    fence.absorb(now(10), &page).unwrap();
    assert_eq!(
        fence.snapshot().database_time(now(60).boot),
        Timestamp::from_micros(1_050)
    );
    page.database_time = Timestamp::from_micros(0);
    fence.absorb(now(110), &page).unwrap();
    assert_eq!(
        fence.snapshot().database_time(now(110).boot),
        Timestamp::from_micros(1_100)
    );
}

#[test]
fn repeated_changes_of_one_key_keep_one_tombstone() {
    let tombstones = Tombstones::default();
    for revision in 0..10_000 {
        tombstones.set(id(1), revision);
    }
    assert_eq!(
        (tombstones.len(), tombstones.oldest()),
        (1, Some((id(1), 9_999)))
    );
}

/// The floor stands for the part of the log that a new instance has not read.
#[test]
fn a_start_admits_nothing_from_before_it() {
    let mut world = World::default();
    world.change(1, 1);
    let fence = fresh_fence(&world, 2);
    let before = Stamp {
        epoch: EPOCH,
        revision: 0,
    };
    assert_eq!(
        fence.snapshot().admit(&[id(1)], before, now(3)),
        Admission::Superseded
    );
}

/// I2, I4: the admission did not check changes that were applied after the snapshot.
#[test]
fn an_admission_restamps_with_applied_of_its_snapshot() {
    let mut world = World::default();
    let fence = fresh_fence(&world, 1);
    let snapshot = fence.snapshot();
    world.change(2, 2);
    fence.absorb(now(3), &world.page(0)).unwrap();
    let stamp = Stamp {
        epoch: EPOCH,
        revision: 0,
    };
    assert_eq!(
        snapshot.admit(&[id(1)], stamp, now(4)),
        Admission::Admitted { restamp: 0 }
    );
}

/// A snapshot does not prolong the freshness under which it was taken.
#[test]
fn a_snapshot_admits_nothing_after_freshness_has_ended() {
    let fence = fresh_fence(&World::default(), 0);
    let snapshot = fence.snapshot();
    let stamp = Stamp {
        epoch: EPOCH,
        revision: 0,
    };
    let end = i64::try_from(BOUND.as_micros()).unwrap();
    assert_eq!(
        snapshot.admit(&[id(1)], stamp, now(end)),
        Admission::Admitted { restamp: 0 }
    );
    assert_eq!(
        snapshot.admit(&[id(1)], stamp, now(end + 1)),
        Admission::NotFresh
    );
}

#[test]
fn a_jump_compares_the_mark_first() {
    let mut world = World::default();
    let fence = fresh_fence(&world, 1);
    for _ in 0..=MAX_BEHIND {
        world.change(1, 2);
    }
    let mut page = world.page(0);
    page.mark_at_applied = Some(mark(0, 1));
    assert!(matches!(
        fence.absorb(now(3), &page),
        Err(Refused::LogLost { .. })
    ));
}

/// Only a heartbeat that wrote its row gives freshness.
#[test]
fn a_read_without_a_heartbeat_is_applied_and_gives_no_freshness() {
    let mut world = World::default();
    let fence = Fence::new(BOUND, 10, world.start());
    world.change(1, 1);
    let page = world.page(fence.applied());
    assert_eq!(fence.absorb_read(now(2), &page), Ok(Absorbed::Applied));
    assert!(!fence.is_fresh(now(2)));
    assert_eq!(fence.applied(), 1);
    fence.absorb(now(3), &world.page(1)).unwrap();
    world.change(2, 4);
    fence.absorb_read(now(5), &world.page(1)).unwrap();
    assert_eq!(fence.freshness_age(now(5)), Some(Duration::from_micros(2)));
    let stamp = Stamp {
        epoch: EPOCH,
        revision: 1,
    };
    let snapshot = fence.snapshot();
    assert_eq!(
        snapshot.admit(&[id(2)], stamp, now(5)),
        Admission::Superseded
    );
}

/// An operator accepts the shorter log. The old tombstones must not refuse changes that now have
/// their revisions, and an older snapshot must not use the new tombstones.
#[test]
fn a_restart_after_lost_changes_resets_tombstones_and_refuses_older_snapshots() {
    let mut world = World::default();
    for _ in 0..3 {
        world.change(1, 1);
    }
    let fence = fresh_fence(&world, 2);
    let raised = Epoch {
        incarnation: EPOCH.incarnation + 1,
        ..EPOCH
    };
    // The remaining log is shorter, and its first change is another one.
    let mut remaining = World::default();
    remaining.change(2, 1);
    let before = fence.snapshot();
    assert!(fence.absorb(now(3), &remaining.page(3)).is_err());
    assert!(!fence.may_restart(EPOCH) && fence.may_restart(raised));
    let start = Start {
        epoch: raised,
        floor: 0,
        applied: 0,
        ..remaining.start()
    };
    let start = Start {
        mark: mark(0, 0),
        ..start
    };
    fence.restart(start);
    assert!(!fence.may_restart(raised), "the restart is done");
    let page = Page {
        epoch: raised,
        ..remaining.page(0)
    };
    fence.absorb(now(4), &page).unwrap();
    let admit = |snapshot: Snapshot<'_>, key, epoch, revision| {
        let stamp = Stamp { epoch, revision };
        snapshot.admit(&[id(key)], stamp, now(5))
    };
    let admission = admit(fence.snapshot(), 1, raised, 1);
    assert_eq!(
        admission,
        Admission::Admitted { restamp: 1 },
        "the old tombstone is gone"
    );
    assert_eq!(admit(fence.snapshot(), 2, raised, 0), Admission::Superseded);
    assert_eq!(admit(before, 3, EPOCH, 3), Admission::Superseded);
}
