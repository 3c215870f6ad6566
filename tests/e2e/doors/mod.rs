//! The promise through each door: keys are verified through gRPC, JSON, `/auth` and Envoy's Check on every
//! instance at the same time, and revoked through gRPC and JSON in turn, while instances are paused and
//! killed.

mod door;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{
    Cluster, Key, Options, PATIENCE, Process, Recorder, Redis, check, eventually,
};
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;

use crate::{BINARY, fresh_directory};
use door::{DOORS, Door, Instance};

/// The number of youngest keys that are verified, live or just revoked.
const WINDOW: usize = 20;
/// The pause between two calls through one door of one instance.
const PAUSE: Duration = Duration::from_millis(8);
/// How long a new key may take to be known everywhere; a paused instance answers later.
const WARM: Duration = Duration::from_millis(200);
/// The least that each door must have said of each kind: VALID, and REVOKED.
const LEAST: usize = 30;
/// A pause that is shorter than `max_staleness`, and one that is longer.
const PAUSES: [Duration; 2] = [Duration::from_millis(800), Duration::from_millis(2_600)];
const STALENESS: Duration = Duration::from_secs(2);

/// What doors have said.
#[derive(Default)]
struct Said {
    valid: AtomicUsize,
    revoked: AtomicUsize,
}

struct Board {
    recorder: Recorder,
    instances: RwLock<Vec<Arc<Instance>>>,
    keys: RwLock<VecDeque<Arc<Key>>>,
    said: [Said; DOORS.len()],
    ended: [AtomicUsize; 2],
    is_over: AtomicBool,
    callers: Mutex<JoinSet<()>>,
}

impl Board {
    fn new(directory: &Path) -> Arc<Self> {
        Arc::new(Self {
            recorder: Recorder::new(&directory.join("history.jsonl")),
            instances: RwLock::default(),
            keys: RwLock::default(),
            said: Default::default(),
            ended: Default::default(),
            is_over: AtomicBool::new(false),
            callers: Mutex::default(),
        })
    }

    /// Asks for verdicts through each door of `instance` until it leaves.
    fn join(self: &Arc<Self>, instance: Instance) {
        let instance = Arc::new(instance);
        self.instances.write().push(Arc::clone(&instance));
        for door in DOORS {
            let (board, instance) = (Arc::clone(self), Arc::clone(&instance));
            self.callers.lock().spawn(async move {
                for n in 0.. {
                    if !board.calls(&instance) {
                        return;
                    }
                    if let Some(key) = board.pick(n) {
                        board.look(&instance, door, &key).await;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    fn leave(&self, number: usize) {
        self.instances.write().retain(|it| it.number != number);
    }

    fn calls(&self, instance: &Arc<Instance>) -> bool {
        let mut instances = self.instances.read().clone().into_iter();
        !self.is_over.load(Relaxed) && instances.any(|known| Arc::ptr_eq(&known, instance))
    }

    fn pick(&self, n: usize) -> Option<Arc<Key>> {
        let keys = self.keys.read();
        let back = (n * 7 + n / 5) % keys.len().max(1);
        keys.iter().rev().nth(back).cloned()
    }

    /// One question through one door, for the history.
    async fn look(&self, instance: &Instance, door: Door, key: &Key) {
        let began = self.recorder.now();
        let verdict = instance.ask(door, key).await;
        let witness = instance.number * DOORS.len() + door as usize;
        self.recorder.verify(&key.id, witness, began, verdict);
        let said = &self.said[door as usize];
        match verdict {
            Some(Verdict::Valid) => said.valid.fetch_add(1, Relaxed),
            Some(Verdict::Revoked) => said.revoked.fetch_add(1, Relaxed),
            _ => 0,
        };
    }

    /// Asks through each door of each instance, without waiting for the answers.
    fn look_everywhere(self: &Arc<Self>, key: &Arc<Key>) -> JoinSet<()> {
        let mut looks = JoinSet::new();
        for instance in self.instances.read().iter() {
            for door in DOORS {
                let (board, instance) = (Arc::clone(self), Arc::clone(instance));
                let key = Arc::clone(key);
                looks.spawn(async move { board.look(&instance, door, &key).await });
            }
        }
        looks
    }

    /// Issues keys and revokes them, through gRPC and JSON in turn.
    fn write(self: &Arc<Self>, writer: usize) {
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
                if n % 4 < 2 {
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
            if instance.revoke(key, through_json).await {
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
    async fn wait_for_ends(&self, more: usize) {
        let count = || [0, 1].map(|way: usize| self.ended[way].load(Relaxed));
        let enough = count().map(|before| before + more);
        eventually("keys are revoked", 3 * PATIENCE, async || {
            let now = count();
            now[0] >= enough[0] && now[1] >= enough[1]
        })
        .await;
    }

    /// Ends the callers, and asserts that the promise was kept and each door had a chance to break it.
    async fn end_and_check(&self, name: &str) {
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
        for door in DOORS {
            let Said { valid, revoked } = &self.said[door as usize];
            let said = (valid.load(Relaxed), revoked.load(Relaxed));
            let of_door = report.instances.iter();
            let of_door = of_door.filter(|(witness, _)| *witness % DOORS.len() == door as usize);
            let late: usize = of_door.map(|(_, counts)| counts.after_death).sum();
            println!(
                "{name}: {door:?} said VALID and REVOKED {said:?} times, {late} after a Revoke"
            );
            let least = said.0.min(said.1).min(late);
            assert!(least >= LEAST, "{door:?}: {said:?}, {late}");
        }
    }
}

async fn instance(cluster: &Cluster, number: usize, may_die: bool) -> Instance {
    let process = cluster.instance(number);
    let addresses = (process.grpc, process.rest.expect("there is a JSON port"));
    Instance::new(number, addresses, cluster.token(), may_die).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_valid_after_revoke_through_any_door_of_three_instances() {
    let redis = Redis::start();
    let mut cluster = Cluster::start(BINARY, 3, Options::with_redis(redis.url()));
    let board = Board::new(cluster.directory());
    for number in cluster.running() {
        board.join(instance(&cluster, number, true).await);
    }
    (0..4).for_each(|writer| board.write(1_000 * writer));
    board.wait_for_ends(10).await;
    for pause in PAUSES {
        let [first, _, last] = cluster.running()[..] else {
            panic!("three run");
        };
        cluster.instance(first).pause();
        tokio::time::sleep(pause).await;
        cluster.instance(first).go_on();
        board.wait_for_ends(5).await;
        cluster.kill(last);
        board.leave(last);
        let joined = cluster.add();
        board.join(instance(&cluster, joined, true).await);
        board.wait_for_ends(5).await;
    }
    board.end_and_check("three instances").await;
    cluster.stop_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_valid_after_revoke_through_any_door_of_the_embedded_store() {
    let (directory, data) = fresh_directory();
    let start = || {
        let mut command = Process::command(BINARY, &data);
        command.env("KEYWARD_MAX_STALENESS", "2s");
        Process::start(command, &data)
    };
    let board = Board::new(directory.path());
    let mut process = start();
    let token = process.token();
    let doors = |number, process: &Process| {
        let (grpc, rest) = (process.grpc, process.rest.expect("there is a JSON port"));
        let token = token.clone();
        async move { Instance::new(number, (grpc, rest), &token, true).await }
    };
    board.join(doors(0, &process).await);
    (0..3).for_each(|writer| board.write(1_000 * writer));
    board.wait_for_ends(10).await;
    for (number, pause) in (1..).zip(PAUSES) {
        process.pause();
        tokio::time::sleep(pause).await;
        process.go_on();
        board.wait_for_ends(5).await;
        process.kill();
        process = start();
        board.join(doors(number, &process).await);
        board.leave(number - 1);
        board.wait_for_ends(5).await;
    }
    board.end_and_check("embedded store").await;
    assert!(process.stop().success(), "{}", process.output());
}

/// What is asked without a verdict is neither 401 nor 403: [`Instance::ask`] panics on these.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_away_each_door_says_unavailable_and_none_refuses() {
    let options = Options {
        proxies: true,
        ..Options::default()
    };
    let cluster = Cluster::start(BINARY, 1, options);
    let number = cluster.running()[0];
    let instance = instance(&cluster, number, false).await;
    let (id, text) = instance.grpc.issue("42", "").await.unwrap();
    let key = Key {
        id,
        text,
        account: "42".to_owned(),
    };
    let all_say = async |wanted: Option<Verdict>| {
        eventually("each door says the same", PATIENCE, async || {
            let mut said = Vec::new();
            for door in DOORS {
                let verdict = instance.ask(door, &key).await;
                assert!(matches!(verdict, None | Some(Verdict::Valid)), "{door:?}");
                said.push(verdict);
            }
            said.iter().all(|verdict| *verdict == wanted)
        })
        .await
    };
    all_say(Some(Verdict::Valid)).await;
    cluster.proxy(number).black_hole(true);
    all_say(None).await;
    // For longer than the bound: no door takes to refusing.
    let begun = keyward_testkit::now();
    while begun.elapsed() < 2 * STALENESS {
        all_say(None).await;
    }
    cluster.proxy(number).black_hole(false);
    all_say(Some(Verdict::Valid)).await;
}
