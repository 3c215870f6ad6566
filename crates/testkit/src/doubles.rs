//! A clock that a test controls.

use std::sync::atomic::{AtomicI64, Ordering};

use keyward::system::SystemClock;
use keyward_core::key::{BootTime, Clock, Timestamp};

/// The machine's clocks with offsets that the test sets.
#[derive(Debug, Default)]
pub struct ManualClock {
    boot: AtomicI64,
    wall: AtomicI64,
}

impl ManualClock {
    /// Moves only the wall clock by these seconds, which can be negative.
    pub fn step_wall(&self, seconds: i64) {
        self.wall.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    /// Advances only the boot clock by these seconds.
    pub fn step_boot(&self, seconds: i64) {
        self.boot.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn boot(&self) -> BootTime {
        let micros = SystemClock
            .boot()
            .since(BootTime::from_micros(0))
            .as_micros();
        let micros = i64::try_from(micros).unwrap_or(i64::MAX);
        BootTime::from_micros(micros + self.boot.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timestamp {
        let micros = SystemClock.wall().as_micros();
        Timestamp::from_micros(micros + self.wall.load(Ordering::SeqCst))
    }
}
