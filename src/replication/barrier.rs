//! What a change waits for before its call returns: that every instance has applied it or can no
//! longer answer without it (I7). The embedded store has one instance, this one; on a shared
//! store the watcher looks at the rows of all.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Tail;
use super::watcher::{PendingConfirmation, Watcher};
use crate::cache::l2::L2;
use keyward_core::fence::{CommittedChange, Fence, Progress, Receipt, Wait};
use keyward_core::key::{BootTime, Clock};
use keyward_crypto::Digest;
use keyward_ops::RevokeMetrics;
use keyward_store::Cluster;

/// The timer runs on another clock than the wait, which may stand still or jump: look again at
/// least this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Changes that may be handed to the watcher at once.
const QUEUE: usize = 1_024;

/// The change is committed, but it could not be proven in time to hold everywhere.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the change is committed but not confirmed")]
pub struct Unconfirmed;

/// Lets committed changes wait.
pub struct Barrier {
    tail: Arc<Tail>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    closing: CancellationToken,
    metrics: RevokeMetrics,
    /// To the watcher of a shared store.
    watcher: Option<mpsc::Sender<PendingConfirmation>>,
    /// Forgets what died.
    l2: Option<Arc<L2>>,
}

impl Barrier {
    /// Waits for what `tail` applies to `fence`, and on a shared store for all other instances;
    /// gives up when `closing` is cancelled. Beside it the work of the watcher, which has to run
    /// for as long as there is a barrier.
    pub fn new(
        cluster: Option<Arc<dyn Cluster>>,
        tail: Arc<Tail>,
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        closing: CancellationToken,
        metrics: RevokeMetrics,
    ) -> (Self, Option<BoxFuture<'static, ()>>) {
        let (watcher, watching) = if let Some(cluster) = cluster {
            let (held, asked) = mpsc::channel(QUEUE);
            let watcher = Watcher {
                cluster,
                tail: Arc::clone(&tail),
                fence: Arc::clone(&fence),
                clock: Arc::clone(&clock),
            };
            let watching = watcher.run(asked, closing.clone()).boxed();
            (Some(held), Some(watching))
        } else {
            (None, None)
        };
        let barrier = Self {
            tail,
            fence,
            clock,
            closing,
            metrics,
            watcher,
            l2: None,
        };
        (barrier, watching)
    }

    /// The same, which has `l2` forget what died.
    pub fn with(self, l2: Option<Arc<L2>>) -> Self {
        Self { l2, ..self }
    }

    /// Returns when `change`, whose commit was answered at `answered_at`, holds everywhere. What a
    /// shared cache holds under `digests` is of no more use.
    pub async fn hold(
        &self,
        change: CommittedChange,
        digests: &[Digest],
        answered_at: BootTime,
    ) -> Result<Receipt, Unconfirmed> {
        self.tail.wake();
        if let Some(l2) = &self.l2 {
            l2.forget(digests);
        }
        let held = match &self.watcher {
            Some(watcher) if change != CommittedChange::NOTHING => {
                everywhere(watcher, change, answered_at).await
            }
            _ => self.here(change, answered_at).await,
        };
        match &held {
            Ok(receipt) => {
                self.metrics.confirmed.inc_by(u64::from(receipt.confirmed));
                self.metrics
                    .waited_out
                    .inc_by(u64::from(receipt.waited_out));
                self.metrics
                    .wait
                    .observe(self.clock.boot().since(answered_at).as_secs_f64());
            }
            Err(Unconfirmed) => {
                self.metrics.failed.inc();
            }
        }
        held
    }

    /// Waits for this instance alone.
    async fn here(
        &self,
        change: CommittedChange,
        answered_at: BootTime,
    ) -> Result<Receipt, Unconfirmed> {
        let mut advances = self.tail.advances();
        let wait = Wait::new(change.revision, answered_at, self.fence.max_staleness());
        loop {
            let applied = *advances.borrow_and_update();
            let now = self.clock.boot();
            let (confirmed, waited_out) = match wait.progress(applied, now) {
                Progress::Acknowledged => (1, 0),
                Progress::WaitedOut => (0, 1),
                Progress::Pending => {
                    tokio::select! {
                        _ = advances.changed() => {}
                        () = tokio::time::sleep(wait.remaining(now).min(LOOK_AGAIN)) => {}
                        () = self.closing.cancelled() => return Err(Unconfirmed),
                    }
                    continue;
                }
            };
            return Ok(Receipt {
                confirmed,
                waited_out,
            });
        }
    }
}

/// Waits for all instances: the watcher tells. It ends without an answer when the process closes.
async fn everywhere(
    watcher: &mpsc::Sender<PendingConfirmation>,
    change: CommittedChange,
    answered_at: BootTime,
) -> Result<Receipt, Unconfirmed> {
    let (tell, told) = oneshot::channel();
    let held = PendingConfirmation::new(change, answered_at, tell);
    watcher.send(held).await.map_err(|_| Unconfirmed)?;
    told.await.map_err(|_| Unconfirmed)?
}

impl std::fmt::Debug for Barrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Barrier")
    }
}
