//! Watches freshness, which ends by the mere passing of time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::fence::{Fence, Now};
use crate::key::Clock;

const TICK: Duration = Duration::from_millis(100);

/// Calls `changed` at the start and whenever freshness comes or goes, until `stop`; says so in
/// the log.
pub async fn watch_freshness(
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    changed: impl Fn(bool) -> BoxFuture<'static, ()> + Send,
) {
    let mut before = None;
    loop {
        let fresh = fence.is_fresh(Now::read(&*clock));
        if before != Some(fresh) {
            match (before, fresh) {
                (_, true) => tracing::info!(applied = fence.applied(), "fresh: serving"),
                (Some(_), false) => tracing::error!("not fresh: Verify answers UNAVAILABLE"),
                (None, false) => {}
            }
            changed(fresh).await;
            before = Some(fresh);
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = stop.cancelled() => return,
        }
    }
}
