//! The machine's clocks, for the service and for near-caches in callers. Freshness is measured by a clock
//! that runs on while the machine is suspended.

use rustix::time::{ClockId, Timespec, clock_gettime};

use keyward_core::key::{BootTime, Clock, Timestamp};

/// The boot clock. On Apple's systems CLOCK_MONOTONIC runs on during a sleep.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOT: ClockId = ClockId::Boottime;
#[cfg(target_vendor = "apple")]
const BOOT: ClockId = ClockId::Monotonic;

/// The boot clock and the real-time clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

fn micros(time: Timespec) -> i64 {
    time.tv_sec
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_nsec / 1_000)
}

impl Clock for SystemClock {
    fn boot(&self) -> BootTime {
        BootTime::from_micros(micros(clock_gettime(BOOT)))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_micros(micros(clock_gettime(ClockId::Realtime)))
    }
}
