//! What all parts of one run share: the server, the instances, the judge, and what is counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use keyward_core::fence::{Epoch, MAX_ROWS};
use keyward_core::key::{Clock, KeyId, Prefix, Roles, SecretText, SlotName, TOKEN_PREFIX, Verdict};
use keyward_crypto::{
    Active, CurrentKeyring, GenerationKeys, ImportSecret, Keyring, KeyringMaterial, SecretKey,
};
use keyward_ops::Metrics;
use keyward_store::{Actor, Expiry, NewToken, Tokens};
use keyward_store_memory::{Database, Direct, MemoryStore, Server};
use keyward_testkit::{IMPORT_SECRETS, Random};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::clock::SimClock;
use crate::imports::Imports;
use crate::instance::{Instance, Seat};
use crate::judge::{Judge, micros};
use crate::link::Link;
use crate::near::NEAR_CACHES;
use crate::shared_cache::MemoryCache;

/// The number of instances.
pub(crate) const INSTANCES: usize = 3;
pub(crate) const OLD_READ: &str = "a read of an old primary";
/// How many copies of the database exist, for a failover that loses what is newer.
const COPIES: usize = 12;

/// The metrics and the keyring are costly to make, and no decision depends on them.
static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| {
    let verdicts: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
    Arc::new(Metrics::new(&verdicts))
});
static KEYRING: LazyLock<Arc<CurrentKeyring>> = LazyLock::new(|| keyring(false));
static IMPORTING_KEYRING: LazyLock<Arc<CurrentKeyring>> = LazyLock::new(|| keyring(true));

fn keyring(imports: bool) -> Arc<CurrentKeyring> {
    let random = Random::new(1);
    let mut material = KeyringMaterial {
        generations: [(1, GenerationKeys::draw(&random))].into(),
        seals: [(1, SecretKey::draw(&random))].into(),
        ..KeyringMaterial::default()
    };
    if imports {
        material.foreign = Some(SecretKey::draw(&random));
        let secrets = IMPORT_SECRETS.map(|secret| ImportSecret::new(secret).unwrap());
        material.imports = (1..).zip(secrets).collect();
    }
    let keyring = Keyring::new(&material, Active::default()).unwrap();
    Arc::new(CurrentKeyring::new(keyring))
}

/// A key or a token whose text a caller knows.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) id: KeyId,
    pub(crate) text: SecretText,
    pub(crate) account: String,
}

pub(crate) struct World {
    start: Instant,
    pub(crate) random: Random,
    pub(crate) seats: Vec<Seat>,
    /// Whether the deployment replicates synchronously, so that no failover loses a commit.
    pub(crate) failover_loses_nothing: bool,
    /// When the store entered its present epoch, if changes are confirmed in it only after a while.
    epoch_since: AtomicU64,
    pub(crate) server: Arc<Server>,
    pub(crate) server_clock: Arc<SimClock>,
    /// The primary of before the last failover. It still answers reads.
    pub(crate) old_primary: Mutex<Option<Arc<Server>>>,
    copies: Mutex<VecDeque<Database>>,
    pub(crate) instances: Mutex<Vec<Option<Arc<Instance>>>>,
    /// The instances that stop in order, and still answer.
    pub(crate) stopping: Mutex<Vec<Arc<Instance>>>,
    pub(crate) judge: Mutex<Judge>,
    pub(crate) keys: Mutex<Vec<Arc<Known>>>,
    pub(crate) tokens: Mutex<Vec<Arc<Known>>>,
    /// The token of the caller of most calls.
    pub(crate) token: SecretText,
    pub(crate) shared_cache: Option<Arc<MemoryCache>>,
    /// What was imported, in a run with imports.
    pub(crate) imports: Option<Imports>,
    pub(crate) keyring: Arc<CurrentKeyring>,
    pub(crate) metrics: Arc<Metrics>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    lines: Option<Mutex<Vec<String>>>,
}

impl World {
    /// The world of a seed, without instances. `is_told` says whether to keep a timeline.
    pub(crate) async fn new(seed: u64, is_told: bool) -> Arc<Self> {
        let (start, random) = (Instant::now(), Random::new(seed));
        let seat = |index: usize| {
            let rate = [-9_800, 9_800, random.between(0, 19_600) as i64 - 9_800];
            let boot = 1_000_000 * (index as i64 + 1);
            Seat {
                clock: Arc::new(SimClock::new(start, *random.pick(&rate).unwrap(), boot)),
                max_staleness: Duration::from_millis(*random.pick(&[800, 2_500, 5_000]).unwrap()),
                max_tombstones: *random.pick(&[2, 5, 1_000]).unwrap(),
                has_l1: random.chance(85),
            }
        };
        let seats: Vec<Seat> = (0..INSTANCES).map(seat).collect();
        let bounds = seats
            .iter()
            .map(|seat| seat.clock.virtual_time(seat.max_staleness));
        let mut bounds: Vec<Duration> = bounds.collect();
        // A near-cache may be kept fresh by any of them.
        let longest = bounds.iter().max().copied().unwrap_or_default();
        bounds.extend([longest; NEAR_CACHES]);
        let server_clock = Arc::new(SimClock::new(start, 0, 0));
        let epoch = Epoch {
            system: 7,
            timeline: 1,
            incarnation: 1,
        };
        let mut database = Database::new(epoch, [0; 8], server_clock.wall());
        database.settled = Some(epoch);
        database.has_standby = true;
        database.page_rows = *random.pick(&[1, 2, 7, MAX_ROWS, MAX_ROWS]).unwrap();
        let entropy = Arc::new(random.fork());
        let server = Arc::new(Server::new(database, server_clock.clone(), entropy));
        let token = first_token(&server, &random).await;
        let cache = random.fork();
        let imports = Imports::of(seed);
        Arc::new(Self {
            start,
            seats,
            server,
            server_clock,
            old_primary: Mutex::default(),
            copies: Mutex::default(),
            instances: Mutex::new((0..INSTANCES).map(|_| None).collect()),
            stopping: Mutex::default(),
            judge: Mutex::new(Judge::new(&bounds)),
            keys: Mutex::default(),
            tokens: Mutex::default(),
            token,
            failover_loses_nothing: random.chance(30),
            epoch_since: AtomicU64::new(u64::MAX),
            shared_cache: random.chance(60).then(|| Arc::new(MemoryCache::new(cache))),
            keyring: Arc::clone(match imports {
                None => &KEYRING,
                Some(_) => &IMPORTING_KEYRING,
            }),
            imports,
            metrics: Arc::clone(&METRICS),
            counts: Mutex::default(),
            lines: is_told.then(Mutex::default),
            random,
        })
    }

    /// The virtual time, in microseconds.
    pub(crate) fn now(&self) -> u64 {
        micros(self.start.elapsed())
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().clone()
    }

    /// Adds a line to the timeline.
    pub(crate) fn tell(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let (seconds, micros) = (self.now() / 1_000_000, self.now() % 1_000_000);
            lines
                .lock()
                .push(format!("{seconds:3}.{micros:06}  {}", line()));
        }
    }

    pub(crate) fn timeline(&self) -> Vec<String> {
        let lines = self.lines.as_ref();
        lines.map(|lines| lines.lock().clone()).unwrap_or_default()
    }

    /// Runs a statement at the server that a call reaches, and notes what it committed.
    pub(crate) fn serve<R>(
        &self,
        writes: bool,
        reads_old_primary: bool,
        statement: impl FnOnce(&Server) -> keyward_store::Result<R>,
    ) -> keyward_store::Result<R> {
        let server = self.reached(reads_old_primary);
        if !Arc::ptr_eq(&server, &self.server) {
            if writes {
                let fenced = "cannot write: not a primary any more".to_owned();
                return Err(keyward_store::StoreError::Unavailable(fenced));
            }
            self.count(OLD_READ);
            return statement(&server);
        }
        let answer = statement(&server);
        if writes {
            self.observe();
        }
        answer
    }

    /// The server that a call reaches.
    pub(crate) fn reached(&self, reads_old_primary: bool) -> Arc<Server> {
        let old = self.old_primary.lock().clone();
        let old = old.filter(|_| reads_old_primary);
        old.unwrap_or_else(|| Arc::clone(&self.server))
    }

    /// Shows the judge what the server has committed.
    pub(crate) fn observe(&self) {
        let at = self.now();
        let mut judge = self.judge.lock();
        self.server.look(|database| judge.observe(at, database));
    }

    /// Keeps a copy of the database, as a standby that is behind would.
    pub(crate) fn copy(&self) {
        let mut copies = self.copies.lock();
        copies.push_front(self.server.copy());
        copies.truncate(COPIES);
    }

    /// Makes the present state the only one that a standby has.
    pub(crate) fn copy_only_now(&self) {
        self.copies.lock().clear();
        self.copy();
    }

    /// The primary is lost and a standby takes over, with or without the newest changes.
    pub(crate) fn fail_over(&self, loses: bool) {
        self.observe();
        let old = Server::new(
            self.server.copy(),
            self.server_clock.clone(),
            Arc::new(self.random.fork()),
        );
        let copies = self.copies.lock().clone();
        let copy = copies
            .get(self.random.index(copies.len()))
            .filter(|_| loses);
        self.server.alter(|database| {
            let timeline = database.epoch.timeline + 1;
            if let Some(copy) = copy {
                *database = copy.clone();
            }
            database.epoch.timeline = timeline;
        });
        // The clock of the new primary is another one.
        self.server_clock
            .step(self.random.between(0, 4_000_000) as i64 - 2_000_000);
        self.copies.lock().clear();
        *self.old_primary.lock() = Some(Arc::new(old));
        let applied = self.instances.lock();
        let applied = applied.iter().map(|instance| {
            let instance = instance.as_ref()?;
            Some(instance.fence.applied())
        });
        let applied: Vec<_> = applied.chain([None; NEAR_CACHES]).collect();
        let at = self.now();
        if !self.failover_loses_nothing {
            self.epoch_since.store(at, Ordering::Relaxed);
        }
        let mut judge = self.judge.lock();
        self.server.look(|database| {
            judge.failed_over(at, &applied, database);
            self.tell(|| {
                let (epoch, head) = (database.epoch, database.head());
                format!("FAILOVER to timeline {}, head {head}", epoch.timeline)
            });
        });
    }

    /// An operator accepts the log as it is.
    pub(crate) fn advance_epoch(&self) {
        self.server
            .alter(|database| database.epoch.incarnation += 1);
        let at = self.now();
        self.epoch_since.store(at, Ordering::Relaxed);
        self.tell(|| "EPOCH ADVANCE".to_owned());
        for index in 0..INSTANCES {
            self.judge.lock().accepted(at, index);
        }
    }

    /// How long ago the store entered its present epoch, in microseconds. `None` if changes are confirmed
    /// in it from the start.
    pub(crate) fn epoch_age(&self) -> Option<u64> {
        let since = self.epoch_since.load(Ordering::Relaxed);
        (since != u64::MAX).then(|| self.now() - since)
    }

    /// The clock of one more machine.
    pub(crate) fn clock(&self, rate: i64) -> SimClock {
        SimClock::new(self.start, rate, 0)
    }

    /// A running instance.
    pub(crate) fn instance(&self) -> Option<Arc<Instance>> {
        let instances: Vec<_> = self.instances.lock().iter().flatten().cloned().collect();
        self.random.pick(&instances).cloned()
    }

    /// Starts the process of a seat, and again until it succeeds.
    pub(crate) async fn boot(self: &Arc<Self>, index: usize) {
        loop {
            let link = Arc::new(Link::new(Arc::clone(self), self.random.fork()));
            let started = Instance::start(self, index, Arc::clone(&link), self.random.fork());
            match started.await {
                Ok(instance) => {
                    self.count("an instance started");
                    self.tell(|| format!("instance {index} has started"));
                    self.judge.lock().accepted(self.now(), index);
                    self.instances.lock()[index] = Some(Arc::new(instance));
                    return;
                }
                Err(why) => {
                    self.tell(|| format!("instance {index} could not start: {why}"));
                    link.change(|weather| weather.is_dead = true);
                    sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }
}

/// Creates the token of the calls.
async fn first_token(server: &Arc<Server>, random: &Random) -> SecretText {
    let clock = Arc::new(SimClock::new(Instant::now(), 0, 0));
    let store = MemoryStore::open(Arc::new(Direct(Arc::clone(server))), clock);
    let minted = KEYRING
        .load()
        .mint(&Prefix::new(TOKEN_PREFIX).unwrap(), random);
    let new = NewToken {
        id: KeyId::draw(server.now(), random),
        digest: minted.digest,
        generation: Some(minted.generation),
        san: None,
        name: SlotName::new("name", "caller".to_owned()).unwrap(),
        roles: Roles::all(),
        expiry: Expiry::Never,
    };
    let actor = Actor {
        name: "simulation".to_owned(),
        ..Actor::service()
    };
    store.create_token(new, &actor).await.unwrap();
    minted.text
}
