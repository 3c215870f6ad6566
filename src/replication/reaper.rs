//! Reaps the rows of instances that have been silent for longer than they may answer without
//! news, so that no revocation waits for them. Merely ignoring such a row would be wrong: a heartbeat
//! of it that is blocked may still commit.
//!
//! Upholds the other half of I9, with `fence::FailureDetector`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Tail;
use keyward_core::fence::FailureDetector;
use keyward_core::key::Clock;
use keyward_ops::MemberMetrics;
use keyward_store::Cluster;

/// How often the rows are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Looks and reaps until `stop`.
pub async fn reap_the_silent(
    cluster: Arc<dyn Cluster>,
    tail: Arc<Tail>,
    clock: Arc<dyn Clock>,
    metrics: MemberMetrics,
    stop: CancellationToken,
) {
    let mut detector = FailureDetector::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
        tail.clean_up().await;
        // A failure says nothing of anybody's silence: what was seen stays seen.
        let Ok(membership) = cluster.membership().await else {
            continue;
        };
        let answered_at = clock.boot();
        metrics
            .instances
            .set(membership.members.len().try_into().unwrap_or(u64::MAX));
        let own = tail.registration();
        for (registration, beat) in detector.observe(&membership, answered_at) {
            if Some(registration) == own {
                continue;
            }
            match cluster.reap(registration, beat).await {
                Ok(true) => {
                    metrics.reaped.inc();
                    tracing::warn!(boot = %registration, "an instance was silent for too long: its row is gone");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, boot = %registration, "a silent row could not be reaped")
                }
            }
        }
    }
}
