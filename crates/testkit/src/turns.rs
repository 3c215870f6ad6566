//! Keeps heavy scenarios apart: a machine with two cores cannot run a dozen clusters at once, and a
//! scenario that measures time must not measure the others.

use std::num::NonZeroUsize;

use parking_lot::{Condvar, Mutex};

static TAKEN: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run a heavy scenario, until it is dropped.
pub(crate) struct Turn(usize);

impl Turn {
    /// Takes `weight` of two turns per core, of which there are at least four. Most of a scenario's
    /// time is waiting for bounds to pass, so two usual ones fit on one core.
    pub(crate) fn wait(weight: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let all = 2 * cores.max(2);
        let weight = weight.min(all);
        let mut taken = TAKEN.lock();
        ENDED.wait_while(&mut taken, |taken| *taken + weight > all);
        *taken += weight;
        Self(weight)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock() -= self.0;
        ENDED.notify_all();
    }
}
