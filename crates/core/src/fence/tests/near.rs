//! A near-cache, its instance and a store in a small model. P1 is checked at every admission of the
//! near-cache, and P2 for all that the instance has acknowledged.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::*;
use crate::key::Clock;

mod cases;

/// For how long an answer keeps the near-cache fresh.
const NEAR: Duration = Duration::from_millis(1_500);

#[derive(Default)]
struct Clocks {
    boot: AtomicI64,
    wall_step: AtomicI64,
}

impl Clock for Clocks {
    fn boot(&self) -> BootTime {
        BootTime::from_micros(self.boot.load(Relaxed))
    }

    fn wall(&self) -> Timestamp {
        let since_boot = self.boot.load(Relaxed) + self.wall_step.load(Relaxed);
        Timestamp::from_micros(1_000_000_000 + since_boot)
    }
}

/// A record that the near-cache keeps: the head of the read, and the stamp.
type Kept = Option<(u64, Stamp)>;

struct Near {
    fence: Fence,
    cache: [Kept; KEYS],
    stream: StreamId,
    /// A poll on its way, with its time.
    poll: Option<(Now, (Epoch, u64))>,
    /// An answer on its way, with the time of its poll; and one that was overtaken.
    answers: [Option<(Now, NearAnswer)>; 2],
}

impl Near {
    fn new(stream: StreamId) -> Self {
        Self {
            fence: Fence::near(EPOCH),
            cache: [None; KEYS],
            stream,
            poll: None,
            answers: [None, None],
        }
    }
}

struct Deployment {
    clocks: Clocks,
    world: World,
    fence: Fence,
    leases: Leases,
    near: Near,
    /// The poll that the instance holds.
    held: Option<(Now, (Epoch, u64))>,
    /// The instance has acknowledged all changes up to here, so their calls have returned.
    returned: u64,
    sent: Option<(Now, Page)>,
    limit: usize,
}

#[derive(Clone, Debug)]
enum Move {
    Change(usize),
    Send,
    ReadLog,
    Absorb,
    /// The near-cache reads a record by its instance.
    Call(usize),
    Verify(usize),
    Poll,
    Receive,
    Answer,
    Take(usize),
    Overtake,
    Lose(usize),
    Acknowledge,
    Break,
    Off,
    Restart,
    Pass(u32),
    Wall(i32),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0..KEYS).prop_map(Move::Change),
        3 => Just(Move::Send),
        1 => Just(Move::ReadLog),
        3 => Just(Move::Absorb),
        4 => (0..KEYS).prop_map(Move::Call),
        6 => (0..KEYS).prop_map(Move::Verify),
        3 => Just(Move::Poll),
        3 => Just(Move::Receive),
        3 => Just(Move::Answer),
        3 => (0..2_usize).prop_map(Move::Take),
        1 => Just(Move::Overtake),
        1 => (0..2_usize).prop_map(Move::Lose),
        4 => Just(Move::Acknowledge),
        1 => Just(Move::Break),
        1 => Just(Move::Off),
        1 => Just(Move::Restart),
        2 => (1..1_200_000_u32).prop_map(Move::Pass),
        1 => (-3_600..3_600_i32).prop_map(Move::Wall),
    ];
    proptest::collection::vec(one, 1..120)
}

impl Deployment {
    fn new(max_tombstones: usize, limit: usize) -> Self {
        let (clocks, world) = (Clocks::default(), World::default());
        let fence = Fence::new(BOUND, max_tombstones, world.start());
        let mut leases = Leases::new(NEAR, None, &fence, clocks.boot());
        let near = Near::new(leases.open());
        Self {
            clocks,
            world,
            fence,
            leases,
            near,
            held: None,
            returned: 0,
            sent: None,
            limit,
        }
    }

    fn now(&self) -> Now {
        Now::read(&self.clocks)
    }

    fn step(&mut self, step: &Move) -> Result<(), TestCaseError> {
        self.clocks.boot.fetch_add(1, Relaxed);
        let at = self.now();
        match *step {
            Move::Change(key) => self.world.change(key, self.clocks.boot.load(Relaxed)),
            Move::Send => {
                self.sent = Some((at, self.world.page_of(self.fence.applied(), self.limit)));
            }
            Move::ReadLog if self.sent.is_none() => {
                let page = self.world.page_of(self.fence.applied(), self.limit);
                self.fence.absorb_read(at, &page).unwrap();
            }
            Move::ReadLog => {}
            Move::Absorb => {
                if let Some((t0, page)) = self.sent.take() {
                    self.fence.absorb(t0, &page).unwrap();
                }
            }
            Move::Call(key) => self.call(key),
            Move::Verify(key) => return self.verify(key),
            Move::Poll => self.near.poll = Some((at, self.near.fence.known())),
            Move::Receive => {
                if let Some((sent_at, known)) = self.near.poll.take() {
                    self.leases
                        .poll(self.near.stream, known, &self.fence, &self.clocks);
                    self.held = Some((sent_at, known));
                }
            }
            Move::Answer => {
                if let Some((sent_at, known)) = self.held.take() {
                    let answer = self.fence.answer(known, Some(NEAR), &self.clocks);
                    self.near.answers[0] = answer.map(|answer| (sent_at, answer));
                }
            }
            Move::Take(which) => {
                if let Some((sent_at, answer)) = self.near.answers[which].take() {
                    prop_assert!(self.near.fence.take(sent_at, &answer));
                }
            }
            Move::Overtake => self.near.answers.swap(0, 1),
            Move::Lose(which) => self.near.answers[which] = None,
            Move::Acknowledge => self.acknowledge(),
            Move::Break => {
                self.leases.broke(self.near.stream);
                self.reopen();
            }
            Move::Off => {
                self.near.fence.stop_being_fresh();
                self.near.answers = [None, None];
                self.leases.off(self.near.stream);
                self.reopen();
            }
            Move::Restart => {
                self.leases.broke(self.near.stream);
                self.near = Near::new(self.leases.open());
                self.held = None;
            }
            Move::Pass(micros) => drop(self.clocks.boot.fetch_add(i64::from(micros), Relaxed)),
            Move::Wall(seconds) => {
                let step = i64::from(seconds) * 1_000_000;
                self.clocks.wall_step.fetch_add(step, Relaxed);
            }
        }
        Ok(())
    }

    fn reopen(&mut self) {
        self.near.stream = self.leases.open();
        self.near.poll = None;
        self.held = None;
    }

    fn acknowledge(&mut self) {
        let (_, acked) = self.leases.acked(&self.fence, &self.clocks);
        assert!(acked.revision <= self.fence.applied());
        self.returned = self.returned.max(acked.revision);
    }

    /// The instance admits a record from the store, and the near-cache keeps it.
    fn call(&mut self, key: usize) {
        let snapshot = self.fence.snapshot();
        let revision = self.world.head();
        let stamp = Stamp {
            epoch: EPOCH,
            revision,
        };
        if let Admission::Admitted { restamp } = snapshot.admit(&[id(key)], stamp, self.now()) {
            let stamp = Stamp {
                revision: restamp,
                ..stamp
            };
            self.near.cache[key] = Some((revision, stamp));
        }
    }

    fn verify(&self, key: usize) -> Result<(), TestCaseError> {
        let snapshot = self.near.fence.snapshot();
        let Some((read_at, stamp)) = self.near.cache[key] else {
            return Ok(());
        };
        if let Admission::Admitted { .. } = snapshot.admit(&[id(key)], stamp, self.now()) {
            let bound = i64::try_from(BOUND.as_micros()).unwrap();
            let boot = self.clocks.boot.load(Relaxed);
            prop_assert!(!self.world.misses_change(key, read_at, boot - bound), "P1");
            let later = self.world.log.iter().zip(1..).skip(read_at as usize);
            let mut returned = later.take_while(|(_, revision)| *revision <= self.returned);
            prop_assert!(!returned.any(|((changed, _), _)| *changed == key), "P2");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn a_near_cache_admits_nothing_old(
        moves in moves(),
        max_tombstones in 0..4_usize,
        limit in 1..4_usize,
    ) {
        let mut deployment = Deployment::new(max_tombstones, limit);
        for step in &moves {
            deployment.step(step)?;
        }
    }
}

/// The rules are not too strict: a healthy near-cache is fresh, admits what it was given, and delays nothing.
#[test]
fn a_healthy_near_cache_admits_and_acknowledges() {
    let mut all = Deployment::new(10, 10);
    let round = |all: &mut Deployment| {
        for step in [
            Move::Poll,
            Move::Receive,
            Move::Send,
            Move::Absorb,
            Move::Answer,
            Move::Take(0),
        ] {
            all.step(&step).unwrap();
        }
    };
    round(&mut all);
    all.call(1);
    let is_admitted = |all: &Deployment| {
        let snapshot = all.near.fence.snapshot();
        let stamp = all.near.cache[1].unwrap().1;
        matches!(
            snapshot.admit(&[id(1)], stamp, all.now()),
            Admission::Admitted { .. }
        )
    };
    assert!(is_admitted(&all));
    all.step(&Move::Change(1)).unwrap();
    round(&mut all);
    assert!(!is_admitted(&all));
    all.acknowledge();
    assert_eq!(all.returned, 0, "the answer is not acknowledged yet");
    for step in [Move::Poll, Move::Receive, Move::Acknowledge] {
        all.step(&step).unwrap();
    }
    assert_eq!(all.returned, 1);
}
