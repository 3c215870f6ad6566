//! Cases of an instance that is behind, and of an instance that meets another history of its log.

use super::cases::fresh_fence;
use super::*;

/// A heartbeat whose page was cut off says nothing about the rows behind the page. Its time counts when
/// pages have reached its head, which may be before the head of the log.
#[test]
fn an_instance_that_is_behind_is_fresh_when_it_has_reached_a_heartbeats_head() {
    let mut world = World::default();
    let fence = Fence::new(BOUND, 10, world.start());
    for key in [1, 2, 3] {
        world.change(key, 1);
    }
    let behind = fence.absorb(now(2), &world.page_of(0, 2));
    assert_eq!(behind, Ok(Absorbed::Behind));
    assert_eq!((fence.applied(), fence.is_fresh(now(2))), (2, false));
    assert_eq!(
        fence.position().1,
        Position {
            revision: 2,
            mark: mark(2, 0)
        }
    );
    world.change(4, 3);
    // A later heartbeat is cut off, too.
    assert_eq!(
        fence.absorb(now(4), &world.page_of(2, 1)),
        Ok(Absorbed::Behind)
    );
    assert_eq!(fence.freshness_age(now(6)), Some(Duration::from_micros(4)));
    assert_eq!(
        fence.absorb_read(now(5), &world.page(3)),
        Ok(Absorbed::Applied)
    );
    assert_eq!(fence.freshness_age(now(6)), Some(Duration::from_micros(4)));
    // The end of freshness, as at a new registration, is the end of such a heartbeat.
    world.change(1, 7);
    world.change(2, 7);
    fence.absorb(now(8), &world.page_of(4, 1)).unwrap();
    fence.stop_being_fresh();
    assert_eq!(
        fence.absorb_read(now(9), &world.page(5)),
        Ok(Absorbed::Applied)
    );
    assert!(!fence.is_fresh(now(9)));
}

/// The rows of a read in another epoch may replace rows that this instance has applied.
#[test]
fn a_read_in_another_epoch_applies_nothing() {
    let mut world = World::default();
    let fence = fresh_fence(&world, 1);
    world.change(1, 2);
    let mut page = world.page(0);
    page.epoch.timeline = 2;
    assert_eq!(fence.absorb_read(now(3), &page), Ok(Absorbed::OtherEpoch));
    assert_eq!((fence.applied(), fence.epoch()), (0, EPOCH));
    assert_eq!(fence.absorb(now(4), &page), Ok(Absorbed::Applied));
    assert_eq!((fence.applied(), fence.epoch()), (1, page.epoch));
}

/// The freshness of one history says nothing about another.
#[test]
fn a_heartbeat_in_another_epoch_ends_freshness_also_if_it_is_cut_off() {
    let mut world = World::default();
    let fence = fresh_fence(&world, 1);
    world.change(1, 2);
    world.change(2, 2);
    let mut page = world.page_of(0, 1);
    page.epoch.timeline = 2;
    assert_eq!(fence.absorb(now(3), &page), Ok(Absorbed::Behind));
    assert!(!fence.is_fresh(now(3)));
    let mut rest = world.page(1);
    rest.epoch = page.epoch;
    fence.absorb_read(now(4), &rest).unwrap();
    assert_eq!(fence.freshness_age(now(4)), Some(Duration::from_micros(1)));
}

/// `applied` counts in a new epoch only after its mark was found there.
#[test]
fn applied_belongs_to_its_epoch() {
    let mut world = World::default();
    world.change(1, 1);
    let fence = fresh_fence(&world, 2);
    let mut page = world.page(1);
    page.epoch.timeline = 2;
    assert_eq!(fence.known(), (EPOCH, 1));
    let mut lost = page.clone();
    lost.mark_at_applied = Some(mark(1, 1));
    let refusing = fresh_fence(&world, 2);
    assert!(refusing.absorb(now(3), &lost).is_err());
    assert_eq!(refusing.known().0, EPOCH);
    fence.absorb(now(3), &page).unwrap();
    assert_eq!(fence.known(), (page.epoch, 1));
}
