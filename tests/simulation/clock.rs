//! The clocks of one machine, derived from the virtual time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use keyward_core::key::{BootTime, Clock, Timestamp};
use tokio::time::Instant;

/// 1 January 2100.
const WALL: i64 = 4_102_444_800_000_000;

/// A boot clock of a constant rate, which never steps, and a wall clock, which does.
pub(crate) struct SimClock {
    start: Instant,
    /// How much faster than the virtual time the clocks run, in parts per million.
    rate: i64,
    boot: i64,
    wall: AtomicI64,
}

impl SimClock {
    pub(crate) fn new(start: Instant, rate: i64, boot: i64) -> Self {
        let wall = AtomicI64::new(WALL);
        Self {
            start,
            rate,
            boot,
            wall,
        }
    }

    /// Steps the wall clock.
    pub(crate) fn step(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::Relaxed);
    }

    /// The virtual time in which this clock shows that `shown` has passed, rounded up.
    pub(crate) fn virtual_time(&self, shown: Duration) -> Duration {
        let micros = i64::try_from(shown.as_micros()).unwrap_or(i64::MAX);
        let micros = micros * 1_000_000 / (1_000_000 + self.rate) + 1;
        Duration::from_micros(micros.unsigned_abs())
    }

    fn elapsed(&self) -> i64 {
        let micros = i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX);
        micros + micros * self.rate / 1_000_000
    }
}

impl Clock for SimClock {
    fn boot(&self) -> BootTime {
        BootTime::from_micros(self.boot + self.elapsed())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_micros(self.wall.load(Ordering::Relaxed) + self.elapsed())
    }
}
