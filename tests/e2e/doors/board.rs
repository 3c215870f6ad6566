//! The callers of a deployment, who ask for verdicts and revoke keys, and the history that they write.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{Key, PATIENCE, Recorder, check, eventually};
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;

use super::agent::{Agent, FIRST};
use super::door::{DOORS, Door, Instance};
use super::guard::Guard;

/// The number of youngest keys that are verified, live or just revoked.
const WINDOW: usize = 20;
/// The pause between two calls through one door of one instance.
const PAUSE: Duration = Duration::from_millis(8);
/// How long a new key may take to be known everywhere; a paused instance answers later.
const WARM: Duration = Duration::from_millis(200);
/// The least that each door must have said of each kind: VALID, and REVOKED.
const LEAST: usize = 30;
/// The ways to ask: the doors of an instance, a service with a near-cache, the doors of an agent.
const WAYS: usize = 2 * DOORS.len() + 1;
/// How many callers ask a service at the same time.
const GUARD_CALLERS: usize = 3;

/// What doors have said.
#[derive(Default)]
struct Said {
    valid: AtomicUsize,
    revoked: AtomicUsize,
}

/// Who is asked.
#[derive(Clone)]
enum Witness {
    Door(Arc<Instance>, Door),
    Guard(Arc<Guard>),
}

impl Witness {
    /// Its number in the history: modulo [`WAYS`] the way by which it is asked.
    fn number(&self) -> usize {
        match self {
            Self::Door(instance, door) if instance.number >= FIRST => {
                instance.number * WAYS + DOORS.len() + 1 + *door as usize
            }
            Self::Door(instance, door) => instance.number * WAYS + *door as usize,
            Self::Guard(guard) => guard.number * WAYS + DOORS.len(),
        }
    }
}

impl PartialEq for Witness {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
    }
}

pub(super) struct Board {
    recorder: Recorder,
    instances: RwLock<Vec<Arc<Instance>>>,
    witnesses: RwLock<Vec<Witness>>,
    keys: RwLock<VecDeque<Arc<Key>>>,
    said: [Said; WAYS],
    /// The longest Revoke that returned.
    longest: AtomicU64,
    /// The answers of near-caches without a call.
    hits: AtomicUsize,
    ended: [AtomicUsize; 2],
    is_over: AtomicBool,
    callers: Mutex<JoinSet<()>>,
}

impl Board {
    pub(super) fn new(directory: &Path) -> Arc<Self> {
        Arc::new(Self {
            recorder: Recorder::new(&directory.join("history.jsonl")),
            instances: RwLock::default(),
            witnesses: RwLock::default(),
            longest: AtomicU64::new(0),
            hits: AtomicUsize::new(0),
            keys: RwLock::default(),
            said: Default::default(),
            ended: Default::default(),
            is_over: AtomicBool::new(false),
            callers: Mutex::default(),
        })
    }

    /// Asks for verdicts through each door of `instance` until it leaves.
    pub(super) fn join(self: &Arc<Self>, instance: Instance) {
        let instance = Arc::new(instance);
        self.instances.write().push(Arc::clone(&instance));
        self.hear_at_doors(&instance);
    }

    fn hear_at_doors(self: &Arc<Self>, instance: &Arc<Instance>) {
        for door in DOORS {
            self.hear(Witness::Door(Arc::clone(instance), door));
        }
    }

    /// An agent, beside the instances.
    pub(super) async fn agent(
        self: &Arc<Self>,
        number: usize,
        keyward: &[String],
        directory: &Path,
    ) -> Agent {
        let instance = self.any(0).expect("an instance runs");
        let started = Agent::start(number, &instance.grpc, keyward, directory).await;
        let (agent, doors) = started;
        self.hear_at_doors(&Arc::new(doors));
        agent
    }

    /// Asks for verdicts until the witness leaves.
    fn hear(self: &Arc<Self>, witness: Witness) {
        self.witnesses.write().push(witness.clone());
        let board = Arc::clone(self);
        self.callers.lock().spawn(async move {
            for n in 0.. {
                if board.is_over.load(Relaxed) || !board.witnesses.read().contains(&witness) {
                    return;
                }
                if let Some(key) = board.pick(n) {
                    board.look(&witness, &key).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    pub(super) fn leave(&self, number: usize) {
        self.instances.write().retain(|it| it.number != number);
        let mut witnesses = self.witnesses.write();
        witnesses.retain(|it| !matches!(it, Witness::Door(of, _) if of.number == number));
    }

    /// A service with a near-cache, beside the instances.
    pub(super) async fn guard(
        self: &Arc<Self>,
        number: usize,
        keyward: &[String],
        directory: &Path,
    ) -> Arc<Guard> {
        let instance = self.any(0).expect("an instance runs");
        let guard = Arc::new(Guard::start(number, &instance.grpc, keyward, directory).await);
        (0..GUARD_CALLERS).for_each(|_| self.hear(Witness::Guard(Arc::clone(&guard))));
        guard
    }

    pub(super) async fn dismiss(&self, guard: &Arc<Guard>) {
        self.hits.fetch_add(guard.hits().await, Relaxed);
        let mut witnesses = self.witnesses.write();
        witnesses.retain(|it| *it != Witness::Guard(Arc::clone(guard)));
    }

    fn pick(&self, n: usize) -> Option<Arc<Key>> {
        let keys = self.keys.read();
        let back = (n * 7 + n / 5) % keys.len().max(1);
        keys.iter().rev().nth(back).cloned()
    }

    /// One question to a witness, for the history.
    async fn look(&self, witness: &Witness, key: &Key) {
        let began = self.recorder.now();
        let verdict = match witness {
            Witness::Door(instance, door) => instance.ask(*door, key).await,
            Witness::Guard(guard) => guard.ask(key).await,
        };
        let number = witness.number();
        self.recorder.verify(&key.id, number, began, verdict);
        let said = &self.said[number % WAYS];
        match verdict {
            Some(Verdict::Valid) => said.valid.fetch_add(1, Relaxed),
            // The product's envelope has one word for all dead keys.
            Some(Verdict::Revoked | Verdict::NotFound) => said.revoked.fetch_add(1, Relaxed),
            _ => 0,
        };
    }

    /// Asks each witness, without waiting for the answers.
    fn look_everywhere(self: &Arc<Self>, key: &Arc<Key>) -> JoinSet<()> {
        let mut looks = JoinSet::new();
        let witnesses = self.witnesses.read().clone();
        for witness in witnesses {
            let (board, key) = (Arc::clone(self), Arc::clone(key));
            looks.spawn(async move { board.look(&witness, &key).await });
        }
        looks
    }

    /// Issues keys and revokes them, through gRPC and JSON in turn.
    pub(super) fn write(self: &Arc<Self>, writer: usize) {
        let board = Arc::clone(self);
        self.callers.lock().spawn(async move {
            for n in writer.. {
                if board.is_over.load(Relaxed) {
                    return;
                }
                let Some(instance) = board.any(n) else {
                    return;
                };
                let account = format!("{writer}-{n}");
                let Ok((id, text)) = instance.grpc.issue(&account, "").await else {
                    // The instance is paused or killed; the next slot is of another one.
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let key = board.publish(Key { id, text, account });
                // Every other key dies while it is being read for the first time.
                // The others are in all caches, so that they are read there.
                if n % 4 < 2 {
                    board.finish(board.look_everywhere(&key), WARM).await;
                    board.finish(board.look_everywhere(&key), WARM).await;
                }
                board.end(&key, n).await;
            }
        });
    }

    fn publish(&self, key: Key) -> Arc<Key> {
        let key = Arc::new(key);
        self.recorder.issued(&key.id);
        let mut keys = self.keys.write();
        keys.push_back(Arc::clone(&key));
        if keys.len() > WINDOW {
            keys.pop_front();
        }
        key
    }

    /// Revokes a key, on one instance after the other until one confirms it.
    async fn end(self: &Arc<Self>, key: &Arc<Key>, n: usize) {
        self.recorder.dying(&key.id);
        let through_json = n % 2 == 1;
        for attempt in n / 2.. {
            let Some(instance) = self.any(attempt) else {
                return;
            };
            let begun = keyward_testkit::now();
            if instance.revoke(key, through_json).await {
                self.longest.fetch_max(micros(begun.elapsed()), Relaxed);
                self.recorder.dead(&key.id, Duration::ZERO);
                self.ended[usize::from(through_json)].fetch_add(1, Relaxed);
                // No call can come sooner after the return than these.
                return self.finish(self.look_everywhere(key), Duration::ZERO).await;
            }
            if self.is_over.load(Relaxed) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn any(&self, n: usize) -> Option<Arc<Instance>> {
        let instances = self.instances.read();
        instances.get(n % instances.len().max(1)).cloned()
    }

    /// Waits for `looks`, but not longer than `patience`: the late ones end by themselves.
    async fn finish(&self, mut looks: JoinSet<()>, patience: Duration) {
        let all = async {
            while let Some(looked) = looks.join_next().await {
                looked.expect("a door answers as it may");
            }
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            self.callers.lock().spawn(async move {
                while let Some(looked) = looks.join_next().await {
                    looked.expect("a door answers as it may");
                }
            });
        }
    }

    /// Waits until so many more keys were revoked through gRPC, and through JSON.
    pub(super) async fn wait_for_ends(&self, more: usize) {
        let count = || [0, 1].map(|way: usize| self.ended[way].load(Relaxed));
        let enough = count().map(|before| before + more);
        eventually("keys are revoked", 3 * PATIENCE, async || {
            let now = count();
            now[0] >= enough[0] && now[1] >= enough[1]
        })
        .await;
    }

    /// Ends the callers, and asserts that the promise was kept and each door had a chance to break it.
    pub(super) async fn end_and_check(&self, name: &str) {
        self.wait_for_ends(10).await;
        self.is_over.store(true, Relaxed);
        loop {
            let mut callers = std::mem::take(&mut *self.callers.lock());
            let Some(ended) = callers.join_next().await else {
                break;
            };
            ended.expect("a caller ends well");
            while let Some(ended) = callers.join_next().await {
                ended.expect("a caller ends well");
            }
        }
        let report = check(self.recorder.finish()).expect("the history can be checked");
        println!("{name}: {report}");
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
        let (hits, longest) = (self.hits.load(Relaxed), self.longest.load(Relaxed));
        println!(
            "{name}: near-caches answered {hits} times without a call; the longest Revoke took {:?}",
            Duration::from_micros(longest)
        );
        // Most keys die when a near-cache has just heard of them.
        assert!(
            hits >= 10,
            "near-caches answered {hits} times without a call"
        );
        let names = DOORS.map(|door| format!("{door:?}"));
        let of_agent = names.clone().map(|name| format!("{name} of an agent"));
        let names = names.into_iter().chain(["a near-cache".to_owned()]);
        let names = names.chain(of_agent);
        for (way, name) in names.enumerate() {
            let Said { valid, revoked } = &self.said[way];
            let said = (valid.load(Relaxed), revoked.load(Relaxed));
            let of_way = report
                .instances
                .iter()
                .filter(|(number, _)| *number % WAYS == way);
            let late: usize = of_way.map(|(_, counts)| counts.after_death).sum();
            println!("{name} said VALID and REVOKED {said:?} times, {late} after a Revoke");
            let least = said.0.min(said.1).min(late);
            assert!(least >= LEAST, "{name}: {said:?}, {late}");
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
