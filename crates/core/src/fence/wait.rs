//! How long a change waits until it holds everywhere.

use std::time::Duration;

use crate::key::BootTime;

/// How long after a commit was answered an instance may still admit what it cached before: its
/// own `max_staleness`, 2 % for clocks of different rates, and 100 ms.
pub fn bound(max_staleness: Duration) -> Duration {
    max_staleness + max_staleness / 50 + Duration::from_millis(100)
}

/// One instance that a committed change waits for.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    revision: u64,
    over_at: BootTime,
}

/// How far a wait has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Neither yet.
    Pending,
    /// The instance has applied the change.
    Acknowledged,
    /// The instance's bound has passed: it is not fresh, or has applied the change since.
    WaitedOut,
}

impl Wait {
    /// Waits until `revision` is applied by an instance whose own bound is `max_staleness`.
    /// `answered_at` is this process's boot clock after the answer of the commit came (I7): before
    /// the commit an instance may become fresh without the change.
    pub fn new(revision: u64, answered_at: BootTime, max_staleness: Duration) -> Self {
        Self {
            revision,
            over_at: answered_at.plus(bound(max_staleness)),
        }
    }

    /// Where the wait stands, given what the instance has acknowledged.
    pub fn progress(&self, acknowledged: u64, now: BootTime) -> Progress {
        if acknowledged >= self.revision {
            Progress::Acknowledged
        } else if now > self.over_at {
            Progress::WaitedOut
        } else {
            Progress::Pending
        }
    }

    /// How long from `now` until the wait is over by time alone.
    pub fn remaining(&self, now: BootTime) -> Duration {
        self.over_at.since(now) + Duration::from_micros(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_itself_is_still_waited_for() {
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
