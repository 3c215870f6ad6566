//! Near-caches: processes of callers that answer by themselves while an instance keeps them fresh. The fence
//! and the instance's side are the real ones; the stream between them is a pair of channels with delays
//! and losses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyward::cache::Consistency;
use keyward::service::{NearStream, Verify};
use keyward_core::fence::{Admission, Ask, Epoch, Fence, NearAnswer, Now, Stamp, Terms, judge};
use keyward_core::key::{KeyId, SecretText, Verdict};
use keyward_testkit::Random;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::clock::SimClock;
use crate::instance::Instance;
use crate::run::recent;
use crate::world::{INSTANCES, Known, World};

/// The number of near-caches. Each is to the judge as an instance of its own.
pub(crate) const NEAR_CACHES: usize = 2;

/// What a stream carries to the instance: what is applied, or "off".
type Poll = Option<(Epoch, u64)>;
/// What it carries back: an answer, or the wish that the near-cache be off.
type Told = Option<NearAnswer>;

/// What is known of one epoch, as in the client.
struct Knowledge {
    fence: Fence,
    entries: Mutex<HashMap<KeyId, Entry>>,
}

#[derive(Clone)]
struct Entry {
    ids: Vec<KeyId>,
    stamp: Stamp,
    terms: Terms,
}

impl Knowledge {
    fn of(epoch: Epoch) -> Arc<Self> {
        Arc::new(Self {
            fence: Fence::near(epoch),
            entries: Mutex::default(),
        })
    }
}

/// One near-cache.
pub(crate) struct Near {
    world: Arc<World>,
    index: usize,
    clock: SimClock,
    random: Random,
    knowledge: Mutex<Arc<Knowledge>>,
    is_paused: Mutex<bool>,
    changed: Notify,
}

impl Near {
    /// The near-cache of this number.
    pub(crate) fn new(world: &Arc<World>, number: usize, random: Random) -> Arc<Self> {
        let rate = *random.pick(&[-9_800, 9_800, 0]).unwrap();
        Arc::new(Self {
            world: Arc::clone(world),
            index: INSTANCES + number,
            clock: world.clock(rate),
            random,
            knowledge: Mutex::new(Knowledge::of(Epoch::NONE)),
            is_paused: Mutex::new(false),
            changed: Notify::new(),
        })
    }

    /// Keeps it fresh, verifies by it, and lets it have faults, for ever.
    pub(crate) async fn live(self: Arc<Self>) {
        let streams = async {
            loop {
                if let Some(instance) = self.world.instance() {
                    self.stream(instance).await;
                }
                sleep(Duration::from_millis(self.random.between(1, 120))).await;
            }
        };
        tokio::join!(streams, self.verify_often(), self.have_faults());
    }

    /// Waits until the process runs.
    async fn running(&self) {
        loop {
            let changed = self.changed.notified();
            if !*self.is_paused.lock() {
                return;
            }
            changed.await;
        }
    }

    fn known(&self) -> Arc<Knowledge> {
        Arc::clone(&self.knowledge.lock())
    }

    /// Forgets everything. A running Verify keeps what it has.
    fn install(&self, epoch: Epoch) {
        let old = std::mem::replace(&mut *self.knowledge.lock(), Knowledge::of(epoch));
        old.fence.stop_being_fresh();
    }

    async fn travel(&self) {
        let longest = match self.random.chance(3) {
            true => 1_500,
            false => 8,
        };
        sleep(Duration::from_millis(self.random.below(longest))).await;
    }

    /// One stream to an instance, until it ends.
    async fn stream(&self, instance: Arc<Instance>) {
        // Another caller each time: those whose streams break are barred.
        let caller = format!("near {}", self.random.next());
        let Ok(stream) = instance.near.open(&caller).await else {
            return;
        };
        self.world.count("a near-cache opened a stream");
        let (polls, receiver) = mpsc::channel(1);
        let (sender, mut answers) = mpsc::channel(1);
        let breaks = self.random.between(0, 3_000);
        tokio::spawn(serve(instance, stream, receiver, sender, breaks));
        loop {
            self.running().await;
            let sent_at = Now::read(&self.clock);
            let poll = self.known().fence.known();
            self.travel().await;
            let is_sent = polls.send(Some(poll)).await.is_ok();
            let answer = timeout(Duration::from_secs(3), answers.recv()).await;
            let Ok(Some(told)) = answer else {
                return;
            };
            if !is_sent || self.random.chance(2) {
                return;
            }
            self.travel().await;
            self.running().await;
            let known = self.known();
            let goes_on = match &told {
                None => false,
                Some(answer) => {
                    let is_taken = known.fence.take(sent_at, answer);
                    if !is_taken {
                        self.install(answer.epoch);
                    }
                    is_taken && !self.random.chance(1)
                }
            };
            if !goes_on {
                self.known().fence.stop_being_fresh();
                self.world.count("a near-cache said that it is off");
                self.travel().await;
                let _ = polls.send(None).await;
                return;
            }
        }
    }

    async fn verify_often(&self) {
        loop {
            sleep(Duration::from_millis(self.random.between(1, 60))).await;
            let key = recent(&self.world, &self.world.keys.lock());
            if let Some(key) = key {
                self.running().await;
                self.verify(&key).await;
            }
        }
    }

    /// Verifies in this process, each step after a moment; by a call if that fails.
    async fn verify(&self, key: &Known) {
        let began = self.world.now();
        let moment = || async {
            if self.random.chance(10) {
                sleep(Duration::from_millis(self.random.below(30))).await;
                self.running().await;
            }
        };
        let known = self.known();
        let verdict = {
            let snapshot = known.fence.snapshot();
            moment().await;
            let entry = known.entries.lock().get(&key.id).cloned();
            moment().await;
            let now = Now::read(&self.clock);
            entry.and_then(|entry| {
                let admission = snapshot.admit(&entry.ids, entry.stamp, now);
                let is_admitted = matches!(admission, Admission::Admitted { .. });
                let at = snapshot.database_time(now.boot);
                is_admitted.then(|| judge(&entry.terms, &Ask::default(), at))
            })
        };
        self.running().await;
        if verdict == Some(Verdict::Valid) {
            self.world.count("verify: VALID by a near-cache");
            let times = (began, self.world.now());
            let mut judge = self.world.judge.lock();
            judge.verified(key.id, self.index, times, verdict);
        } else {
            self.call(key, &known).await;
        }
    }

    async fn call(&self, key: &Known, known: &Knowledge) {
        let Some(instance) = self.world.instance() else {
            return;
        };
        let sent_at = Now::read(&self.clock);
        instance.link.running().await;
        let verify = Verify {
            text: SecretText::new(key.text.expose().to_owned()),
            ask: Ask::default(),
            consistency: Consistency::Default,
            wants_entry: true,
        };
        let Ok(verified) = instance.service.verify(&verify).await else {
            return;
        };
        instance.link.running().await;
        let Some(valid) = &verified.key else { return };
        let Some((ids, terms)) = valid.kept() else {
            return;
        };
        let entry = Entry {
            ids,
            stamp: valid.stamp,
            terms: terms.clone(),
        };
        self.travel().await;
        self.running().await;
        known.fence.note_time(valid.at, sent_at.boot);
        known.entries.lock().insert(key.id, entry);
    }

    async fn have_faults(&self) {
        loop {
            sleep(Duration::from_millis(self.random.between(300, 5_000))).await;
            match self.random.below(4) {
                0 => {
                    self.world.count("a near-cache crashed");
                    self.install(Epoch::NONE);
                }
                1 => {
                    let steps = self.random.between(1, 20_000_000) as i64 - 10_000_000;
                    self.clock.step(steps);
                }
                _ => {
                    self.world.count("a near-cache was paused");
                    *self.is_paused.lock() = true;
                    sleep(Duration::from_millis(self.random.between(50, 7_000))).await;
                    *self.is_paused.lock() = false;
                    self.changed.notify_waiters();
                }
            }
        }
    }
}

/// The instance's half of a stream. It notices a broken stream late, by `breaks` milliseconds.
async fn serve(
    instance: Arc<Instance>,
    mut stream: NearStream,
    mut polls: mpsc::Receiver<Poll>,
    answers: mpsc::Sender<Told>,
    breaks: u64,
) {
    while let Some(poll) = polls.recv().await {
        instance.link.running().await;
        let Some(known) = poll else {
            stream.off();
            return;
        };
        if stream.poll(known).is_err() {
            break;
        }
        stream.news(known.1).await;
        instance.link.running().await;
        let answer = stream.answer(known);
        let told = answer.filter(|_| !stream.is_leaving());
        if answers.send(told).await.is_err() {
            break;
        }
    }
    sleep(Duration::from_millis(breaks)).await;
    instance.link.running().await;
}
