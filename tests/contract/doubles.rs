//! A clock and an entropy source that a test controls.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use keyward_core::key::{BootTime, Clock, Entropy, Timestamp};

/// 1 January 2100. The triggers of a store use the real time, which is earlier, so the test's clock
/// determines all times.
const START: i64 = 4_102_444_800_000_000;

/// A clock that stands still until the test moves it.
pub(crate) struct ManualClock {
    boot: AtomicI64,
    wall: AtomicI64,
    /// A file with the time of the wall clock, for the server.
    shown: OnceLock<PathBuf>,
}

impl ManualClock {
    pub(crate) fn new() -> Self {
        Self {
            boot: AtomicI64::new(1_000_000),
            wall: AtomicI64::new(START),
            shown: OnceLock::new(),
        }
    }

    /// Writes the time of the wall clock to a file from now on.
    pub(crate) fn show_in(&self, file: PathBuf) {
        self.shown.set(file).unwrap();
        self.show();
    }

    /// Replaces the file atomically.
    fn show(&self) {
        if let Some(file) = self.shown.get() {
            let half = file.with_extension("half");
            std::fs::write(&half, self.wall().as_micros().to_string()).unwrap();
            std::fs::rename(half, file).unwrap();
        }
    }

    /// Advances both clocks.
    pub(crate) fn pass(&self, duration: Duration) {
        self.boot.fetch_add(micros(duration), Ordering::SeqCst);
        self.wall.fetch_add(micros(duration), Ordering::SeqCst);
        self.show();
    }

    /// Sets the wall clock back.
    pub(crate) fn set_back(&self, duration: Duration) {
        self.wall.fetch_sub(micros(duration), Ordering::SeqCst);
        self.show();
    }
}

impl Clock for ManualClock {
    fn boot(&self) -> BootTime {
        BootTime::from_micros(self.boot.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_micros(self.wall.load(Ordering::SeqCst))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}

/// Bytes that never repeat: a counter at the end of each buffer.
#[derive(Default)]
pub(crate) struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        let next = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        buffer.fill(0);
        for (slot, byte) in buffer.iter_mut().rev().zip(next.to_le_bytes()) {
            *slot = byte;
        }
    }
}
