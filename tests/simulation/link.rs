//! The connections of one instance, with everything that a network, a server and an operating system
//! do to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward_store::{Result, StoreError};
use keyward_store_memory::{Server, Transport};
use keyward_testkit::Random;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use crate::world::World;

/// What may happen to a call.
pub(crate) const FAULTS: [&str; 6] = [
    "a request was lost",
    "an answer was lost",
    "a statement failed before its commit",
    "a statement failed after its commit",
    "a statement hung",
    "an answer was late",
];

/// What happens to the calls of an instance now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// The process does not run. What it sent before still arrives.
    pub(crate) is_paused: bool,
    /// The process has ended; it never runs again.
    pub(crate) is_dead: bool,
    /// Nothing arrives in either direction.
    pub(crate) is_cut: bool,
    /// The longest delay of a call, each way, in milliseconds.
    pub(crate) delay: u64,
    /// The percentage of calls that are lost, each way.
    pub(crate) loss: u64,
    /// The percentage of statements that wait at the server, for example for a lock, until long after
    /// the caller has given up.
    pub(crate) hangs: u64,
    /// The percentage of heartbeats that wait at the server, because their row is locked.
    pub(crate) hanging_heartbeats: u64,
    /// The percentage of answers that arrive late, though before the caller gives up.
    pub(crate) late_answers: u64,
    /// The percentage of statements that the server fails, before or after they commit.
    pub(crate) failures: u64,
    /// Reads go to the primary of before the last failover.
    pub(crate) reads_old_primary: bool,
}

impl Weather {
    /// No faults: an answer takes some milliseconds.
    pub(crate) fn calm() -> Self {
        Self {
            delay: 5,
            ..Self::default()
        }
    }
}

/// The connections of one process.
pub(crate) struct Link {
    random: Random,
    way: Way,
    changed: Notify,
    /// Notified when the answer of a heartbeat has arrived.
    pub(crate) heartbeat_answered: Notify,
    /// Notified when a revocation has run at the server.
    pub(crate) revoked: Arc<Notify>,
    /// The next call of this name needs so many milliseconds to the server.
    late: Mutex<Option<(&'static str, u64)>>,
    /// The next heartbeat waits so many milliseconds for its row.
    lock: AtomicU64,
    /// When the confirmation ran at the server whose answer arrived last.
    confirmed: AtomicU64,
}

/// The way to the server and back.
#[derive(Clone)]
struct Way {
    world: Arc<World>,
    weather: Arc<Mutex<Weather>>,
    /// When an old primary last answered a read.
    old_read: Arc<AtomicU64>,
}

impl Way {
    /// Carries a statement to the server and its answer back; `None` if either does not arrive.
    async fn travel<S, R>(
        &self,
        fate: Fate,
        writes: bool,
        snapshot: impl FnOnce(&Server) -> Result<S>,
        statement: impl FnOnce(&Server, S) -> Result<R>,
    ) -> Option<Result<R>> {
        pause(fate.request).await;
        if fate.is_request_lost || self.weather.lock().is_cut {
            return None;
        }
        if fate.reads_old_primary && !writes {
            self.old_read.store(self.world.now(), Ordering::Relaxed);
        }
        let snapshot = snapshot(&self.world.reached(fate.reads_old_primary));
        pause(fate.hang).await;
        let answer = self.world.serve(writes, fate.reads_old_primary, |server| {
            if fate.fails_before {
                return Err(StoreError::Unavailable("failed before".to_owned()));
            }
            let answer = statement(server, snapshot?)?;
            match fate.fails_after {
                true => Err(StoreError::OutcomeUnknown("failed after".to_owned())),
                false => Ok(answer),
            }
        });
        pause(fate.answer).await;
        let arrives = !fate.is_answer_lost && !self.weather.lock().is_cut;
        arrives.then_some(answer)
    }
}

/// What happens to one call.
#[derive(Clone, Copy)]
struct Fate {
    request: u64,
    /// How long the statement waits at the server.
    hang: u64,
    answer: u64,
    is_request_lost: bool,
    is_answer_lost: bool,
    fails_before: bool,
    fails_after: bool,
    reads_old_primary: bool,
}

impl Link {
    pub(crate) fn new(world: Arc<World>, random: Random) -> Self {
        Self {
            random,
            way: Way {
                world,
                weather: Arc::new(Mutex::new(Weather::calm())),
                old_read: Arc::default(),
            },
            changed: Notify::new(),
            heartbeat_answered: Notify::new(),
            revoked: Arc::default(),
            late: Mutex::default(),
            lock: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
        }
    }

    /// Makes the next heartbeat wait for its row.
    pub(crate) fn lock_row(&self, millis: u64) {
        self.lock.store(millis, Ordering::Relaxed);
    }

    /// Makes the next call of this name arrive late, by `delay` milliseconds.
    pub(crate) fn delay_next(&self, call: &'static str, delay: u64) {
        *self.late.lock() = Some((call, delay));
    }

    /// A random number, from the choices of this link.
    pub(crate) fn between(&self, from: u64, to: u64) -> u64 {
        self.random.between(from, to)
    }

    /// When an old primary last answered a read of this process.
    pub(crate) fn old_read(&self) -> u64 {
        self.way.old_read.load(Ordering::Relaxed)
    }

    /// When the confirmation ran at the server whose answer arrived last.
    pub(crate) fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    pub(crate) fn weather(&self) -> Weather {
        *self.way.weather.lock()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.way.weather.lock());
        self.changed.notify_waiters();
    }

    /// Waits until the process runs. In a process that has ended, this is for ever.
    pub(crate) async fn running(&self) {
        loop {
            let changed = self.changed.notified();
            let weather = self.weather();
            if !weather.is_paused && !weather.is_dead {
                return;
            }
            changed.await;
        }
    }

    fn fate(&self, call: &str, writes: bool) -> Fate {
        let weather = self.weather();
        let delay = || match weather.delay {
            0 => 0,
            longest => self.random.below(longest + 1),
        };
        let hangs = match call {
            "beat" => weather.hangs.max(weather.hanging_heartbeats),
            _ => weather.hangs,
        };
        let hang = match self.random.chance(hangs) {
            true => self.random.between(500, 6_000),
            false if call == "beat" => self.lock.swap(0, Ordering::Relaxed),
            false => 0,
        };
        let late_request = self.late.lock().take_if(|(name, _)| *name == call);
        let late_request = late_request.map_or(0, |(_, delay)| delay);
        let late = match self.random.chance(weather.late_answers) {
            true => self.random.between(150, 390),
            false => 0,
        };
        let fails = self.random.chance(weather.failures);
        let is_late = self.random.chance(50);
        Fate {
            request: delay() + late_request,
            hang,
            answer: delay() + late,
            is_request_lost: self.random.chance(weather.loss),
            is_answer_lost: self.random.chance(weather.loss),
            fails_before: fails && !is_late,
            fails_after: fails && is_late && writes,
            reads_old_primary: weather.reads_old_primary,
        }
    }

    /// Runs a call as the server's own task, which goes on after the caller has given up.
    async fn carry_away<R: Send + 'static>(
        travel: impl Future<Output = Option<Result<R>>> + Send + 'static,
        patience: u64,
    ) -> Option<Result<R>> {
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            if let Some(answer) = travel.await {
                // The caller may have given up.
                let _ = sender.send(answer);
            }
        });
        let patience = sleep(Duration::from_millis(patience));
        tokio::pin!(patience);
        tokio::select! {
            biased;
            Ok(answer) = receiver => Some(answer),
            () = &mut patience => None,
        }
    }

    fn note(&self, fate: &Fate) {
        let world = &self.way.world;
        let happened = [
            fate.is_request_lost,
            fate.is_answer_lost,
            fate.fails_before,
            fate.fails_after,
            fate.hang > 0,
            fate.answer >= 100,
        ];
        for (name, _) in FAULTS
            .iter()
            .zip(happened)
            .filter(|(_, happened)| *happened)
        {
            world.count(name);
        }
    }
}

impl Transport for Link {
    async fn carry<S: Send + 'static, R: Send + 'static>(
        &self,
        call: &'static str,
        writes: bool,
        snapshot: impl FnOnce(&Server) -> Result<S> + Send + 'static,
        statement: impl FnOnce(&Server, S) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        // A process that does not run sends nothing.
        self.running().await;
        self.way.world.count(call);
        let fate = self.fate(call, writes);
        self.note(&fate);
        let patience = self.random.between(400, 1_200);
        let ran = Arc::new(AtomicU64::new(0));
        let (world, noted) = (Arc::clone(&self.way.world), Arc::clone(&ran));
        let revoked = (call == "revoke").then(|| Arc::clone(&self.revoked));
        let statement = move |server: &Server, snapshot| {
            noted.store(world.now(), Ordering::Relaxed);
            let answer = statement(server, snapshot);
            revoked.iter().for_each(|revoked| revoked.notify_waiters());
            answer
        };
        let way = self.way.clone();
        let travel = async move { way.travel(fate, writes, snapshot, statement).await };
        let answer = match writes || fate.request + fate.hang + fate.answer > patience {
            true => Self::carry_away(travel, patience).await,
            // Shorter, and nobody sees a difference: what nobody waits for changes nothing.
            false => {
                let answer = travel.await;
                if answer.is_none() {
                    pause(patience).await;
                }
                answer
            }
        };
        match (call, &answer) {
            ("confirm", Some(Ok(_))) => {
                let ran = ran.load(Ordering::Relaxed);
                self.confirmed.store(ran, Ordering::Relaxed);
            }
            ("beat", Some(Ok(_))) => self.heartbeat_answered.notify_waiters(),
            _ => {}
        }
        let answer = match answer {
            Some(answer) => answer,
            None if writes => Err(StoreError::OutcomeUnknown("no answer".to_owned())),
            None => Err(StoreError::Unavailable("no answer".to_owned())),
        };
        self.running().await;
        answer
    }

    async fn carry_notice(&self) -> bool {
        let weather = self.weather();
        pause(self.random.below(weather.delay + 1)).await;
        self.running().await;
        !weather.is_cut && !self.random.chance(weather.loss.max(5))
    }

    fn listen(&self, listener: &Arc<Notify>) {
        self.way.world.server.listen(listener);
    }
}

async fn pause(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}
