//! The end of the service, in order and within bounds: whatever hangs, the process ends.

use std::time::Duration;

use tokio::task::JoinHandle;
use tonic_health::server::HealthReporter;

use super::{App, HEALTH_NAMES, set_health};

/// How long calls under way may take to end at a stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long the last answers may take to be sent after that.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long each of the rest may take to end after that.
const LAST_WORK: Duration = Duration::from_secs(5);

impl App {
    /// Stops in order: NOT_SERVING, calls under way end, freshness ends, the store is closed. No
    /// acknowledged write is lost: it was durable when it was acknowledged.
    pub async fn stop(mut self) {
        self.watch.abort();
        // It was aborted: a last SERVING of its own must not come after this.
        let _ = self.watch.await;
        set_health(&self.health, false).await;
        end_watches_of_health(&self.health).await;
        self.stops.serving.cancel();
        if let Ok(workers) = self.acceptor.await {
            let ended = workers.ended();
            tokio::pin!(ended);
            if tokio::time::timeout(GRACE, &mut ended).await.is_err() {
                tracing::warn!("some calls did not end within {GRACE:?}");
                // Changes that still wait end as unconfirmed, and their callers hear that.
                self.stops.waiting.cancel();
                within(LAST_ANSWERS, "answers", ended).await;
            }
        }
        self.stops.waiting.cancel();
        within(LAST_WORK, "work", self.control.finish()).await;
        self.stops.background.cancel();
        // A store that does not answer, or half a request on the side port, is not waited for.
        let ends = futures_util::future::join_all(&mut self.background);
        for end in within(LAST_WORK, "background work", ends)
            .await
            .into_iter()
            .flatten()
        {
            if let Err(error) = end {
                tracing::error!(%error, "a background task failed");
            }
        }
        self.background.iter().for_each(JoinHandle::abort);
        within(LAST_WORK, "the store", self.store.close()).await;
    }
}

/// Waits for `work` for so long; says so when that was not enough.
async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> Option<T> {
    let ended = tokio::time::timeout(limit, work).await.ok();
    if ended.is_none() {
        tracing::warn!("{what} did not end within {limit:?}");
    }
    ended
}

/// Ends the streams that watch health, once they have been told: otherwise each would hold up the
/// stop until its client goes away. Who asks after that is told NOT_SERVING.
async fn end_watches_of_health(health: &HealthReporter) {
    let mut ending = health.clone();
    for name in HEALTH_NAMES {
        ending.clear_service_status(name).await;
    }
    set_health(health, false).await;
}
