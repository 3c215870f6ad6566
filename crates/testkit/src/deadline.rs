//! Waits with a deadline, by the harness's clock, which no service reads.

use std::future::Future;
use std::time::{Duration, Instant};

/// The time limit for what normally happens soon, on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two checks.
const PAUSE: Duration = Duration::from_millis(5);

/// The harness's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of the harness, not of the service"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The seconds since 1970 by the machine's wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of the harness, not of the service"
)]
pub(crate) fn unix_time() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.expect("it is later than 1970").as_secs();
    seconds.try_into().expect("a time of this age")
}

/// Blocks until `is_so` returns true, and returns the elapsed time.
///
/// # Panics
///
/// `patience` has passed. The message contains the description of the wait.
#[track_caller]
pub fn wait_until(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = now();
    while !is_so() {
        assert!(
            begun.elapsed() < patience,
            "timed out after {patience:?}: {what}"
        );
        std::thread::sleep(PAUSE);
    }
    begun.elapsed()
}

/// Calls `ask` until it returns true, and returns the elapsed time.
///
/// # Panics
///
/// `patience` has passed. The message contains the description of the wait.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Duration {
    let begun = now();
    while !ask().await {
        assert!(
            begun.elapsed() < patience,
            "timed out after {patience:?}: {what}"
        );
        tokio::time::sleep(PAUSE).await;
    }
    begun.elapsed()
}
