//! Reaps the rows of unresponsive instances, so that no revocation waits for them. To ignore such a
//! row is not enough: a blocked heartbeat of that instance may still commit.
//!
//! Upholds the reaper's half of I9, with `fence::FailureDetector`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Tail;
use keyward_core::fence::FailureDetector;
use keyward_core::key::Clock;
use keyward_ops::MemberMetrics;
use keyward_store::Cluster;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Polls the membership and reaps unresponsive instances, until `stop`.
pub async fn reap_unresponsive(
    cluster: Arc<dyn Cluster>,
    tail: Arc<Tail>,
    clock: Arc<dyn Clock>,
    metrics: MemberMetrics,
    stop: CancellationToken,
) {
    let mut detector = FailureDetector::default();
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        tail.clean_up().await;
        // A failed read says nothing about the instances: the detector keeps its state.
        let Ok(membership) = cluster.membership().await else {
            continue;
        };
        let answered_at = clock.boot();
        metrics
            .instances
            .set(membership.members.len().try_into().unwrap_or(u64::MAX));
        let own = tail.registration();
        for (registration, heartbeat) in detector.observe(&membership, answered_at) {
            if Some(registration) == own {
                continue;
            }
            // I9: the row is deleted only if its heartbeat has not changed.
            match cluster.reap(registration, heartbeat).await {
                Ok(true) => {
                    metrics.reaped.inc();
                    tracing::warn!(%registration, "reaped an unresponsive instance");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, %registration, "an unresponsive instance could not be reaped");
                }
            }
        }
    }
}
