//! The fence in a small model: a store with a log, two clocks, and readers that may keep a record
//! for any time. P1 is checked at every admission.
#![expect(
    clippy::cast_possible_truncation,
    reason = "the model's numbers are small"
)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::key::{Entropy, KeyId};

mod cases;
mod histories;
mod near;

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

/// The store: a log of (key, commit time).
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
        self.page_of(applied, MAX_ROWS)
    }

    fn page_of(&self, applied: u64, limit: usize) -> Page {
        let rows = (applied + 1..=self.head())
            .take(limit)
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
    /// Send a heartbeat. Its page is absorbed some steps later, or never.
    Send,
    /// Read a page without a heartbeat.
    ReadLog,
    Absorb,
    Verify(usize),
    Pass(u32),
    Wall(i32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..KEYS).prop_map(Step::Change),
        3 => (0..KEYS).prop_map(Step::Read),
        3 => Just(Step::Send),
        2 => Just(Step::ReadLog),
        3 => Just(Step::Absorb),
        6 => (0..KEYS).prop_map(Step::Verify),
        2 => (1..1_500_000_u32).prop_map(Step::Pass),
        1 => (-3_600..3_600_i32).prop_map(Step::Wall),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// P1: an admitted record contains every change that was committed longer than the bound ago,
    /// and every change that this instance has applied.
    #[test]
    fn nothing_old_is_admitted(
        steps in steps(),
        max_tombstones in 0..4_usize,
        limit in 1..4_usize,
    ) {
        let mut world = World::default();
        let fence = Fence::new(BOUND, max_tombstones, world.start());
        // For each key the revision of the read, and the stamp.
        let mut cache: [Option<(u64, Stamp)>; KEYS] = [None; KEYS];
        let mut sent: Option<(Now, Page)> = None;
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
                Step::Send => sent = Some((at, world.page_of(fence.applied(), limit))),
                Step::ReadLog => if sent.is_none() {
                    fence.absorb_read(at, &world.page_of(fence.applied(), limit)).unwrap();
                },
                Step::Absorb => if let Some((t0, page)) = sent.take() {
                    fence.absorb(t0, &page).unwrap();
                },
                Step::Verify(key) => {
                    let snapshot = fence.snapshot();
                    let Some((read_at, stamp)) = &mut cache[key] else { continue };
                    if let Admission::Admitted { restamp } = snapshot.admit(&[id(key)], *stamp, at) {
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

    /// The predicate is not too strict: a healthy instance admits a current record.
    #[test]
    fn a_current_record_is_admitted(changes in proptest::collection::vec(0..KEYS, 0..40), key in 0..KEYS) {
        let mut world = World::default();
        let fence = Fence::new(BOUND, 3, world.start());
        for change in changes {
            world.change(change, 1);
        }
        let page = world.page(fence.applied());
        fence.absorb(now(10), &page).unwrap();
        let stamp = Stamp { epoch: EPOCH, revision: world.head() };
        let admission = fence.snapshot().admit(&[id(key)], stamp, now(20));
        prop_assert_eq!(admission, Admission::Admitted { restamp: world.head() });
    }
}
