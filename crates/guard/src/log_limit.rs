//! Keeps a fault that every request meets from filling the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// When a fault was logged last, and the shortest time between two log lines: by default a second.
#[derive(Debug)]
pub struct LogLimit {
    last: Mutex<Option<Instant>>,
    interval: Duration,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::every(Duration::from_secs(1))
    }
}

impl LogLimit {
    /// Allows a line in each `interval`.
    pub const fn every(interval: Duration) -> Self {
        Self {
            last: Mutex::new(None),
            interval,
        }
    }

    /// Whether to log the fault now.
    #[expect(
        clippy::disallowed_methods,
        reason = "it spaces log lines, and decides nothing"
    )]
    pub fn is_due(&self) -> bool {
        let (mut last, now) = (self.last.lock(), Instant::now());
        let is_due = last.is_none_or(|last| now.duration_since(last) >= self.interval);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}
