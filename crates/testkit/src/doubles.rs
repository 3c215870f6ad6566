//! A clock and a source of randomness that a test controls.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use keyward::system::{SystemClock, SystemEntropy};
use keyward_core::key::{BootTime, Clock, Entropy, Timestamp};

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

/// Random bytes of the system, or the same bytes in every run.
#[derive(Debug)]
pub enum ManualEntropy {
    /// The system's randomness.
    System,
    /// A counter: unique, but predictable.
    Counting(AtomicU64),
}

impl Entropy for ManualEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        match self {
            Self::System => SystemEntropy.fill(buffer),
            Self::Counting(counter) => {
                for chunk in buffer.chunks_mut(8) {
                    let next = counter.fetch_add(1, Ordering::SeqCst).to_be_bytes();
                    chunk.copy_from_slice(&next[8 - chunk.len()..]);
                }
            }
        }
    }
}
