//! Waiting for something, for so long and no longer: by the harness's clock, which no service reads.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long to sleep before looking again.
const PAUSE: Duration = Duration::from_millis(5);

/// The harness's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of the harness, not of the service"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// The seconds since 1970 by the harness's wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of the harness, not of the service"
)]
pub(crate) fn unix_time() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.expect("it is later than 1970").as_secs();
    seconds.try_into().expect("a time of this age")
}

/// Blocks until `is_so` says yes: how long that took.
///
/// # Panics
///
/// When `patience` has passed; with what was waited for.
#[track_caller]
pub fn wait_until(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = now();
    while !is_so() {
        assert!(
            begun.elapsed() < patience,
            "waited {patience:?} in vain: {what}"
        );
        std::thread::sleep(PAUSE);
    }
    begun.elapsed()
}

/// Asks `ask` again and again until it says yes: how long that took.
///
/// # Panics
///
/// When `patience` has passed; with what was waited for.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Duration {
    let begun = now();
    while !ask().await {
        assert!(
            begun.elapsed() < patience,
            "waited {patience:?} in vain: {what}"
        );
        tokio::time::sleep(PAUSE).await;
    }
    begun.elapsed()
}
