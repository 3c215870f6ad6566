//! Hints that something has changed: each wakes the tail. They may be lost; the heartbeat is the truth.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Tail;
use crate::cache::l2::L2;
use keyward_ops::MemberMetrics;
use keyward_store::{ChangeNotice, Cluster};

/// How long it rests after hints may have been lost, so that a store that is away is not asked
/// without a pause.
const REST: Duration = Duration::from_millis(200);

/// Listens until `stop`.
pub async fn follow_hints(
    cluster: Arc<dyn Cluster>,
    tail: Arc<Tail>,
    metrics: MemberMetrics,
    stop: CancellationToken,
) {
    loop {
        let heard = tokio::select! {
            heard = cluster.next_change_notice() => heard,
            () = stop.cancelled() => return,
        };
        tail.wake();
        match heard {
            ChangeNotice::Changed => {
                metrics.hints_changed.inc();
            }
            ChangeNotice::Lost => {
                metrics.hints_lost.inc();
                tokio::select! {
                    () = tokio::time::sleep(REST) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }
}

/// The same for the hints that come by way of the shared cache.
pub async fn follow_announcements(l2: Arc<L2>, tail: Arc<Tail>, stop: CancellationToken) {
    while stop.run_until_cancelled(l2.hear()).await.is_some() {
        tail.wake();
    }
}
