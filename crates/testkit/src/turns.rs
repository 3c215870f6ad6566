//! Keeps heavy scenarios apart: a machine with two cores cannot run a dozen clusters at once, and a
//! scenario that measures time must not measure the others.

use std::num::NonZeroUsize;

use parking_lot::{Condvar, Mutex};

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run a heavy scenario, until it is dropped.
pub(crate) struct Turn(());

impl Turn {
    /// Waits until fewer than two scenarios per core run; four always may. Most of a scenario's time is
    /// waiting for bounds to pass, so two fit on one core.
    pub(crate) fn wait() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let mut running = RUNNING.lock();
        ENDED.wait_while(&mut running, |running| *running >= 2 * cores.max(2));
        *running += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock() -= 1;
        ENDED.notify_one();
    }
}
