//! An outage of Telegram: the failures in a row of the calls that bring updates.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::telegram::backoff;
use crate::telegram::failure::Failure;

/// The longest `retry_after` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Only an operator ends a conflict with another process or a webhook.
const CONFLICT_PAUSE: Duration = Duration::from_secs(5);

/// The number of failures since the last success.
#[derive(Default)]
pub struct Outage(u32);

impl Outage {
    /// Whether there was no failure since the last success.
    pub const fn is_over(&self) -> bool {
        self.0 == 0
    }

    /// Reports a failure, and pauses before the next attempt, until `stop` at most.
    pub async fn goes_on(&mut self, failure: &Failure, health: &Health, stop: &CancellationToken) {
        health.set(Err(failure.to_string()));
        // Logged at the start of an outage and after every ten attempts.
        if self.0.is_multiple_of(10) {
            tracing::warn!(%failure, failures = self.0 + 1, "Telegram fails; trying again");
        }
        self.0 = self.0.saturating_add(1);
        let pause = match failure {
            Failure::TooMany(wait) => backoff(1).max(*wait).min(MAX_RETRY_AFTER),
            Failure::Conflict | Failure::Webhook => CONFLICT_PAUSE,
            _ => backoff(self.0),
        };
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}
