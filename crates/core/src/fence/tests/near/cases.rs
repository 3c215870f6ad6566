//! Single decisions about near-caches.

use super::*;

fn fresh_fence(world: &World) -> (Fence, Clocks) {
    let clocks = Clocks::default();
    let fence = Fence::new(BOUND, 100, World::default().start());
    fence.absorb(Now::read(&clocks), &world.page(0)).unwrap();
    (fence, clocks)
}

/// The tombstone of a change that is applied may be above `applied`, because its key has changed again and
/// the page is not published yet. Without it the near-cache would acknowledge the first change, and not
/// know it.
#[test]
fn a_key_that_changes_again_while_an_answer_is_built_is_told() {
    let mut world = World::default();
    for key in [1, 2] {
        world.change(key, 1);
    }
    let (fence, clocks) = fresh_fence(&world);
    // So many that the outdated ones are removed.
    for revision in 3..1_200 {
        fence.tombstones.set(id(1), revision);
    }
    let answer = fence.answer((EPOCH, 0), Some(NEAR), &clocks).unwrap();
    assert_eq!(answer.applied, 2);
    assert!(answer.changes.unwrap().iter().any(|(key, _)| *key == id(1)));
}

#[test]
fn a_list_that_is_too_long_becomes_a_reset() {
    let mut world = World::default();
    for key in [1, 2, 3] {
        world.change(key, 1);
    }
    let (fence, clocks) = fresh_fence(&world);
    assert_eq!(fence.tombstones.after(0, 2), None);
    let last_two = vec![(id(2), 2), (id(3), 3)];
    assert_eq!(fence.tombstones.after(1, 2), Some(last_two.clone()));
    let answer = |known| fence.answer(known, Some(NEAR), &clocks).unwrap();
    assert_eq!(answer((EPOCH, 1)).changes, Some(last_two));
    // As if a tombstone was pruned.
    fence.raise_floor(1);
    let reset = answer((EPOCH, 0));
    assert_eq!((&reset.changes, reset.applied), (&None, 3));
    let near = Fence::near(EPOCH);
    assert!(near.take(Now::read(&clocks), &reset));
    assert_eq!((near.floor(), near.applied()), (3, 3));
    // Nor is there a list for one that knows another log.
    assert_eq!(answer((Epoch::NONE, 3)).changes, None);
}

/// Answers to polls and calls come in any order. The store's time in them is a lower bound, and the near-cache
/// must not run ahead of it.
#[test]
fn the_stores_time_does_not_run_ahead_by_answers_out_of_order() {
    let near = Fence::near(EPOCH);
    let (early, late) = (BootTime::from_micros(0), BootTime::from_micros(1_000_000));
    for _ in 0..10 {
        near.note_time(Timestamp::from_micros(500), late);
        near.note_time(Timestamp::from_micros(500), early);
    }
    let time = near.snapshot().database_time(late);
    assert_eq!(time, Timestamp::from_micros(1_000_500));
}

/// The end of freshness that an earlier answer set lies far ahead on a wall clock that was set back.
#[test]
fn the_wall_clock_bounds_freshness_after_it_was_set_back() {
    let (fence, clocks) = fresh_fence(&World::default());
    let near = Fence::near(EPOCH);
    let answer = fence.answer((EPOCH, 0), Some(NEAR), &clocks).unwrap();
    assert!(near.take(Now::read(&clocks), &answer));
    clocks.boot.store(1_000, Relaxed);
    clocks.wall_step.store(-3_600_000_000, Relaxed);
    assert!(near.take(Now::read(&clocks), &answer));
    assert!(near.is_fresh(Now::read(&clocks)));
    // The boot clock stands still, as it must not.
    clocks.wall_step.fetch_add(1_600_000, Relaxed);
    assert!(!near.is_fresh(Now::read(&clocks)));
}

/// The near-cache counts from its poll, and the instance's knowledge was older already.
#[test]
fn an_answer_is_shorter_by_the_age_of_freshness() {
    let (fence, clocks) = fresh_fence(&World::default());
    let fresh_for = |micros: i64| {
        clocks.boot.store(micros, Relaxed);
        let answer = fence.answer((EPOCH, 0), Some(NEAR), &clocks).unwrap();
        answer.fresh_for.map(|left| left.as_millis())
    };
    assert_eq!(fresh_for(0), Some(1_500));
    assert_eq!(fresh_for(1_000_000), Some(500));
    assert_eq!(fresh_for(1_500_001), None);
}

/// The near-cache has changed to an instance that is behind, or the answer comes late.
#[test]
fn an_answer_from_before_lowers_nothing() {
    let near = Fence::near(EPOCH);
    let answer = |revision: u64| NearAnswer {
        epoch: EPOCH,
        applied: revision,
        fresh_for: Some(NEAR),
        database_time: Timestamp::from_micros(0),
        changes: Some(vec![(id(1), revision)]),
    };
    assert!(near.take(now(5), &answer(9)));
    assert!(near.take(now(1), &answer(5)));
    assert_eq!(near.known(), (EPOCH, 9));
    assert_eq!(near.fresh_for(now(5)), Some(NEAR));
    let admission = |revision| {
        let epoch = EPOCH;
        near.snapshot()
            .admit(&[id(1)], Stamp { epoch, revision }, now(5))
    };
    assert_eq!(admission(7), Admission::Superseded);
    assert_eq!(admission(9), Admission::Admitted { restamp: 9 });
}

#[test]
fn an_answer_of_another_epoch_is_not_taken() {
    let mut world = World::default();
    world.change(1, 1);
    let (fence, clocks) = fresh_fence(&world);
    let near = Fence::near(Epoch::NONE);
    let answer = fence.answer(near.known(), Some(NEAR), &clocks).unwrap();
    assert!(!near.take(Now::read(&clocks), &answer));
    assert_eq!(
        (near.known(), near.is_fresh(Now::read(&clocks))),
        ((Epoch::NONE, 0), false)
    );
}

#[test]
fn acknowledgements_start_again_in_a_new_epoch() {
    let mut world = World::default();
    world.change(1, 1);
    let (fence, clocks) = fresh_fence(&world);
    let mut leases = Leases::new(NEAR, None, &fence, clocks.boot());
    let (stream, broken) = (leases.open(), leases.open());
    leases.poll(broken, (EPOCH, 1), &fence, &clocks);
    leases.broke(broken);
    clocks.boot.fetch_add(1_000, Relaxed);
    leases.poll(stream, (EPOCH, 1), &fence, &clocks);
    assert_eq!(leases.acked(&fence, &clocks).1.revision, 1);
    let mut page = world.page(1);
    page.epoch.timeline = 2;
    fence.absorb(Now::read(&clocks), &page).unwrap();
    let (epoch, acked) = leases.acked(&fence, &clocks);
    assert_eq!((epoch, acked.revision), (page.epoch, 0));
    leases.poll(stream, (page.epoch, 1), &fence, &clocks);
    let acked = leases.acked(&fence, &clocks).1.revision;
    assert_eq!(acked, 0, "the broken stream");
    // The poll of a near-cache that knows the old epoch acknowledges nothing of the new one.
    let mut leases = Leases::new(NEAR, None, &fence, clocks.boot());
    let stream = leases.open();
    leases.poll(stream, (EPOCH, 1), &fence, &clocks);
    assert_eq!(leases.acked(&fence, &clocks).1.revision, 0);
    leases.poll(stream, (page.epoch, 1), &fence, &clocks);
    assert_eq!(leases.acked(&fence, &clocks).1.revision, 1);
}

/// A lease runs until its end, inclusive; also the one that an earlier process left.
#[test]
fn a_lease_is_over_after_its_end_not_at_it() {
    let mut world = World::default();
    world.change(1, 1);
    let (fence, clocks) = fresh_fence(&world);
    let longer = Duration::from_secs(5);
    let mut own = Leases::new(NEAR, None, &fence, clocks.boot());
    // The second poll renews the lease of the first.
    let stream = own.open();
    clocks.boot.store(-1_000_000, Relaxed);
    own.poll(stream, (EPOCH, 0), &fence, &clocks);
    clocks.boot.store(0, Relaxed);
    own.poll(stream, (EPOCH, 0), &fence, &clocks);
    let mut left = Leases::new(NEAR, Some(longer), &fence, clocks.boot());
    for (leases, length) in [(&mut own, bound(NEAR)), (&mut left, bound(longer))] {
        let end = length.as_micros() as i64;
        clocks.boot.store(end, Relaxed);
        assert_eq!(leases.acked(&fence, &clocks).1.revision, 0);
        assert!(leases.end(clocks.boot()).is_some());
        clocks.boot.store(end + 1, Relaxed);
        assert_eq!(leases.acked(&fence, &clocks).1.revision, 1);
        assert_eq!(leases.end(clocks.boot()), None);
    }
}

/// The leases of broken streams are one: the later end, and the lower acknowledgement.
#[test]
fn broken_streams_are_merged_and_not_forgotten() {
    let mut world = World::default();
    world.change(1, 1);
    let (fence, clocks) = fresh_fence(&world);
    let mut leases = Leases::new(NEAR, None, &fence, clocks.boot());
    for applied in [1, 0, 1] {
        clocks.boot.fetch_add(1_000, Relaxed);
        let stream = leases.open();
        leases.poll(stream, (EPOCH, applied), &fence, &clocks);
        leases.broke(stream);
    }
    assert_eq!(leases.acked(&fence, &clocks).1.revision, 0);
    let end = BootTime::from_micros(3_000).plus(bound(NEAR));
    assert_eq!(leases.end(clocks.boot()), Some(end));
}

/// New streams that break all the time would keep one lease for ever. A change that was applied longer ago
/// than a lease lasts is acknowledged all the same.
#[test]
fn streams_that_break_all_the_time_delay_a_change_once() {
    let mut world = World::default();
    let (fence, clocks) = fresh_fence(&world);
    let mut leases = Leases::new(NEAR, None, &fence, clocks.boot());
    let hectic = |leases: &mut Leases| {
        let stream = leases.open();
        leases.poll(stream, (EPOCH, 0), &fence, &clocks);
        leases.broke(stream);
    };
    hectic(&mut leases);
    world.change(1, 1);
    fence.absorb(Now::read(&clocks), &world.page(0)).unwrap();
    let mut steps = 0;
    while leases.acked(&fence, &clocks).1.revision == 0 {
        hectic(&mut leases);
        clocks.boot.fetch_add(100_000, Relaxed);
        steps += 1;
        assert!(steps < 1_000, "the change is never acknowledged");
    }
    let held = leases.take_held().expect("the change was held up");
    assert!(
        held > bound(NEAR) && leases.take_held().is_none(),
        "{held:?}"
    );
    let lease = bound(NEAR).as_millis() as u64 / 100;
    assert!((lease..lease + 3).contains(&steps), "{steps}");
}

#[test]
fn a_late_acknowledgement_is_reported() {
    let mut world = World::default();
    let (fence, clocks) = fresh_fence(&world);
    let mut leases = Leases::new(NEAR, None, &fence, clocks.boot());
    let stream = leases.open();
    leases.poll(stream, (EPOCH, 0), &fence, &clocks);
    for revision in [1, 2] {
        world.change(1, 1);
        fence
            .absorb(Now::read(&clocks), &world.page(revision - 1))
            .unwrap();
        assert!(leases.acked(&fence, &clocks).1.revision < revision);
        clocks.boot.fetch_add(1_000, Relaxed);
    }
    leases.poll(stream, (EPOCH, 2), &fence, &clocks);
    assert_eq!(leases.acked(&fence, &clocks).1.revision, 2);
    let longest = Some(Duration::from_micros(2_000));
    assert_eq!((leases.take_held(), leases.take_held()), (longest, None));
}

#[test]
fn a_process_that_leaves_makes_nothing_fresh() {
    let world = World::default();
    let (fence, clocks) = fresh_fence(&world);
    let mut leases = Leases::new(NEAR, None, &fence, clocks.boot());
    let (old, new) = (leases.open(), leases.open());
    leases.poll(old, (EPOCH, 0), &fence, &clocks);
    let end = leases.end(clocks.boot()).unwrap();
    leases.leave();
    clocks.boot.fetch_add(1_000, Relaxed);
    leases.poll(old, (EPOCH, 0), &fence, &clocks);
    leases.poll(new, (EPOCH, 0), &fence, &clocks);
    assert_eq!(leases.end(clocks.boot()), Some(end));
    leases.off(old);
    assert_eq!(leases.end(clocks.boot()), None);
    let answer = fence.answer((EPOCH, 0), None, &clocks).unwrap();
    assert_eq!(answer.fresh_for, None);
}

/// Each stream holds a change until it has acknowledged it, in whatever order they poll.
#[test]
fn each_of_many_near_caches_holds_a_change_until_it_acknowledges() {
    let mut world = World::default();
    let (fence, clocks) = fresh_fence(&world);
    let mut leases = Leases::new(NEAR, None, &fence, clocks.boot());
    let streams: Vec<_> = (0..300).map(|_| leases.open()).collect();
    for stream in &streams {
        leases.poll(*stream, (EPOCH, 0), &fence, &clocks);
    }
    let acked = |leases: &mut Leases| leases.acked(&fence, &clocks).1.revision;
    for (step, revision) in [(1, 1), (7, 2), (299, 3)] {
        world.change(1, 1);
        fence
            .absorb(Now::read(&clocks), &world.page(revision - 1))
            .unwrap();
        for index in 0..streams.len() {
            assert_eq!(acked(&mut leases), revision - 1, "{index} have polled");
            let stream = streams[index * step % streams.len()];
            leases.poll(stream, (EPOCH, revision), &fence, &clocks);
        }
        assert_eq!(acked(&mut leases), revision);
    }
    // One that does not poll holds it for a lease.
    world.change(1, 1);
    fence.absorb(Now::read(&clocks), &world.page(3)).unwrap();
    for stream in &streams[1..] {
        leases.poll(*stream, (EPOCH, 4), &fence, &clocks);
        assert_eq!(acked(&mut leases), 3);
    }
    leases.off(streams[0]);
    assert_eq!(acked(&mut leases), 4);
}
