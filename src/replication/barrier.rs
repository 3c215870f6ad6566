//! The wait between the commit of a change and the return of its call: until every instance has
//! applied the change or can no longer answer without it (I7). The embedded store has one instance,
//! this one. On a shared store the confirmer polls the membership.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::Tail;
use super::confirmer::{Confirmation, Confirmer, PendingConfirmation};
use crate::cache::l2::Entries;
use keyward_core::fence::{
    CommittedChange, Epoch, Fence, Progress, Receipt, Settling, Unsettled, Wait,
};
use keyward_core::key::{BootTime, Clock};
use keyward_crypto::Digest;
use keyward_ops::RevokeMetrics;
use keyward_store::Cluster;

/// The longest sleep. The timer's clock is not the boot clock, which may jump while it sleeps.
const MAX_SLEEP: Duration = Duration::from_millis(100);
/// The most changes in the confirmer's queue.
const QUEUE: usize = 1_024;

/// Why a committed change is not confirmed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Unconfirmed {
    /// It was not proven in time that every instance has applied the change.
    #[error("the change is not confirmed")]
    Unproven,
    /// It cannot be proven now. The call returns at once, because the wait may be longer than a minute.
    #[error(transparent)]
    Unsettled(#[from] Unsettled),
}

/// Lets committed changes wait until they are effective on every instance.
pub struct Barrier {
    tail: Arc<Tail>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    closing: CancellationToken,
    metrics: RevokeMetrics,
    /// The confirmer's queue, on a shared store.
    confirmer: Option<mpsc::Sender<PendingConfirmation>>,
    l2: Option<Arc<Entries>>,
}

impl Barrier {
    /// A barrier on the log that `tail` applies to `fence`. Waits fail when `closing` is cancelled.
    ///
    /// On a shared store it also returns the confirmer's task, which must run as long as the barrier
    /// is in use.
    pub fn new(
        cluster: Option<Arc<dyn Cluster>>,
        settling: Arc<Mutex<Settling>>,
        tail: Arc<Tail>,
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        closing: CancellationToken,
        metrics: RevokeMetrics,
    ) -> (Self, Option<BoxFuture<'static, ()>>) {
        let (confirmer, task) = if let Some(cluster) = cluster {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let confirmer = Confirmer {
                cluster,
                settling,
                tail: Arc::clone(&tail),
                fence: Arc::clone(&fence),
                clock: Arc::clone(&clock),
            };
            let task = confirmer.run(receiver, closing.clone()).boxed();
            (Some(sender), Some(task))
        } else {
            (None, None)
        };
        let barrier = Self {
            tail,
            fence,
            clock,
            closing,
            metrics,
            confirmer,
            l2: None,
        };
        (barrier, task)
    }

    /// The same barrier, which also removes the entries of changed keys from L2.
    pub fn with(self, l2: Option<Arc<Entries>>) -> Self {
        Self { l2, ..self }
    }

    /// Waits until `change` is effective on every instance (I7), in a settled epoch. Its commit was
    /// answered at `answered_at`; `digests` are those of the changed keys. A call that found nothing to
    /// change passes what it found: its answer is confirmed in the same way.
    pub async fn wait(
        &self,
        change: CommittedChange,
        digests: &[Digest],
        answered_at: BootTime,
    ) -> Result<Receipt, Unconfirmed> {
        self.tail.wake();
        if let Some(l2) = &self.l2 {
            l2.remove(digests);
        }
        let span = tracing::debug_span!(
            "wait",
            revision = change.revision,
            confirmed_instances = Empty,
            waited_out_instances = Empty,
            near_caches_waited_seconds = Empty,
        );
        let waiting = async {
            match &self.confirmer {
                Some(confirmer) => {
                    confirm(confirmer, |sender| {
                        PendingConfirmation::of_change(change, answered_at, sender)
                    })
                    .await
                }
                None => self.wait_for_this_instance(change, answered_at).await,
            }
        };
        let outcome = waiting.instrument(span.clone()).await;
        if let Some(waited) = self.tail.near().held_up(change.revision) {
            span.record("near_caches_waited_seconds", waited.as_secs_f64());
        }
        match &outcome {
            Ok(receipt) => {
                span.record("confirmed_instances", receipt.confirmed);
                span.record("waited_out_instances", receipt.waited_out);
                self.metrics.confirmed.inc_by(u64::from(receipt.confirmed));
                self.metrics
                    .waited_out
                    .inc_by(u64::from(receipt.waited_out));
                self.metrics
                    .wait
                    .observe(self.clock.boot().since(answered_at).as_secs_f64());
            }
            Err(_) => {
                self.metrics.failed.inc();
            }
        }
        outcome
    }

    /// Confirms the answer of a call that changed nothing and waits for no instance: a write commits on
    /// the primary, in the epoch of the read that the answer relies on. A replaced primary still answers
    /// reads.
    pub async fn confirm_read(&self, read_in: Option<Epoch>) -> Result<(), Unconfirmed> {
        let (Some(confirmer), Some(epoch)) = (&self.confirmer, read_in) else {
            return Ok(());
        };
        let now = self.clock.boot();
        let of_read = |sender| PendingConfirmation::of_read(epoch, now, sender);
        confirm(confirmer, of_read).await.map(drop)
    }

    async fn wait_for_this_instance(
        &self,
        change: CommittedChange,
        answered_at: BootTime,
    ) -> Result<Receipt, Unconfirmed> {
        let near = self.tail.near();
        let mut acked = near.subscribe_acked();
        // An earlier process may have made near-caches fresh for longer than this one may be.
        let longest = self.fence.max_staleness().max(near.longest_staleness());
        let wait = Wait::new(change.revision, answered_at, longest);
        loop {
            acked.borrow_and_update();
            let acknowledged = near.acked().1.revision;
            let now = self.clock.boot();
            let (confirmed, waited_out) = match wait.progress(acknowledged, now) {
                Progress::Acknowledged => (1, 0),
                Progress::WaitedOut => (0, 1),
                Progress::Pending => {
                    tokio::select! {
                        biased;
                        _ = acked.changed() => {}
                        () = tokio::time::sleep(wait.remaining(now).min(MAX_SLEEP)) => {}
                        () = self.closing.cancelled() => return Err(Unconfirmed::Unproven),
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

/// Hands a pending confirmation to the confirmer and waits for the receipt.
async fn confirm(
    confirmer: &mpsc::Sender<PendingConfirmation>,
    pending: impl FnOnce(oneshot::Sender<Confirmation>) -> PendingConfirmation,
) -> Result<Receipt, Unconfirmed> {
    let (sender, receiver) = oneshot::channel();
    let sent = confirmer.send(pending(sender)).await;
    sent.map_err(|_| Unconfirmed::Unproven)?;
    // The confirmer drops the sender if the confirmation times out or the process closes.
    receiver.await.map_err(|_| Unconfirmed::Unproven)?
}
