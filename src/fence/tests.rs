//! The fence against a tiny world: a store with a log, clocks, and readers that may hold what
//! they read for as long as they like. P1 is checked at every admission.
#![expect(clippy::cast_possible_truncation, reason = "the worlds here are small")]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::key::{Entropy, KeyId};

const BOUND: Duration = Duration::from_secs(2);
const KEYS: usize = 6;

struct Counting(u8);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(self.0);
    }
}

fn id(n: usize) -> KeyId {
    KeyId::draw(
        Timestamp::from_micros(0),
        &Counting(u8::try_from(n).unwrap()),
    )
}

fn mark(revision: u64, world: u64) -> Mark {
    (revision << 8 | world).to_be_bytes()
}

const EPOCH: Epoch = Epoch {
    system: 1,
    timeline: 1,
    incarnation: 1,
};

fn now(micros: i64) -> Now {
    Now {
        boot: BootTime::from_micros(micros),
        wall: Timestamp::from_micros(1_000_000_000 + micros),
    }
}

/// The store: a log, and when each change was committed.
#[derive(Default)]
struct World {
    log: Vec<(usize, i64)>,
    pruned_to: u64,
}

impl World {
    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn change(&mut self, key: usize, at: i64) {
        self.log.push((key, at));
    }

    fn page(&self, applied: u64) -> Page {
        let rows = (applied + 1..=self.head())
            .take(MAX_ROWS + 1)
            .map(|revision| Change {
                revision,
                mark: mark(revision, 0),
                id: id(self.log[revision as usize - 1].0),
            })
            .collect();
        Page {
            epoch: EPOCH,
            head: self.head(),
            head_mark: mark(self.head(), 0),
            pruned_to: self.pruned_to,
            mark_at_applied: (applied <= self.head()).then(|| mark(applied, 0)),
            database_time: Timestamp::from_micros(0),
            rows,
        }
    }

    fn start(&self) -> Start {
        Start {
            epoch: EPOCH,
            floor: self.head(),
            applied: self.head(),
            mark: mark(self.head(), 0),
            database_time: Timestamp::from_micros(0),
            taken_at: BootTime::from_micros(0),
        }
    }

    /// Whether a record read at `revision` misses a change of `key` committed before `before`.
    fn misses_change(&self, key: usize, read_at: u64, before: i64) -> bool {
        self.log[read_at as usize..]
            .iter()
            .any(|(k, at)| *k == key && *at < before)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Change(usize),
    /// Read a record into the cache.
    Read(usize),
    /// Ask for a page; it is absorbed some steps later, or never.
    Ask,
    Absorb,
    Verify(usize),
    Pass(u32),
    Wall(i32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..KEYS).prop_map(Step::Change),
        3 => (0..KEYS).prop_map(Step::Read),
        3 => Just(Step::Ask),
        3 => Just(Step::Absorb),
        6 => (0..KEYS).prop_map(Step::Verify),
        2 => (1..1_500_000_u32).prop_map(Step::Pass),
        1 => (-3_600..3_600_i32).prop_map(Step::Wall),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// P1: nothing is admitted that misses a change committed longer than the bound ago; and
    /// nothing is admitted that misses a change this instance has applied.
    #[test]
    fn nothing_old_is_admitted(steps in steps(), max_tombstones in 0..4_usize) {
        let mut world = World::default();
        let fence = Fence::new(BOUND, max_tombstones, world.start());
        // Per key: the revision it was truly read at, and its stamp.
        let mut cache: [Option<(u64, Stamp)>; KEYS] = [None; KEYS];
        let mut asked: Option<(Now, Page)> = None;
        let (mut boot, mut wall_step) = (1_i64, 0_i64);
        for step in steps {
            boot += 1;
            let at = Now {
                boot: BootTime::from_micros(boot),
                wall: Timestamp::from_micros(1_000_000_000 + boot + wall_step),
            };
            match step {
                Step::Change(key) => world.change(key, boot),
                Step::Read(key) => {
                    let stamp = Stamp { epoch: EPOCH, revision: world.head() };
                    cache[key] = Some((world.head(), stamp));
                }
                Step::Ask => asked = Some((at, world.page(fence.applied()))),
                Step::Absorb => if let Some((t0, page)) = asked.take() {
                    fence.absorb(t0, &page).unwrap();
                },
                Step::Verify(key) => {
                    let look = fence.look();
                    let Some((read_at, stamp)) = &mut cache[key] else { continue };
                    if let Admission::Admitted { restamp } = look.admit(id(key), *stamp, at) {
                        let bound = i64::try_from(BOUND.as_micros()).unwrap();
                        prop_assert!(!world.misses_change(key, *read_at, boot - bound));
                        let applied = fence.applied() as usize;
                        prop_assert!(
                            !world.log[*read_at as usize..applied.max(*read_at as usize)]
                                .iter().any(|(k, _)| *k == key)
                        );
                        stamp.revision = restamp;
                    }
                }
                Step::Pass(micros) => boot += i64::from(micros),
                Step::Wall(seconds) => wall_step += i64::from(seconds) * 1_000_000,
            }
        }
    }

    /// A healthy instance admits what it read last: the predicate is not merely strict.
    #[test]
    fn what_was_read_last_is_admitted(changes in proptest::collection::vec(0..KEYS, 0..40), key in 0..KEYS) {
        let mut world = World::default();
        let fence = Fence::new(BOUND, 3, world.start());
        for change in changes {
            world.change(change, 1);
        }
        let page = world.page(fence.applied());
        fence.absorb(now(10), &page).unwrap();
        let stamp = Stamp { epoch: EPOCH, revision: world.head() };
        let admission = fence.look().admit(id(key), stamp, now(20));
        prop_assert_eq!(admission, Admission::Admitted { restamp: world.head() });
    }
}

fn fresh_fence(world: &World, at: i64) -> Fence {
    let fence = Fence::new(BOUND, 10, world.start());
    fence.absorb(now(at), &world.page(fence.applied())).unwrap();
    fence
}

#[test]
fn nothing_is_admitted_before_the_first_tail() {
    let world = World::default();
    let fence = Fence::new(BOUND, 10, world.start());
    let stamp = Stamp {
        epoch: EPOCH,
        revision: 0,
    };
    assert_eq!(
        fence.look().admit(id(1), stamp, now(1)),
        Admission::NotFresh
    );
    assert_eq!(
        fence.look().admit_absence(stamp, now(1)),
        Admission::NotFresh
    );
}

#[test]
fn freshness_ends_by_either_clock() {
    let fence = fresh_fence(&World::default(), 0);
    let end = i64::try_from(BOUND.as_micros()).unwrap();
    assert!(fence.is_fresh(now(end)) && !fence.is_fresh(now(end + 1)));
    // The boot clock stood still (a frozen machine), the wall clock did not.
    let frozen = Now {
        boot: now(0).boot,
        wall: now(end + 1).wall,
    };
    assert!(!fence.is_fresh(frozen));
    // A wall clock set back an hour changes nothing.
    let back = Now {
        boot: now(5).boot,
        wall: Timestamp::from_micros(-3_600_000_000),
    };
    assert!(fence.is_fresh(back));
}

#[test]
fn freshness_is_that_of_the_question_not_of_the_answer() {
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
fn a_lost_tail_is_refused_until_a_new_start() {
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
        "it does not heal by itself"
    );
    fence.restart(world.start());
    assert!(!fence.is_fresh(now(5)));
    fence.absorb(now(5), &world.page(3)).unwrap();
    assert!(fence.is_fresh(now(5)));
}

#[test]
fn a_head_below_applied_is_a_lost_tail() {
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
    let mut page = world.page(0);
    page.rows.pop();
    assert_eq!(fence.absorb(now(3), &page), Err(Refused::Gap { after: 1 }));
    world.pruned_to = 1;
    let trimmed = Refused::Trimmed {
        applied: 0,
        pruned_to: 1,
    };
    assert_eq!(fence.absorb(now(3), &world.page(0)), Err(trimmed));
    assert!(!fence.is_fresh(now(3)));
}

#[test]
fn a_new_epoch_refuses_what_was_read_in_the_old() {
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
        fence.look().admit(id(1), old, now(3)),
        Admission::Superseded
    );
    let ours = Stamp {
        epoch: page.epoch,
        revision: 0,
    };
    assert_eq!(
        fence.look().admit(id(1), ours, now(3)),
        Admission::Admitted { restamp: 0 }
    );
}

#[test]
fn too_far_behind_starts_cold_at_the_head() {
    let mut world = World::default();
    let fence = fresh_fence(&world, 1);
    for _ in 0..=MAX_ROWS {
        world.change(1, 2);
    }
    assert_eq!(fence.absorb(now(3), &world.page(0)), Ok(Absorbed::Jumped));
    assert_eq!(
        (fence.applied(), fence.floor()),
        (world.head(), world.head())
    );
    let before = Stamp {
        epoch: EPOCH,
        revision: world.head() - 1,
    };
    assert_eq!(
        fence.look().admit(id(5), before, now(3)),
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
    // Key 2 (revision 2) is the oldest tombstone: key 1 changed again at 3.
    assert_eq!((fence.tombstones(), fence.floor()), (2, 2));
    let at = |revision| Stamp {
        epoch: EPOCH,
        revision,
    };
    assert_eq!(
        fence.look().admit(id(1), at(2), now(3)),
        Admission::Superseded
    );
    assert_eq!(
        fence.look().admit(id(2), at(1), now(3)),
        Admission::Superseded
    );
    assert_eq!(
        fence.look().admit(id(2), at(2), now(3)),
        Admission::Admitted { restamp: 4 }
    );
}

#[test]
fn database_time_never_falls() {
    let world = World::default();
    let fence = Fence::new(BOUND, 10, world.start());
    let mut page = world.page(0);
    page.database_time = Timestamp::from_micros(1_000);
    fence.absorb(now(10), &page).unwrap();
    assert_eq!(
        fence.look().database_time(now(60).boot),
        Timestamp::from_micros(1_050)
    );
    page.database_time = Timestamp::from_micros(0);
    fence.absorb(now(110), &page).unwrap();
    assert_eq!(
        fence.look().database_time(now(110).boot),
        Timestamp::from_micros(1_100)
    );
}

#[test]
fn a_key_that_changes_for_ever_does_not_fill_the_memory() {
    let tombstones = Tombstones::default();
    for revision in 0..10_000 {
        tombstones.set(id(1), revision);
    }
    assert_eq!(
        (tombstones.len(), tombstones.oldest()),
        (1, Some((id(1), 9_999)))
    );
}
