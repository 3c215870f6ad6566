//! Time and randomness under the test's control.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use keyward_core::key::{BootTime, Clock, Entropy, Timestamp};

/// The first of January 2100: ahead of the real time that the triggers of a store go by, so that
/// all time in a test comes from its clock.
const BEGINNING: i64 = 4_102_444_800_000_000;

/// A clock that moves only when the test moves it.
pub(crate) struct ManualClock {
    boot: AtomicI64,
    wall: AtomicI64,
    /// A file that shows the wall clock, for a server that is to go by it.
    shown: OnceLock<PathBuf>,
}

impl ManualClock {
    pub(crate) fn new() -> Self {
        Self {
            boot: AtomicI64::new(1_000_000),
            wall: AtomicI64::new(BEGINNING),
            shown: OnceLock::new(),
        }
    }

    /// Shows the wall clock in a file from now on.
    pub(crate) fn show_in(&self, file: PathBuf) {
        self.shown.set(file).unwrap();
        self.show();
    }

    /// Replaces the file at once: it is never seen half-written.
    fn show(&self) {
        if let Some(file) = self.shown.get() {
            let half = file.with_extension("half");
            std::fs::write(&half, self.wall().as_micros().to_string()).unwrap();
            std::fs::rename(half, file).unwrap();
        }
    }

    /// Time passes, on both clocks.
    pub(crate) fn pass(&self, duration: Duration) {
        self.boot.fetch_add(micros(duration), Ordering::SeqCst);
        self.wall.fetch_add(micros(duration), Ordering::SeqCst);
        self.show();
    }

    /// Somebody sets the wall clock back.
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

/// Bytes that are never the same twice: a counter, at the end of each buffer.
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
