//! The tail: the task that keeps this instance fresh. Each heartbeat writes the instance's row and
//! reads the log after `applied`, in one statement. Between heartbeats, a wake only reads the log. The
//! fence absorbs both pages; only a heartbeat gives freshness.
//!
//! Upholds I1, I5, I6 and the owner's half of I9.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::NearCaches;
use super::imports::ImportCheck;
use super::registration::Registration;
use keyward_core::fence::{Absorbed, Fence, Now, Page, Refused, RegistrationId};
use keyward_core::key::{BootTime, Clock};
use keyward_crypto::CurrentKeyring;
use keyward_ops::{HeartbeatMetrics, TIMELINE};
use keyward_store::{Store, StoreError};

/// The interval between heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// A start needs another heartbeat if the log was trimmed after its first read; the limit of these.
const START_ATTEMPTS: usize = 3;
/// The interval at which a log that lost changes is logged again.
const REMINDER_INTERVAL: Duration = Duration::from_secs(60);
/// The advice for a log that was refused.
const ADVICE: &str = ". Verify answers UNAVAILABLE until you accept the log as it is with \
                      `keyward epoch advance --reason ...`.";
/// The longest time for which a clean stop waits for the deletion of its row. Otherwise another
/// instance reaps the row.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before the next attempt, if the row is locked.
const LEAVE_PAUSE: Duration = Duration::from_millis(50);

/// Applies the log of one store to one fence.
pub struct Tail {
    store: Arc<dyn Store>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    /// This instance's registration; `None` on the embedded store.
    registration: Option<Registration>,
    imports: ImportCheck,
    metrics: HeartbeatMetrics,
    wake: Notify,
    near: Arc<NearCaches>,
    /// What this instance's row acknowledges.
    written: AtomicU64,
    /// Why the instance is not fresh, and when that was logged.
    trouble: Mutex<Option<(Trouble, BootTime)>>,
}

/// A reason why the instance is not fresh.
#[derive(Debug)]
struct Trouble {
    kind: Kind,
    text: String,
    /// Whether another heartbeat may succeed at once.
    at_once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The store failed.
    Store,
    /// This instance has no row.
    Unregistered,
    /// The log lost changes or is damaged: an operator must decide.
    LogRefused,
    /// The log was trimmed too far.
    Trimmed,
    /// The keyring lacks an import secret.
    Keyring,
}

impl Trouble {
    fn new(kind: Kind, error: impl std::fmt::Display) -> Self {
        Self {
            kind,
            text: error.to_string(),
            at_once: false,
        }
    }

    /// A trouble after which the heartbeat is repeated at once.
    fn at_once(kind: Kind, error: impl std::fmt::Display) -> Self {
        Self {
            at_once: true,
            ..Self::new(kind, error)
        }
    }
}

impl Tail {
    /// A tail at the position of `fence`. It reads nothing until it runs.
    pub fn new(
        store: Arc<dyn Store>,
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        registration: Option<Registration>,
        keyring: Arc<CurrentKeyring>,
        near: Arc<NearCaches>,
        metrics: HeartbeatMetrics,
    ) -> Self {
        Self {
            store,
            fence,
            clock,
            registration,
            imports: ImportCheck::new(keyring),
            metrics,
            wake: Notify::new(),
            near,
            written: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }

    /// Makes the tail read the log now, because a change was committed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Why the instance is not fresh, if the latest heartbeat failed.
    pub fn trouble(&self) -> Option<String> {
        let logged = self.trouble.lock();
        logged.as_ref().map(|(trouble, _)| trouble.text.clone())
    }

    /// Deletes the rows of earlier registrations.
    pub(super) async fn clean_up(&self) {
        if let Some(registration) = &self.registration {
            registration.clean_up().await;
        }
    }

    /// This instance's current registration.
    pub fn registration(&self) -> Option<RegistrationId> {
        self.registration.as_ref()?.id()
    }

    /// The near-caches that this instance answers for.
    pub(super) fn near(&self) -> &NearCaches {
        &self.near
    }

    /// Registers, sends the first heartbeat and reads the log to its head, so that the service starts
    /// fresh.
    pub async fn catch_up(&self) -> Result<(), String> {
        let mut why = "the log grows faster than this instance reads it".to_owned();
        for _ in 0..START_ATTEMPTS {
            let mut absorbed = self.heartbeat().await;
            while absorbed.as_ref().ok() == Some(&Absorbed::Behind) {
                absorbed = self.read_log().await;
            }
            match absorbed {
                _ if self.fence.is_fresh(Now::read(&*self.clock)) => return Ok(()),
                Ok(_) => {}
                Err(trouble) => why = trouble.text,
            }
        }
        Err(why)
    }

    /// Runs until `stop`. Then it ends freshness and deletes this instance's row.
    pub async fn run(&self, stop: CancellationToken) {
        let mut acked = self.near.subscribe_acked();
        while !stop.is_cancelled() {
            let due = tokio::time::sleep(HEARTBEAT);
            tokio::pin!(due);
            let mut outcome = self.heartbeat().await;
            // The row is gone or may be locked: register again at once.
            if outcome.as_ref().is_err_and(|trouble| trouble.at_once) {
                outcome = self.heartbeat().await;
            }
            let mut is_behind = outcome.as_ref().ok() == Some(&Absorbed::Behind);
            self.log_trouble(outcome.err());
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = &mut due => break,
                    () = self.page_due(is_behind) => {
                        if self.registration.is_none() {
                            break;
                        }
                        // The next heartbeat reports errors.
                        let read = self.read_log().await;
                        is_behind = read.ok() == Some(Absorbed::Behind);
                    }
                    _ = acked.changed() => self.acknowledge().await,
                }
            }
        }
        self.fence.stop_being_fresh();
        // I9: the row is deleted only now, when this instance admits nothing.
        if let Some(registration) = &self.registration
            && tokio::time::timeout(LEAVE_TIMEOUT, leave(registration))
                .await
                .is_err()
        {
            tracing::warn!(
                "this instance's row could not be deleted; another instance will reap it"
            );
        }
    }

    /// Returns when the next page is to be read: at once, or after a wake.
    async fn page_due(&self, is_behind: bool) {
        if !is_behind {
            self.wake.notified().await;
        }
    }

    /// Logs changes of the state, not each failed heartbeat. A refused log is logged again at an
    /// interval, because it needs an operator's decision.
    fn log_trouble(&self, trouble: Option<Trouble>) {
        let mut logged = self.trouble.lock();
        let now = self.clock.boot();
        let is_due = |at: BootTime| now.since(at) > REMINDER_INTERVAL;
        match (&*logged, &trouble) {
            (Some((Trouble { kind, .. }, at)), Some(new))
                if *kind == new.kind && !(*kind == Kind::LogRefused && is_due(*at)) =>
            {
                let at = *at;
                *logged = trouble.map(|trouble| (trouble, at));
                return;
            }
            (_, Some(new)) => tracing::error!("the heartbeat failed: {}", new.text),
            (Some(_), None) => tracing::info!("the heartbeat succeeds again"),
            (None, None) => {}
        }
        *logged = trouble.map(|trouble| (trouble, now));
    }

    /// Sends one heartbeat and absorbs its page.
    ///
    /// I1: `t0` is read before the heartbeat is sent, so the page contains every change that was
    /// visible at `t0`. I5: the commit of the registration was answered before, and the heartbeat
    /// counts only when its own commit was answered.
    ///
    /// An instance that refuses its log has no row, so that no change waits for it. It only reads, to
    /// learn of an operator's decision.
    async fn heartbeat(&self) -> Result<Absorbed, Trouble> {
        let registered = match &self.registration {
            Some(registration) if !self.fence.has_refused() => {
                Some((registration, self.ensure_registered(registration).await?))
            }
            _ => None,
        };
        let t0 = Now::read(&*self.clock);
        let before = self.fence.applied();
        let page = match registered {
            Some((registration, id)) => {
                // I6: what near-caches have not acknowledged is applied, but not acknowledged.
                let (_, acked) = self.near.acked();
                self.written.store(acked.revision, Relaxed);
                registration.cluster().heartbeat(id, acked, before).await
            }
            None => self.store.tail(before).await.map(Some),
        };
        let page = match page {
            Ok(Some(page)) => page,
            Ok(None) => {
                // No change waits for an instance without a row, so it must not be fresh.
                self.fence.stop_being_fresh();
                if let Some((registration, _)) = registered {
                    registration.forget();
                }
                self.metrics.not_fresh.inc();
                let gone = "this instance's row is gone; it registers again";
                return Err(Trouble::at_once(Kind::Unregistered, gone));
            }
            Err(error) => {
                self.metrics.failed.inc();
                match error {
                    StoreError::Damaged(_) => self.fence.stop_being_fresh(),
                    // The statement hung and may still lock the row: register under another id.
                    StoreError::OutcomeUnknown(_) => {
                        self.doubt_registration();
                        return Err(Trouble::at_once(Kind::Store, error));
                    }
                    StoreError::Unavailable(_) | StoreError::Locked(_) | StoreError::Refused(_) => {
                    }
                }
                return Err(Trouble::new(Kind::Store, error));
            }
        };
        self.check_imports(&page).await?;
        match self.fence.absorb(t0, &page) {
            Ok(absorbed) => {
                self.metrics.fresh.inc();
                self.publish_applied(absorbed, &page);
                // The row still has the old acknowledgement. Do not make changes wait for the next heartbeat.
                self.acknowledge().await;
                Ok(absorbed)
            }
            Err(refused) => {
                self.metrics.not_fresh.inc();
                Err(self.handle_refusal(refused, &page, t0).await)
            }
        }
    }

    /// Refuses a page with imports if this instance cannot look up all their keys. It ends freshness then,
    /// and gives its row up, so that no change waits for it.
    async fn check_imports(&self, page: &Page) -> Result<(), Trouble> {
        let applied = self.fence.applied();
        let missing = self.imports.missing(&*self.store, page, applied).await;
        let Some(number) = missing.map_err(|error| Trouble::new(Kind::Store, error))? else {
            return Ok(());
        };
        self.metrics.not_fresh.inc();
        self.fence.stop_being_fresh();
        if let Some(registration) = &self.registration {
            registration.leave().await;
        }
        let missing = format_args!(
            "this instance's keyring lacks the import secret {number} of this store, so it would accept dead \
             keys. Copy the file import-{number} to its keyring and restart it"
        );
        Err(Trouble::new(Kind::Keyring, missing))
    }

    /// The id for the next heartbeat. Registers again if it is missing or doubtful.
    async fn ensure_registered(
        &self,
        registration: &Registration,
    ) -> Result<RegistrationId, Trouble> {
        if let Some(id) = registration.usable_id() {
            return Ok(id);
        }
        let end_freshness = || self.fence.stop_being_fresh();
        let registered = registration.register(end_freshness).await;
        registered.map_err(|error| Trouble::new(Kind::Store, error))
    }

    fn doubt_registration(&self) {
        if let Some(registration) = &self.registration {
            registration.mark_doubtful();
        }
    }

    /// I6: near-caches and waiting changes see `applied` only after its tombstones are set.
    fn publish_applied(&self, absorbed: Absorbed, page: &Page) {
        if absorbed == Absorbed::Jumped {
            tracing::warn!(
                head = page.head,
                "too far behind the log: starting with a cold cache"
            );
        }
        self.near.publish_applied();
    }

    /// Deletes this instance's row: freshness has ended, and the row's acknowledgement no longer fits the
    /// log. Then restarts the fence, if it may restart. The next heartbeat registers under a new id.
    async fn handle_refusal(&self, refused: Refused, page: &Page, t0: Now) -> Trouble {
        if let Some(registration) = &self.registration {
            registration.leave().await;
        }
        let (kind, start) = match refused {
            Refused::Trimmed { .. } => (Kind::Trimmed, self.store.start().await),
            Refused::LogLost { .. } | Refused::Gap { .. } => {
                if !self.fence.may_restart(page.epoch) {
                    let advice = self.registration.as_ref().map_or("", |_| ADVICE);
                    return Trouble::new(Kind::LogRefused, format_args!("{refused}{advice}"));
                }
                // No entry from before the decision fits the new epoch, so nothing is lost by a start at the
                // head. A gap may lie before it.
                (Kind::LogRefused, Ok(page.start_at_head(t0.boot)))
            }
        };
        match start {
            Ok(start) => {
                self.imports.repeat();
                self.fence.restart(start);
                let restarts = "this instance starts with a cold cache";
                Trouble::at_once(kind, format_args!("{refused}; {restarts}"))
            }
            Err(error) => Trouble::new(Kind::Store, error),
        }
    }

    /// Reads a page of the log, applies it and acknowledges it. It is read after a wake, or because the
    /// instance is behind.
    async fn read_log(&self) -> Result<Absorbed, Trouble> {
        let t0 = Now::read(&*self.clock);
        let before = self.fence.applied();
        tracing::trace!(target: TIMELINE, applied = before, "woken");
        let page = self.store.tail(before).await;
        let page = page.map_err(|error| Trouble::new(Kind::Store, error))?;
        tracing::trace!(target: TIMELINE, head = page.head, "read");
        self.check_imports(&page).await?;
        let absorbed = self.fence.absorb_read(t0, &page);
        let absorbed = absorbed.map_err(|refused| Trouble::new(Kind::LogRefused, refused))?;
        tracing::trace!(target: TIMELINE, applied = self.fence.applied(), "applied");
        self.publish_applied(absorbed, &page);
        self.acknowledge().await;
        Ok(absorbed)
    }

    /// Writes to this instance's row what it may acknowledge, if that is more than the row has. I6: it
    /// acknowledges only what the fence and each near-cache that may be fresh have applied.
    async fn acknowledge(&self) {
        let (_, acked) = self.near.acked();
        if acked.revision > self.written.load(Relaxed)
            && let Some(registration) = &self.registration
            && let Some(id) = registration.usable_id()
        {
            match registration.cluster().acknowledge(id, acked).await {
                Ok(()) => {
                    self.written.store(acked.revision, Relaxed);
                    tracing::trace!(target: TIMELINE, revision = acked.revision, "acknowledged");
                }
                Err(error) => {
                    tracing::debug!(%error, "an acknowledgement was not written; the next heartbeat writes it");
                }
            }
        }
    }
}

/// Deletes the row of an instance that stops.
async fn leave(registration: &Registration) {
    while !registration.leave().await {
        tokio::time::sleep(LEAVE_PAUSE).await;
    }
}
