//! What a change waits for before its call returns: that every instance has applied it or can no
//! longer answer without it (I7). The embedded store has one instance, this one.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Tail;
use crate::fence::{Fence, Progress, Wait};
use crate::key::{BootTime, Clock};
use crate::store::Committed;
use crate::telemetry::RevokeMetrics;

/// The timer runs on another clock than the wait, which may stand still or jump: look again at
/// least this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How a change came to hold everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Instances that have applied it.
    pub confirmed: u32,
    /// Instances whose bound passed instead.
    pub waited_out: u32,
}

/// The change is committed, but this process ends before it is proven to hold everywhere.
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
}

impl Barrier {
    /// Waits for what `tail` applies to `fence`; gives up when `closing` is cancelled.
    pub fn new(
        tail: Arc<Tail>,
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        closing: CancellationToken,
        metrics: RevokeMetrics,
    ) -> Self {
        Self {
            tail,
            fence,
            clock,
            closing,
            metrics,
        }
    }

    /// Returns when `change`, whose commit was answered at `answered_at`, holds everywhere.
    pub async fn hold(
        &self,
        change: Committed,
        answered_at: BootTime,
    ) -> Result<Receipt, Unconfirmed> {
        let mut advances = self.tail.advances();
        let wait = Wait::new(change.revision, answered_at, self.fence.max_staleness());
        self.tail.poke();
        let receipt = loop {
            let applied = *advances.borrow_and_update();
            let now = self.clock.boot();
            match wait.progress(applied, now) {
                Progress::Acknowledged => {
                    break Receipt {
                        confirmed: 1,
                        waited_out: 0,
                    };
                }
                Progress::WaitedOut => {
                    break Receipt {
                        confirmed: 0,
                        waited_out: 1,
                    };
                }
                Progress::Pending => {}
            }
            tokio::select! {
                _ = advances.changed() => {}
                () = tokio::time::sleep(wait.remaining(now).min(LOOK_AGAIN)) => {}
                () = self.closing.cancelled() => {
                    self.metrics.failed.inc();
                    return Err(Unconfirmed);
                }
            }
        };
        self.metrics.confirmed.inc_by(u64::from(receipt.confirmed));
        self.metrics
            .waited_out
            .inc_by(u64::from(receipt.waited_out));
        self.metrics
            .wait
            .observe(self.clock.boot().since(answered_at).as_secs_f64());
        Ok(receipt)
    }
}

impl std::fmt::Debug for Barrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Barrier")
    }
}
