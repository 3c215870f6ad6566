//! Stops the service in order. Each step has a time limit, so that the process always ends.

use std::time::Duration;

use tokio::task::JoinHandle;
use tonic_health::server::HealthReporter;

use keyward_core::fence::bound;

use super::{App, HEALTH_NAMES, set_health};

/// The time limit for calls in progress.
pub(super) const CALLS: Duration = Duration::from_secs(10);
/// The time limit for sending the remaining responses after that.
const RESPONSES: Duration = Duration::from_secs(1);
/// The time limit for each of the following steps.
pub(super) const STEP: Duration = Duration::from_secs(5);

impl App {
    /// Stops in order: sets NOT_SERVING, serves on for the drain delay, drains calls, ends the
    /// background tasks, closes the store. No acknowledged write is lost, because a write is durable
    /// before it is acknowledged.
    pub async fn stop(mut self) {
        let is_broken = self.tasks.has_ended();
        self.tasks.stop();
        self.watch.abort();
        // Wait for the aborted task, so that it cannot set SERVING after the next line.
        let _ = self.watch.await;
        set_health(&self.health, false).await;
        self.stops.ready.cancel();
        if !is_broken {
            tokio::time::sleep(self.drain_delay).await;
        }
        end_watches_of_health(&self.health).await;
        // Near-caches end their streams, for which the calls below would wait.
        self.near.leave();
        self.stops.serving.cancel();
        if let Ok(Some(workers)) = self.acceptor.await {
            let ended = workers.ended();
            tokio::pin!(ended);
            if within(CALLS, "calls", &mut ended).await.is_none() {
                // Pending confirmations end as unconfirmed, and their callers get that response.
                self.stops.waiting.cancel();
                within(RESPONSES, "responses", ended).await;
            }
        }
        self.stops.waiting.cancel();
        within(STEP, "work on the control runtime", self.control.finish()).await;
        if self.store.cluster().is_some() {
            // Meanwhile the tail acknowledges. An embedded store knows of those that are left.
            let limit = bound(self.near_max_staleness);
            within(limit, "near-caches", self.near.drained()).await;
        }
        // I9: the tail ends freshness before it deletes the row, and the store is closed after that.
        self.stops.background.cancel();
        // An unresponsive store or an incomplete request on the side port must not delay the stop.
        let tasks = futures_util::future::join_all(&mut self.background);
        within(STEP, "background tasks", tasks).await;
        self.background.iter().for_each(JoinHandle::abort);
        within(STEP, "the store", self.store.close()).await;
    }
}

/// Waits for `work` until `limit`, and logs a warning if it does not end.
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = T>,
) -> Option<T> {
    let ended = tokio::time::timeout(limit, work).await.ok();
    if ended.is_none() {
        tracing::warn!("{what} did not end within {limit:?}");
    }
    ended
}

/// Ends the health streams after their last message. Otherwise each would delay the stop until its
/// client disconnects. Later health checks get NOT_SERVING.
pub(super) async fn end_watches_of_health(health: &HealthReporter) {
    let mut ending = health.clone();
    for name in HEALTH_NAMES {
        ending.clear_service_status(name).await;
    }
    set_health(health, false).await;
}
