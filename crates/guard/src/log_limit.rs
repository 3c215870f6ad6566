//! Keeps a fault that every request meets from filling the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The shortest time between two log lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// When a fault was logged last.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Option<Instant>>);

impl LogLimit {
    /// Whether to log the fault now: at most once a second.
    #[expect(
        clippy::disallowed_methods,
        reason = "it spaces log lines, and decides nothing"
    )]
    pub fn is_due(&self) -> bool {
        let (mut last, now) = (self.0.lock(), Instant::now());
        let is_due = last.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}
