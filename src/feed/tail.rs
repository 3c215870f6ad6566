//! The loop that keeps this instance fresh: every beat, and at every poke, it asks the log for
//! what came after `applied` and hands that to the fence.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::fence::{Absorbed, Fence, Now, Refused};
use crate::key::Clock;
use crate::store::{Store, StoreError};
use crate::telemetry::BeatMetrics;

/// How often the log is asked when nothing pokes.
pub const BEAT: Duration = Duration::from_millis(250);
/// How often the log is trimmed.
const TRIM: Duration = Duration::from_secs(3_600);

/// Reads the log of one store into one fence.
pub struct Tail {
    store: Arc<dyn Store>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    metrics: BeatMetrics,
    poke: Notify,
    applied: watch::Sender<u64>,
    /// What keeps it from being fresh, as the log was told.
    trouble: Mutex<Option<String>>,
}

impl Tail {
    /// A tail that stands where `fence` does; it reads nothing until it is run.
    pub fn new(
        store: Arc<dyn Store>,
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        metrics: BeatMetrics,
    ) -> Self {
        let applied = watch::Sender::new(fence.applied());
        Self {
            store,
            fence,
            clock,
            metrics,
            poke: Notify::new(),
            applied,
            trouble: Mutex::default(),
        }
    }

    /// Asks for a read at once: a change was committed.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// What keeps it from being fresh, if anything does.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Tells of every advance of `applied`.
    pub(super) fn advances(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Reads once, so that whoever starts the service serves at once.
    pub async fn catch_up(&self) -> Result<(), String> {
        self.beat().await
    }

    /// Reads until `stop`; freshness ends with it.
    pub async fn run(&self, stop: CancellationToken) {
        loop {
            let trouble = self.beat().await.err();
            // A line when the state changes, not for each beat.
            if trouble != self.trouble() {
                match &trouble {
                    Some(trouble) => tracing::error!("the tail is in trouble: {trouble}"),
                    None => tracing::info!("the tail is well again"),
                }
                *self.trouble.lock() = trouble;
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                () = self.poke.notified() => {}
                () = stop.cancelled() => break,
            }
        }
        self.fence.stop_being_fresh();
    }

    /// One read of the log. I1: `t0` is taken before the read is sent, so whatever is visible by
    /// then is in the page.
    async fn beat(&self) -> Result<(), String> {
        let t0 = Now::read(&*self.clock);
        let page = match self.store.tail(self.fence.applied()).await {
            Ok(page) => page,
            Err(error) => {
                self.metrics.failed.inc();
                if matches!(error, StoreError::Damaged(_)) {
                    self.fence.stop_being_fresh();
                }
                return Err(error.to_string());
            }
        };
        let absorbed = self.fence.absorb(t0, &page);
        if absorbed.is_err() {
            self.metrics.not_fresh.inc();
        }
        match absorbed {
            Ok(how) => {
                if how == Absorbed::Jumped {
                    tracing::warn!(head = page.head, "too far behind the log: starting cold");
                }
                self.metrics.fresh.inc();
                // I6: who waits is told after the tombstones stand.
                self.applied.send_replace(self.fence.applied());
                Ok(())
            }
            Err(refused @ Refused::Trimmed { .. }) => {
                let start = self
                    .store
                    .start()
                    .await
                    .map_err(|error| error.to_string())?;
                self.fence.restart(start);
                Err(refused.to_string())
            }
            Err(refused) => Err(refused.to_string()),
        }
    }

    /// Trims the log once an hour until `stop`.
    pub async fn trim(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TRIM) => {}
                () = stop.cancelled() => return,
            }
            match self.store.trim().await {
                Ok(rows) => tracing::info!(rows, "trimmed the log"),
                Err(error) => tracing::warn!(%error, "the log could not be trimmed"),
            }
        }
    }
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tail(applied {})", self.fence.applied())
    }
}
