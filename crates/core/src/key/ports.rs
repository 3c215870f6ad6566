//! Time and randomness, as values and as ports. `app` passes them to all other code, so that a test
//! or a simulation can control them.

use std::time::Duration;

/// A point in calendar time: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A time that never comes.
    pub const NEVER: Self = Self(i64::MAX);

    /// The time at `micros` microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, as in a UUIDv7; 0 for earlier times.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0 / 1_000).unwrap_or(0)
    }

    /// This time plus `by`, or the last representable time instead of an overflow.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// The time since `earlier`; zero if this time is not later.
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// A point on the boot clock: microseconds since this machine started, including suspended time.
/// Comparable only within one boot of one machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(i64);

impl BootTime {
    /// The time at `micros` microseconds since boot.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// This time plus `by`.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// The time since `earlier`; zero if this time is not later.
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The two clocks of this machine.
pub trait Clock: Send + Sync + 'static {
    /// The boot clock: monotonic, and it runs on while the machine is suspended.
    fn boot(&self) -> BootTime;
    /// The wall clock: it may step in either direction at any time.
    fn wall(&self) -> Timestamp;
}

/// The source of randomness for keys, ids, nonces and epochs.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buffer` with cryptographically secure random bytes.
    fn fill(&self, buffer: &mut [u8]);
}
