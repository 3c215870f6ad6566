//! What keeps the store in order: ended graces become revocations, and old rows of the log are deleted.
//! Every instance does both; each step is short and skips what another instance works on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use keyward_store::{Result, Store};

/// How long only the store's time says that a grace has ended.
const GRACES: Duration = Duration::from_secs(60);
const TRIMMING: Duration = Duration::from_secs(3_600);

/// Revokes keys and tokens whose grace has ended, until `stop`.
pub async fn end_graces(store: Arc<dyn Store>, stop: CancellationToken) {
    repeat(GRACES, "ended graces", stop, || store.end_graces()).await;
}

/// Deletes the rows of the log that are older than a day, until `stop`.
pub async fn trim_log(store: Arc<dyn Store>, stop: CancellationToken) {
    repeat(TRIMMING, "trimmed the log", stop, || store.trim()).await;
}

/// Deletes old events for webhooks, and forgets webhooks that no instance names any more, until `stop`.
pub async fn trim_outbox(store: Arc<dyn Store>, stop: CancellationToken) {
    repeat(TRIMMING, "trimmed the events for webhooks", stop, || {
        store.trim_outbox()
    })
    .await;
}

/// After each `interval`, takes steps until one finds nothing left.
pub(crate) async fn repeat<F: Future<Output = Result<u64>>>(
    interval: Duration,
    name: &str,
    stop: CancellationToken,
    step: impl Fn() -> F,
) {
    let mut total = 0;
    loop {
        let pause = if total == 0 { interval } else { Duration::ZERO };
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
        match step().await {
            Ok(0) => {
                if total > 0 {
                    tracing::info!(rows = total, "{name}");
                }
                total = 0;
            }
            Ok(rows) => total += rows,
            Err(error) => {
                tracing::warn!(%error, "a step failed: {name}; the next one is in {interval:?}");
                total = 0;
            }
        }
    }
}
