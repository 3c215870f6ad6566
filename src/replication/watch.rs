//! Watches freshness, which ends by the mere passing of time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use keyward_core::fence::{Fence, Now};
use keyward_core::key::Clock;

const TICK: Duration = Duration::from_millis(100);

/// Calls `changed` whenever freshness comes or goes, until `stop`, and says so in the log. `fresh`
/// is what the caller has told already.
pub async fn watch_freshness(
    fresh: bool,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    changed: impl Fn(bool) -> BoxFuture<'static, ()> + Send,
) {
    let mut told = fresh;
    loop {
        let fresh = fence.is_fresh(Now::read(&*clock));
        if told != fresh {
            match fresh {
                true => tracing::info!(applied = fence.applied(), "fresh: serving"),
                false => tracing::error!("not fresh: Verify answers UNAVAILABLE"),
            }
            changed(fresh).await;
            told = fresh;
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = stop.cancelled() => return,
        }
    }
}
