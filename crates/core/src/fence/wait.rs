//! How long a committed change waits for one instance: until the instance acknowledges the change,
//! or until the instance's bound has passed. After the bound, the instance is either not fresh or
//! has applied the change.
//!
//! Upholds the time half of I7.

use std::time::Duration;

use crate::key::BootTime;

/// The longest time after a commit for which an instance may admit an older record: its own
/// `max_staleness`, plus 2 % for clocks of different rates, plus 100 ms.
pub fn bound(max_staleness: Duration) -> Duration {
    max_staleness + max_staleness / 50 + Duration::from_millis(100)
}

/// The wait of one committed change for one instance.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    revision: u64,
    ends_at: BootTime,
}

/// The state of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The instance has not acknowledged the change, and its bound has not passed.
    Pending,
    /// The instance has applied the change.
    Acknowledged,
    /// The instance's bound has passed: the instance is not fresh, or has applied the change.
    WaitedOut,
}

impl Wait {
    /// Waits until an instance with this `max_staleness` has applied `revision`.
    ///
    /// I7: `answered_at` is this process's boot time after the commit was answered. An instance
    /// can still become fresh without the change until the commit.
    pub fn new(revision: u64, answered_at: BootTime, max_staleness: Duration) -> Self {
        Self {
            revision,
            ends_at: answered_at.plus(bound(max_staleness)),
        }
    }

    /// The state at `now`, given the revision that the instance has acknowledged.
    pub fn progress(&self, acknowledged: u64, now: BootTime) -> Progress {
        if acknowledged >= self.revision {
            Progress::Acknowledged
        } else if now > self.ends_at {
            Progress::WaitedOut
        } else {
            Progress::Pending
        }
    }

    /// The last moment of the bound.
    pub(super) fn ends_at(&self) -> BootTime {
        self.ends_at
    }

    /// The time from `now` until the bound has passed.
    pub fn remaining(&self, now: BootTime) -> Duration {
        self.ends_at.since(now) + Duration::from_micros(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_after_its_bound_not_at_it() {
        let two = Duration::from_secs(2);
        let answered = BootTime::from_micros(5);
        let wait = Wait::new(7, answered, two);
        let end = answered.plus(Duration::from_millis(2_140));
        assert_eq!(wait.progress(6, end), Progress::Pending);
        assert_eq!(
            wait.progress(6, end.plus(Duration::from_micros(1))),
            Progress::WaitedOut
        );
        assert_eq!(wait.progress(7, answered), Progress::Acknowledged);
        assert_eq!(wait.remaining(end), Duration::from_micros(1));
    }
}
