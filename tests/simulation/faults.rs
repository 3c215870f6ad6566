//! What happens to the deployment.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::fence::{MAX_BEHIND, MAX_ROWS};
use tokio::time::{sleep, timeout};

use crate::hunt::{burst, cached, fresh, heartbeat, hunt, look_late, lurk, revocation};
use crate::instance::Instance;
use crate::link::Weather;
use crate::world::World;

/// A fault, or an action of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Cut,
    CutWhenFresh,
    Pause,
    Slow,
    Loss,
    Hang,
    HangingHeartbeats,
    LockedRow,
    CutWhenBack,
    Failures,
    Strand,
    Crash,
    Stop,
    WallClock,
    DatabaseClock,
    Trim,
    Flood,
    Jump,
    ClearCache,
    Failover,
    LosingFailover,
    LostRow,
    Sleep,
    EpochAdvance,
}

impl Fault {
    pub(crate) const ALL: [Self; 24] = [
        Self::Cut,
        Self::CutWhenFresh,
        Self::Pause,
        Self::Slow,
        Self::Loss,
        Self::Hang,
        Self::HangingHeartbeats,
        Self::LockedRow,
        Self::CutWhenBack,
        Self::Failures,
        Self::Strand,
        Self::Crash,
        Self::Stop,
        Self::WallClock,
        Self::DatabaseClock,
        Self::Trim,
        Self::Flood,
        Self::Jump,
        Self::ClearCache,
        Self::Failover,
        Self::LosingFailover,
        Self::LostRow,
        Self::Sleep,
        Self::EpochAdvance,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cut => "an instance was cut off",
            Self::CutWhenFresh => "an instance was cut off when it had become fresh",
            Self::Pause => "an instance was paused",
            Self::Slow => "an instance became slow",
            Self::Loss => "an instance lost calls",
            Self::Hang => "statements began to hang",
            Self::HangingHeartbeats => "heartbeats began to hang",
            Self::LockedRow => "a heartbeat waited for its row after a long pause",
            Self::CutWhenBack => "an instance was cut off after a long pause",
            Self::Failures => "statements began to fail",
            Self::Strand => "an instance was cut off after late answers",
            Self::Crash => "an instance crashed",
            Self::Stop => "an instance was stopped",
            Self::WallClock => "a wall clock stepped",
            Self::DatabaseClock => "the database's clock stepped",
            Self::Trim => "the log was trimmed",
            Self::Flood => "the log grew by pages",
            Self::Jump => "the log grew by so much that an instance jumps",
            Self::ClearCache => "the shared cache was emptied",
            Self::Failover => "failover without loss",
            Self::LosingFailover => "failover with a lost tail",
            Self::LostRow => "failover that lost the row of a fresh instance",
            Self::Sleep => "a revoker slept over a failover that lost its change",
            Self::EpochAdvance => "an operator advanced the epoch",
        }
    }

    const fn troubles_an_instance(self) -> bool {
        matches!(
            self,
            Self::Cut
                | Self::Pause
                | Self::Slow
                | Self::Loss
                | Self::Hang
                | Self::HangingHeartbeats
                | Self::Failures
                | Self::Strand
                | Self::Stop
                | Self::Flood
                | Self::Jump
                | Self::WallClock
                | Self::Failover
                | Self::LosingFailover
                | Self::EpochAdvance
        )
    }

    /// Whether the store enters a new epoch.
    pub(crate) const fn changes_epoch(self) -> bool {
        matches!(
            self,
            Self::Failover
                | Self::LosingFailover
                | Self::LostRow
                | Self::Sleep
                | Self::EpochAdvance
        )
    }

    /// Whether only a failover that loses commits shows it.
    pub(crate) const fn loses(self) -> bool {
        matches!(self, Self::LosingFailover | Self::LostRow | Self::Sleep)
    }

    /// Lets it happen.
    pub(crate) async fn happen(self, world: &Arc<World>) {
        let Some(instance) = world.instance() else {
            return;
        };
        world.count(self.name());
        world.tell(|| {
            format!(
                "{}: {} ({})",
                instance.index,
                self.name(),
                world.server.look(|d| d.head())
            )
        });
        let random = &world.random;
        if self.troubles_an_instance() && random.chance(60) {
            let delay = *random.pick(&[20, 800]).unwrap();
            // It may hang in a process that is in trouble already.
            let _ = timeout(Duration::from_millis(500), hunt(world, &instance, delay)).await;
        }
        match self {
            Self::Cut => weather(&instance, 200, 8_000, |weather| weather.is_cut = true).await,
            Self::CutWhenFresh => {
                if random.chance(30) {
                    look_late(world, instance.index);
                    sleep(Duration::from_millis(random.below(800))).await;
                }
                heartbeat(&instance).await;
                // The key is in the cache mostly, so the hunter needs no answer of an instance that is cut off.
                let hunting = hunt(world, &instance, 20);
                let _ = timeout(Duration::from_millis(10), hunting).await;
                if random.chance(40) {
                    heartbeat(&instance).await;
                }
                weather(&instance, 1_000, 8_000, |weather| weather.is_cut = true).await;
            }
            Self::Pause => weather(&instance, 200, 6_000, |weather| weather.is_paused = true).await,
            Self::Slow => {
                let delay = random.between(20, 400);
                weather(&instance, 500, 8_000, |weather| weather.delay = delay).await;
            }
            Self::Loss => {
                let loss = random.between(5, 40);
                weather(&instance, 500, 8_000, |weather| weather.loss = loss).await;
            }
            Self::Hang => {
                let hangs = random.between(5, 30);
                weather(&instance, 500, 8_000, |weather| weather.hangs = hangs).await;
            }
            Self::HangingHeartbeats => {
                let hangs = random.between(40, 90);
                let change = |weather: &mut Weather| weather.hanging_heartbeats = hangs;
                weather(&instance, 1_000, 8_000, change).await;
            }
            Self::LockedRow => locked_row(world, &instance).await,
            Self::CutWhenBack => cut_when_back(world, &instance).await,
            Self::Failures => {
                let failures = random.between(5, 40);
                weather(&instance, 500, 5_000, |weather| weather.failures = failures).await;
            }
            Self::Strand => {
                let late = |weather: &mut Weather| weather.late_answers = 100;
                weather(&instance, 300, 1_200, late).await;
                weather(&instance, 500, 4_000, |weather| weather.is_cut = true).await;
            }
            Self::Crash => {
                world.instances.lock()[instance.index] = None;
                instance.kill();
                sleep(Duration::from_millis(random.below(5_000))).await;
                world.boot(instance.index).await;
            }
            Self::Stop => {
                world.instances.lock()[instance.index] = None;
                world.stopping.lock().push(Arc::clone(&instance));
                if random.chance(50) {
                    instance.link.change(|weather| weather.late_answers = 100);
                }
                instance.stop();
                sleep(Duration::from_millis(random.between(50, 3_000))).await;
                instance.kill();
                let is_other = |other: &Arc<Instance>| !Arc::ptr_eq(other, &instance);
                world.stopping.lock().retain(is_other);
                world.boot(instance.index).await;
            }
            Self::WallClock => world.seats[instance.index].clock.step(step(world)),
            Self::DatabaseClock => world.server_clock.step(step(world)),
            Self::Trim => {
                let kept = random.below(4);
                world
                    .server
                    .alter(|d| d.trim_to(d.head().saturating_sub(kept)));
            }
            Self::Flood => {
                let rows = random.between(3, 21_000);
                flood(world, &instance, rows).await;
            }
            Self::Jump => flood(world, &instance, MAX_BEHIND + 1).await,
            Self::ClearCache => {
                if let Some(cache) = &world.shared_cache {
                    cache.clear();
                }
            }
            Self::Failover | Self::LosingFailover => {
                let loses = self == Self::LosingFailover;
                if loses {
                    instance.link.change(|weather| weather.is_paused = true);
                    sleep(Duration::from_millis(random.below(600))).await;
                }
                world.fail_over(loses);
                if loses {
                    burst(world).await;
                    clear(&instance);
                }
                if random.chance(70) {
                    let old = |weather: &mut Weather| weather.reads_old_primary = true;
                    weather(&instance, 200, 8_000, old).await;
                }
            }
            Self::LostRow => lose_row(world, &instance).await,
            Self::Sleep => sleep_over_failover(world, &instance).await,
            Self::EpochAdvance => world.advance_epoch(),
        }
    }
}

/// Up to ten seconds forward or back, in microseconds.
fn step(world: &World) -> i64 {
    let size = world.random.between(1, 10_000_000) as i64;
    if world.random.chance(50) { size } else { -size }
}

/// Changes the weather of an instance for a while.
async fn weather(
    instance: &Instance,
    shortest: u64,
    longest: u64,
    change: impl FnOnce(&mut Weather),
) {
    let duration = instance.link.between(shortest, longest);
    instance.link.change(change);
    sleep(Duration::from_millis(duration)).await;
    clear(instance);
}

/// Ends all faults of an instance, except that its process may have ended.
pub(crate) fn clear(instance: &Instance) {
    instance.link.change(|weather| {
        let is_dead = weather.is_dead;
        *weather = Weather::calm();
        weather.is_dead = is_dead;
    });
}

/// An instance starts, so that its row is new, and is cut off while it is fresh. Then a standby takes over
/// that lacks the row: no change waits for that instance.
async fn lose_row(world: &Arc<World>, instance: &Instance) {
    world.copy_only_now();
    world.instances.lock()[instance.index] = None;
    instance.kill();
    world.boot(instance.index).await;
    let Some(new) = world.instances.lock()[instance.index].clone() else {
        return;
    };
    let _ = timeout(Duration::from_millis(500), hunt(world, &new, 800)).await;
    new.link.change(|weather| weather.is_cut = true);
    world.fail_over(true);
    sleep(Duration::from_millis(world.random.between(500, 3_000))).await;
    clear(&new);
}

/// An instance is paused until the others have noticed. When it is fresh again, it is cut off before they see
/// its heartbeat.
async fn cut_when_back(world: &Arc<World>, instance: &Arc<Instance>) {
    let caching = timeout(Duration::from_millis(500), cached(world, instance));
    let Ok(Some(key)) = caching.await else {
        return;
    };
    pause_until_noticed(world, instance).await;
    fresh(world, instance).await;
    instance.link.change(|weather| weather.is_cut = true);
    lurk(world, instance, &key).await;
    clear(instance);
}

/// An instance is paused until the others have noticed. After a cut it would have another row.
async fn pause_until_noticed(world: &World, instance: &Instance) {
    instance.link.change(|weather| weather.is_paused = true);
    let bound = world.seats[instance.index].max_staleness;
    sleep(bound + Duration::from_millis(world.random.between(1_300, 2_500))).await;
    clear(instance);
}

/// An instance is paused until the others have noticed. Then its first heartbeat waits for a lock, with a
/// snapshot from before a revocation, and its answer comes late.
async fn locked_row(world: &Arc<World>, instance: &Arc<Instance>) {
    let caching = timeout(Duration::from_millis(500), cached(world, instance));
    let Ok(Some(key)) = caching.await else {
        return;
    };
    pause_until_noticed(world, instance).await;
    instance.link.lock_row(world.random.between(250, 380));
    instance.link.change(|weather| weather.late_answers = 100);
    lurk(world, instance, &key).await;
    clear(instance);
}

/// A process stops running when its revocation has committed. Meanwhile a standby takes over that lacks the
/// change, and the others settle the new epoch.
async fn sleep_over_failover(world: &Arc<World>, instance: &Arc<Instance>) {
    world.copy_only_now();
    revocation(world, instance).await;
    instance.link.change(|weather| weather.is_paused = true);
    sleep(Duration::from_millis(world.random.below(300))).await;
    world.fail_over(true);
    burst(world).await;
    // The play ends when the epoch is 66 s old.
    let settles = world.random.between(62_500_000, 64_000_000);
    while world.epoch_age().is_some_and(|age| age < settles) {
        sleep(Duration::from_millis(200)).await;
    }
    clear(instance);
}

/// While an instance is cut off, the log grows by `rows`, and a key is revoked at the beginning.
async fn flood(world: &Arc<World>, instance: &Arc<Instance>, rows: u64) {
    let Some(known) = world.random.pick(&world.keys.lock()).cloned() else {
        return;
    };
    instance.link.change(|weather| weather.is_cut = true);
    burst(world).await;
    sleep(Duration::from_millis(world.random.between(100, 2_000))).await;
    let entropy = world.random.fork();
    world.server.alter(|database| {
        if database.key(known.id).is_some() {
            database.page_rows = MAX_ROWS;
            database.touch(known.id, rows, &entropy);
        }
    });
    clear(instance);
}
