//! Reads the membership once a second. Reaps the rows of unresponsive instances, so that no revocation
//! waits for them. To ignore such a row is not enough: a blocked heartbeat of that instance may still
//! commit. It also names an epoch as settled once this process has waited long enough.
//!
//! Upholds the reaper's half of I9, with `fence::FailureDetector`.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Roster, Tail};
use keyward_core::fence::{FailureDetector, Settling};
use keyward_core::key::Clock;
use keyward_ops::MemberMetrics;
use keyward_store::Cluster;

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Polls the membership, reaps unresponsive instances and settles the epoch, until `stop`.
pub async fn watch_membership(
    cluster: Arc<dyn Cluster>,
    settling: Arc<Mutex<Settling>>,
    tail: Arc<Tail>,
    roster: Arc<Roster>,
    clock: Arc<dyn Clock>,
    metrics: MemberMetrics,
    stop: CancellationToken,
) {
    let mut detector = FailureDetector::default();
    let mut was_settled = true;
    while let Some(()) = stop.run_until_cancelled(sleep(POLL_INTERVAL)).await {
        tail.clean_up().await;
        // A failed read says nothing about the instances: the detector keeps its state.
        let Ok(membership) = cluster.membership().await else {
            continue;
        };
        let answered_at = clock.boot();
        metrics
            .instances
            .set(membership.members.len().try_into().unwrap_or(u64::MAX));
        roster.observe(&membership, tail.registration(), answered_at);
        let settled = settling.lock().observe(&membership, answered_at);
        metrics.settled.set(u64::from(settled.is_ok()));
        match settled {
            Err(why) if was_settled => {
                tracing::warn!("changes cannot be confirmed, so Revoke answers UNAVAILABLE: {why}");
            }
            Ok(()) if !was_settled => tracing::info!("changes are confirmed again"),
            _ => {}
        }
        was_settled = settled.is_ok();
        let has_waited = settling.lock().has_waited(membership.epoch, answered_at);
        if was_settled
            && has_waited
            && membership.settled != Some(membership.epoch)
            && let Err(error) = cluster.settle(membership.epoch).await
        {
            tracing::debug!(%error, "the settled epoch could not be written yet");
        }
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
