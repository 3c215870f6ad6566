//! One run: everything that one seed decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyward::cache::Consistency;
use keyward_core::key::Verdict;
use keyward_store::Expiry;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::calls::Client;
use crate::faults::{self, Fault};
use crate::imports;
use crate::near::{NEAR_CACHES, Near};
use crate::world::{INSTANCES, Known, World};

/// The result of a run.
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    /// Equal for two runs of one seed.
    pub(crate) hash: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) timeline: Vec<String>,
}

/// How long after the last fault the deployment may need until all calls succeed.
/// A new epoch settles after about a minute.
const RECOVERY: Duration = Duration::from_secs(85);

/// Runs on this thread, in virtual time.
pub(crate) fn simulated<R>(what: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(what)
}

/// Runs a seed on this thread, in virtual time. `is_told` says whether to keep a timeline.
pub(crate) fn run(seed: u64, is_told: bool) -> Outcome {
    let (outcome, world) = simulated(async {
        let world = World::new(seed, is_told).await;
        for index in 0..INSTANCES {
            world.boot(index).await;
        }
        play(&world).await;
        recover(&world).await;
        let mut judge = world.judge.lock();
        world.server.look(|database| judge.inspect(database));
        let (violations, hash) = judge.finish();
        let outcome = Outcome {
            violations,
            hash,
            counts: world.counts(),
            timeline: world.timeline(),
        };
        drop(judge);
        // Each instance holds the world.
        world.instances.lock().clear();
        world.stopping.lock().clear();
        (outcome, Arc::downgrade(&world))
    });
    assert_eq!(
        world.strong_count(),
        0,
        "the world of a run stays in memory"
    );
    outcome
}

/// Calls and faults for a while. Each seed has its own selection of faults.
async fn play(world: &Arc<World>) {
    let random = &world.random;
    let allowed = Fault::ALL.into_iter().filter(|fault| match fault {
        Fault::Flood | Fault::Jump => random.chance(10),
        Fault::LosingFailover | Fault::LostRow => random.chance(15),
        Fault::Sleep => random.chance(10),
        Fault::Failover => random.chance(15),
        Fault::EpochAdvance => random.chance(8),
        _ => random.chance(40),
    });
    let allowed = allowed.filter(|fault| !fault.loses() || !world.failover_loses_nothing);
    let allowed: Vec<Fault> = allowed.collect();
    let (until, pace) = (random.between(4, 9) * 1_000_000, random.between(20, 250));
    let verifying = tokio::spawn(verify_all(Arc::clone(world), random.between(16, 90)));
    let copies = allowed.iter().any(|fault| fault.loses());
    let operating = tokio::spawn(operate(Arc::clone(world), copies));
    let mut living = JoinSet::new();
    if world.imports.is_some() {
        living.spawn(imports::move_in(Arc::clone(world)));
    }
    if random.chance(60) {
        for number in 0..NEAR_CACHES {
            living.spawn(Near::new(world, number, random.fork()).live());
        }
    }
    let mut happening = JoinSet::new();
    // These are costly, and one or two show as much as many.
    let (mut epochs, mut floods) = (random.between(1, 3), 1);
    while world.now() < until || is_settling(world) {
        if is_boring(world) {
            sleep(Duration::from_secs(1)).await;
            continue;
        }
        sleep(Duration::from_millis(random.between(1, 2 * pace))).await;
        if random.chance(20) {
            let fault = random.pick(&allowed).copied();
            let is_left = |fault: &Fault| match fault {
                Fault::Flood | Fault::Jump => floods > 0,
                fault => !fault.changes_epoch() || epochs > 0,
            };
            if let Some(fault) = fault.filter(is_left) {
                epochs -= u64::from(fault.changes_epoch());
                floods -= u64::from(matches!(fault, Fault::Flood | Fault::Jump));
                let world = Arc::clone(world);
                happening.spawn(async move { fault.happen(&world).await });
            }
        } else {
            call(world);
        }
    }
    while happening.join_next().await.is_some() {}
    verifying.abort();
    operating.abort();
    living.abort_all();
}

/// Whether a new epoch is neither young nor nearly old enough that changes are confirmed in it. Nothing
/// new happens then.
pub(crate) fn is_boring(world: &World) -> bool {
    let age = world.epoch_age().unwrap_or_default();
    (6_000_000..59_000_000).contains(&age)
}

/// Whether changes are not confirmed yet, or only since a moment.
fn is_settling(world: &World) -> bool {
    world.epoch_age().is_some_and(|age| age < 66_000_000)
}

/// Starts one random call.
fn call(world: &Arc<World>) {
    let Some(instance) = world.instance() else {
        return;
    };
    let random = &world.random;
    let client = Client {
        world: Arc::clone(world),
        instance,
    };
    let account = *random.pick(&["a", "b", "c"]).unwrap();
    let slot = *random.pick(&["one", "two"]).unwrap();
    let key = recent(world, &world.keys.lock());
    let token = recent(world, &world.tokens.lock());
    let (kind, by_text) = (random.below(100), random.chance(30));
    let expiry = match random.chance(15) {
        true => Expiry::After(Duration::from_secs(random.between(1, 5))),
        false => Expiry::Never,
    };
    let grace = match random.chance(20) && !by_text {
        true => Duration::from_millis(random.between(1, 4_000)),
        false => Duration::ZERO,
    };
    let replace = random.chance(30) && !by_text;
    tokio::spawn(async move {
        match (kind, key, token) {
            (0..35, ..) => drop(client.issue(account, slot, expiry).await),
            (35..65, Some(key), _) => drop(client.revoke(&key, (replace, grace), by_text).await),
            (65..71, ..) => client.revoke_account(account).await,
            (71..81, Some(key), _) => drop(client.update(&key, false).await),
            (81..86, Some(key), _) => drop(client.update(&key, true).await),
            (86..90, ..) => drop(client.create_token().await),
            (90..94, _, Some(token)) => drop(client.revoke_token(&token).await),
            _ => {}
        }
    });
}

/// One of the newest keys or tokens.
pub(crate) fn recent(world: &World, known: &[Arc<Known>]) -> Option<Arc<Known>> {
    let newest = &known[known.len().saturating_sub(6)..];
    world.random.pick(newest).cloned()
}

/// Verifies keys and tokens on all instances, mostly the newest ones.
async fn verify_all(world: Arc<World>, pace: u64) {
    loop {
        sleep(Duration::from_millis(world.random.between(1, 2 * pace))).await;
        if is_boring(&world) {
            sleep(Duration::from_secs(1)).await;
        }
        let Some(instance) = world.instance() else {
            continue;
        };
        let client = Client {
            world: Arc::clone(&world),
            instance,
        };
        if world.random.chance(10) {
            if let Some(token) = recent(&world, &world.tokens.lock()) {
                tokio::spawn(async move { client.verify_token(&token).await });
            }
            continue;
        }
        let key = match world.random.chance(80) {
            true => recent(&world, &world.keys.lock()),
            false => world.random.pick(&world.keys.lock()).cloned(),
        };
        let consistency = match world.random.chance(10) {
            true => Consistency::Strong,
            false => Consistency::Default,
        };
        if let Some(key) = key {
            tokio::spawn(async move { client.verify(&key, consistency).await });
        }
    }
}

/// Copies the database now and then, and is the operator: some time after an instance has found that
/// the log lost changes, the log is accepted.
async fn operate(world: Arc<World>, copies: bool) {
    loop {
        sleep(Duration::from_millis(world.random.between(50, 400))).await;
        if copies {
            world.copy();
        }
        world.observe();
        let instances: Vec<_> = world.instances.lock().iter().flatten().cloned().collect();
        let mut troubles = instances
            .iter()
            .filter_map(|instance| instance.tail.trouble());
        if troubles.any(|trouble| trouble.contains("the log lost changes")) {
            sleep(Duration::from_millis(world.random.between(0, 3_000))).await;
            world.count("an operator accepted a log");
            world.advance_epoch();
            sleep(Duration::from_millis(1_000)).await;
        }
    }
}

/// All faults end. Then every instance must serve again within a bound.
async fn recover(world: &Arc<World>) {
    world.tell(|| "ALL FAULTS END".to_owned());
    for instance in world.instances.lock().iter().flatten() {
        faults::clear(instance);
    }
    let deadline = world.now() + crate::judge::micros(RECOVERY);
    *world.old_primary.lock() = None;
    let operating = tokio::spawn(operate(Arc::clone(world), false));
    for index in 0..INSTANCES {
        loop {
            if is_settling(world) {
                sleep(Duration::from_secs(1)).await;
                continue;
            }
            // The process may hang in a call from before.
            let served = timeout(Duration::from_secs(10), serves(world, index)).await;
            if served == Ok(true) {
                break;
            }
            if world.now() > deadline {
                let late = format!("instance {index} does not serve again");
                world.judge.lock().faults.push(late);
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
    operating.abort();
}

/// Whether an instance issues a key that all verify, and revokes it.
async fn serves(world: &Arc<World>, index: usize) -> bool {
    let instances: Vec<_> = world.instances.lock().iter().flatten().cloned().collect();
    let clients = instances.into_iter().map(|instance| Client {
        world: Arc::clone(world),
        instance,
    });
    let clients: Vec<Client> = clients.collect();
    let Some(client) = clients.iter().find(|client| client.instance.index == index) else {
        return false;
    };
    let slot = format!("last-{}", world.now());
    let Some(key) = client.issue("last", &slot, Expiry::Never).await else {
        return false;
    };
    for client in &clients {
        if client.verify(&key, Consistency::Default).await != Some(Verdict::Valid) {
            return false;
        }
    }
    client.revoke(&key, (false, Duration::ZERO), false).await && clients.len() == INSTANCES
}
