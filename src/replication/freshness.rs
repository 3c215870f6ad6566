//! Reports when this instance becomes fresh or stops being fresh. Freshness ends by the passing of
//! time alone, so the fence is polled.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use keyward_core::fence::{Fence, Now};
use keyward_core::key::Clock;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Logs each start and end of freshness and calls `on_change`, until `stop`. `fresh` is the state
/// that the caller has already reported.
pub async fn watch_freshness(
    fresh: bool,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    on_change: impl Fn(bool) -> BoxFuture<'static, ()> + Send,
) {
    let mut reported = fresh;
    loop {
        let fresh = fence.is_fresh(Now::read(&*clock));
        if reported != fresh {
            match fresh {
                true => tracing::info!(applied = fence.applied(), "fresh: serving"),
                false => tracing::error!("not fresh: Verify answers UNAVAILABLE"),
            }
            on_change(fresh).await;
            reported = fresh;
        }
        if stop
            .run_until_cancelled(sleep(POLL_INTERVAL))
            .await
            .is_none()
        {
            return;
        }
    }
}
