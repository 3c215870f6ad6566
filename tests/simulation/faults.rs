//! What happens to the deployment.

use std::sync::Arc;
use std::time::Duration;

use keyward_core::fence::MAX_BEHIND;
use tokio::time::{sleep, timeout};

use crate::hunt::{burst, hunt};
use crate::instance::Instance;
use crate::link::Weather;
use crate::world::World;

/// A fault, or an action of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Cut,
    Pause,
    Slow,
    Loss,
    Hang,
    Failures,
    Strand,
    Crash,
    Stop,
    WallClock,
    DatabaseClock,
    Trim,
    Flood,
    ClearCache,
    Failover,
    LosingFailover,
    LostRow,
    EpochAdvance,
}

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::Cut,
        Self::Pause,
        Self::Slow,
        Self::Loss,
        Self::Hang,
        Self::Failures,
        Self::Strand,
        Self::Crash,
        Self::Stop,
        Self::WallClock,
        Self::DatabaseClock,
        Self::Trim,
        Self::Flood,
        Self::ClearCache,
        Self::Failover,
        Self::LosingFailover,
        Self::LostRow,
        Self::EpochAdvance,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cut => "an instance was cut off",
            Self::Pause => "an instance was paused",
            Self::Slow => "an instance became slow",
            Self::Loss => "an instance lost calls",
            Self::Hang => "statements began to hang",
            Self::Failures => "statements began to fail",
            Self::Strand => "an instance was cut off after late answers",
            Self::Crash => "an instance crashed",
            Self::Stop => "an instance was stopped",
            Self::WallClock => "a wall clock stepped",
            Self::DatabaseClock => "the database's clock stepped",
            Self::Trim => "the log was trimmed",
            Self::Flood => "the log grew by pages",
            Self::ClearCache => "the shared cache was emptied",
            Self::Failover => "failover without loss",
            Self::LosingFailover => "failover with a lost tail",
            Self::LostRow => "failover that lost the row of a fresh instance",
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
                | Self::Failures
                | Self::Strand
                | Self::Stop
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
            Self::Failover | Self::LosingFailover | Self::LostRow | Self::EpochAdvance
        )
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
            // It may hang in a process that is in trouble already.
            let _ = timeout(Duration::from_millis(500), hunt(world, &instance)).await;
        }
        match self {
            Self::Cut => weather(&instance, 200, 8_000, |weather| weather.is_cut = true).await,
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
                instance.stop();
                sleep(Duration::from_millis(random.between(50, 3_000))).await;
                instance.kill();
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
            Self::Flood => flood(world, &instance).await,
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
                if random.chance(50) {
                    let old = |weather: &mut Weather| weather.reads_old_primary = true;
                    weather(&instance, 200, 4_000, old).await;
                }
            }
            Self::LostRow => lose_row(world, &instance).await,
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
    let _ = timeout(Duration::from_millis(500), hunt(world, &new)).await;
    new.link.change(|weather| weather.is_cut = true);
    world.fail_over(true);
    sleep(Duration::from_millis(world.random.between(500, 3_000))).await;
    clear(&new);
}

/// While an instance is cut off, the log grows by some pages, or by so much that the instance jumps.
async fn flood(world: &Arc<World>, instance: &Instance) {
    let Some(known) = world.random.pick(&world.keys.lock()).cloned() else {
        return;
    };
    instance.link.change(|weather| weather.is_cut = true);
    sleep(Duration::from_millis(world.random.between(100, 2_000))).await;
    let entropy = world.random.fork();
    let count = match world.random.chance(30) {
        true => MAX_BEHIND + 1,
        false => world.random.between(9_990, 21_000),
    };
    world.server.alter(|database| {
        let changed = database.key(known.id).is_some();
        database.touch(known.id, if changed { count } else { 0 }, &entropy);
    });
    clear(instance);
}
