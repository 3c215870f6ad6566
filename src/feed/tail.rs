//! The loop that keeps this instance fresh. Every beat writes its row and asks the log for what
//! came after `applied`; at every poke the log is merely read. Both hand what they found to the
//! fence; freshness comes from a beat alone.
//!
//! Upholds I1, I5, I6 and the owner's half of I9.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::member::Member;
use crate::fence::{Absorbed, BootId, Fence, Now, Page, Refused};
use crate::key::Clock;
use crate::store::{Store, StoreError};
use crate::telemetry::BeatMetrics;

/// How often the log is asked when nothing pokes.
pub const BEAT: Duration = Duration::from_millis(250);
/// How often the log is trimmed.
const TRIM: Duration = Duration::from_secs(3_600);
/// How often a start begins anew because the log was trimmed meanwhile.
const STARTS: usize = 3;
/// How long a clean stop waits for the deletion of its row; else others reap it.
const LEAVE: Duration = Duration::from_secs(2);

/// Reads the log of one store into one fence.
pub struct Tail {
    store: Arc<dyn Store>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    member: Member,
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
        member: Member,
        metrics: BeatMetrics,
    ) -> Self {
        let applied = watch::Sender::new(fence.applied());
        Self {
            store,
            fence,
            clock,
            member,
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

    /// This instance's present registration.
    pub(super) fn boot(&self) -> Option<BootId> {
        self.member.boot()
    }

    /// Tells of every advance of `applied`.
    pub(super) fn advances(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Registers and reads, so that whoever starts the service serves at once.
    pub async fn catch_up(&self) -> Result<(), String> {
        let mut outcome = self.beat().await;
        for _ in 1..STARTS {
            if outcome.is_ok() {
                break;
            }
            outcome = self.beat().await;
        }
        outcome
    }

    /// Reads until `stop`; freshness ends with it, and then this instance's row goes.
    pub async fn run(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let due = tokio::time::sleep(BEAT);
            tokio::pin!(due);
            let registered = self.member.sure().is_some();
            let mut outcome = self.beat().await;
            // The row went, or may be held: it registers again at once.
            if outcome.is_err() && registered && self.member.sure().is_none() {
                outcome = self.beat().await;
            }
            self.note(outcome.err());
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = &mut due => break,
                    () = self.poke.notified() => {
                        if !self.store.shared() {
                            break;
                        }
                        self.follow_hint().await;
                    }
                }
            }
        }
        self.fence.stop_being_fresh();
        // I9: only now, when nothing is admitted here any more.
        if tokio::time::timeout(LEAVE, self.member.leave(&*self.store))
            .await
            .is_err()
        {
            tracing::warn!("this instance's row could not be deleted; another one will reap it");
        }
    }

    /// A line when the state changes, not for each beat.
    fn note(&self, trouble: Option<String>) {
        let mut told = self.trouble.lock();
        match (&*told, &trouble) {
            (None, Some(trouble)) => tracing::error!("the tail is in trouble: {trouble}"),
            (Some(_), None) => tracing::info!("the tail is well again"),
            _ => {}
        }
        *told = trouble;
    }

    /// One beat. I1: `t0` is taken before it is sent, so whatever is visible by then is in the
    /// page. I5: it is sent under a registration that was answered, and counts when it was
    /// answered itself.
    async fn beat(&self) -> Result<(), String> {
        let boot = self.registered().await?;
        let t0 = Now::read(&*self.clock);
        let page = match self.store.beat(boot, self.fence.applied()).await {
            Ok(Some(page)) => page,
            Ok(None) => {
                // Nobody waits for an instance without a row: it must not be fresh.
                self.fence.stop_being_fresh();
                self.member.forget();
                self.metrics.not_fresh.inc();
                return Err("this instance's row is gone: it registers again".to_owned());
            }
            Err(error) => {
                self.metrics.failed.inc();
                match error {
                    StoreError::Damaged(_) => self.fence.stop_being_fresh(),
                    // It hung, and may still hold the row: another registration goes on.
                    StoreError::OutcomeUnknown(_) => self.member.doubt(),
                    StoreError::Unavailable(_) => {}
                }
                return Err(error.to_string());
            }
        };
        match self.fence.absorb(t0, &page) {
            Ok(how) => {
                self.metrics.fresh.inc();
                self.applied(how, &page);
                self.member.clean_up(&*self.store).await;
                Ok(())
            }
            Err(refused) => {
                self.metrics.not_fresh.inc();
                self.refused(refused, &page).await
            }
        }
    }

    /// The registration to beat under; a new one if there is none, or if a beat of the present
    /// one hangs.
    async fn registered(&self) -> Result<BootId, String> {
        if let Some(boot) = self.member.sure() {
            return Ok(boot);
        }
        let fresh_until_now = || self.fence.stop_being_fresh();
        self.member.join(&*self.store, fresh_until_now).await
    }

    /// I6: who waits is told after the tombstones stand.
    fn applied(&self, how: Absorbed, page: &Page) {
        if how == Absorbed::Jumped {
            tracing::warn!(head = page.head, "too far behind the log: starting cold");
        }
        self.applied.send_replace(self.fence.applied());
    }

    /// A refused page: a new start where one is in order.
    async fn refused(&self, refused: Refused, page: &Page) -> Result<(), String> {
        let new_start = match refused {
            Refused::Trimmed { .. } => true,
            Refused::LogLost { .. } => self.fence.may_restart(page.epoch),
            Refused::Gap { .. } => false,
        };
        if !new_start {
            return Err(refused.to_string());
        }
        // Under a new registration: the old one's acknowledgements spoke of another life.
        self.fence.stop_being_fresh();
        self.member.doubt();
        let start = self
            .store
            .start()
            .await
            .map_err(|error| error.to_string())?;
        self.fence.restart(start);
        Err(format!("{refused}; it starts anew"))
    }

    /// Reads the log at a hint, applies, acknowledges. What goes wrong here the next beat tells.
    async fn follow_hint(&self) {
        let t0 = Now::read(&*self.clock);
        let before = self.fence.applied();
        let Ok(page) = self.store.tail(before).await else {
            return;
        };
        let Ok(how) = self.fence.absorb_hint(t0, &page) else {
            return;
        };
        self.applied(how, &page);
        let applied = self.fence.applied();
        if applied > before
            && let Some(boot) = self.member.sure()
            && let Err(error) = self.store.acknowledge(boot, applied).await
        {
            tracing::debug!(%error, "an acknowledgement was not written; the next beat brings it");
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
