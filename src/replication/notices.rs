//! Wakes the tail at each change notice, from the store and from Redis. A notice may be lost: the
//! heartbeat finds the change later.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Tail;
use crate::cache::l2::ChangeNotices;
use keyward_ops::MemberMetrics;
use keyward_store::{ChangeNotice, Cluster};

/// The pause after a possible loss, so that an unreachable store is not called in a tight loop.
const PAUSE: Duration = Duration::from_millis(200);

/// Wakes `tail` at the store's change notices, until `stop`.
pub async fn wake_on_store_notices(
    cluster: Arc<dyn Cluster>,
    tail: Arc<Tail>,
    metrics: MemberMetrics,
    stop: CancellationToken,
) {
    while let Some(notice) = stop.run_until_cancelled(cluster.next_change_notice()).await {
        tail.wake();
        match notice {
            ChangeNotice::Changed => {
                metrics.hints_changed.inc();
            }
            ChangeNotice::Lost => {
                metrics.hints_lost.inc();
                stop.run_until_cancelled(sleep(PAUSE)).await;
            }
        }
    }
}

/// Wakes `tail` at the change notices of Redis, until `stop`.
pub async fn wake_on_l2_notices(
    notices: Arc<ChangeNotices>,
    tail: Arc<Tail>,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(notices.wait()).await.is_some() {
        tail.wake();
    }
}
