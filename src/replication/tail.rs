//! The loop that keeps this instance fresh. Every heartbeat writes its row and asks the log for what
//! came after `applied`; at every wake the log is merely read. Both hand what they found to the
//! fence; freshness comes from a heartbeat alone.
//!
//! Upholds I1, I5, I6 and the owner's half of I9.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::member::Member;
use keyward_core::fence::{Absorbed, Fence, Now, Page, Refused, RegistrationId};
use keyward_core::key::{BootTime, Clock};
use keyward_ops::HeartbeatMetrics;
use keyward_store::{Store, StoreError};

/// How often the log is asked when nothing wakes.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// How often the log is trimmed.
const TRIM: Duration = Duration::from_secs(3_600);
/// How often a start begins anew because the log was trimmed meanwhile.
const STARTS: usize = 3;
/// How often the log is told again that it lost its tail.
const REMIND: Duration = Duration::from_secs(60);
/// What an operator can do about a log that lost its tail.
const ADVANCE: &str = "; nothing is answered until that is decided, and `keyward epoch advance \
                       --reason ...` says that the log goes on as it stands";
/// How long a clean stop waits for the deletion of its row; else others reap it.
const LEAVE: Duration = Duration::from_secs(2);

/// Reads the log of one store into one fence.
pub struct Tail {
    store: Arc<dyn Store>,
    fence: Arc<Fence>,
    clock: Arc<dyn Clock>,
    /// This instance in the cluster of a shared store.
    member: Option<Member>,
    metrics: HeartbeatMetrics,
    wake: Notify,
    applied: watch::Sender<u64>,
    /// What keeps it from being fresh, and when the log was told.
    trouble: Mutex<Option<(Trouble, BootTime)>>,
}

/// What keeps an instance from being fresh.
#[derive(Debug)]
struct Trouble {
    kind: Kind,
    text: String,
    /// Whether another heartbeat may succeed at once.
    at_once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The store does not answer as it should.
    Store,
    /// This instance has no row.
    Unregistered,
    /// The log lost its tail.
    Lost,
    /// A page was refused for another reason.
    Refused,
}

impl Trouble {
    fn new(kind: Kind, error: impl std::fmt::Display) -> Self {
        Self {
            kind,
            text: error.to_string(),
            at_once: false,
        }
    }

    /// The trouble that the next heartbeat may end.
    fn at_once(kind: Kind, error: impl std::fmt::Display) -> Self {
        Self {
            at_once: true,
            ..Self::new(kind, error)
        }
    }
}

impl Tail {
    /// A tail that stands where `fence` does; it reads nothing until it is run.
    pub fn new(
        store: Arc<dyn Store>,
        fence: Arc<Fence>,
        clock: Arc<dyn Clock>,
        member: Option<Member>,
        metrics: HeartbeatMetrics,
    ) -> Self {
        let applied = watch::Sender::new(fence.applied());
        Self {
            store,
            fence,
            clock,
            member,
            metrics,
            wake: Notify::new(),
            applied,
            trouble: Mutex::default(),
        }
    }

    /// Asks for a read at once: a change was committed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// What keeps it from being fresh, if anything does.
    pub fn trouble(&self) -> Option<String> {
        let told = self.trouble.lock();
        told.as_ref().map(|(trouble, _)| trouble.text.clone())
    }

    /// Deletes the rows of earlier registrations.
    pub(super) async fn clean_up(&self) {
        if let Some(member) = &self.member {
            member.clean_up().await;
        }
    }

    /// This instance's present registration.
    pub(super) fn registration(&self) -> Option<RegistrationId> {
        self.member.as_ref()?.registration()
    }

    /// Tells of every advance of `applied`.
    pub(super) fn advances(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Registers and reads, so that whoever starts the service serves at once.
    pub async fn catch_up(&self) -> Result<(), String> {
        let mut outcome = self.heartbeat().await;
        for _ in 1..STARTS {
            if outcome.is_ok() {
                break;
            }
            outcome = self.heartbeat().await;
        }
        outcome.map_err(|trouble| trouble.text)
    }

    /// Reads until `stop`; freshness ends with it, and then this instance's row goes.
    pub async fn run(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let due = tokio::time::sleep(HEARTBEAT);
            tokio::pin!(due);
            let mut outcome = self.heartbeat().await;
            // The row went, or may be held: it registers again at once.
            if outcome.as_ref().is_err_and(|trouble| trouble.at_once) {
                outcome = self.heartbeat().await;
            }
            self.note(outcome.err());
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = &mut due => break,
                    () = self.wake.notified() => {
                        if self.member.is_none() {
                            break;
                        }
                        self.follow_hint().await;
                    }
                }
            }
        }
        self.fence.stop_being_fresh();
        // I9: only now, when nothing is admitted here any more.
        if let Some(member) = &self.member
            && tokio::time::timeout(LEAVE, member.leave()).await.is_err()
        {
            tracing::warn!("this instance's row could not be deleted; another one will reap it");
        }
    }

    /// A line when the state changes, not for each heartbeat. A log that lost its tail is told of again
    /// and again: it stays so until somebody decides.
    fn note(&self, trouble: Option<Trouble>) {
        let mut told = self.trouble.lock();
        let now = self.clock.boot();
        let again = |at: BootTime| now.since(at) > REMIND;
        match (&*told, &trouble) {
            (Some((Trouble { kind, .. }, at)), Some(new))
                if *kind == new.kind && !(*kind == Kind::Lost && again(*at)) =>
            {
                let at = *at;
                *told = trouble.map(|trouble| (trouble, at));
                return;
            }
            (_, Some(new)) => tracing::error!("the tail is in trouble: {}", new.text),
            (Some(_), None) => tracing::info!("the tail is well again"),
            (None, None) => {}
        }
        *told = trouble.map(|trouble| (trouble, now));
    }

    /// One heartbeat. I1: `t0` is taken before it is sent, so whatever is visible by then is in the
    /// page. I5: it is sent under a registration that was answered, and counts when it was
    /// answered itself.
    async fn heartbeat(&self) -> Result<(), Trouble> {
        let registered = match &self.member {
            Some(member) => Some((member, self.registered(member).await?)),
            None => None,
        };
        let t0 = Now::read(&*self.clock);
        let asked = self.fence.applied();
        let page = match registered {
            Some((member, registration)) => member.cluster().heartbeat(registration, asked).await,
            None => self.store.tail(asked).await.map(Some),
        };
        let page = match page {
            Ok(Some(page)) => page,
            Ok(None) => {
                // Nobody waits for an instance without a row: it must not be fresh.
                self.fence.stop_being_fresh();
                if let Some((member, _)) = registered {
                    member.forget();
                }
                self.metrics.not_fresh.inc();
                let gone = "this instance's row is gone: it registers again";
                return Err(Trouble::at_once(Kind::Unregistered, gone));
            }
            Err(error) => {
                self.metrics.failed.inc();
                match error {
                    StoreError::Damaged(_) => self.fence.stop_being_fresh(),
                    // It hung, and may still hold the row: another registration goes on.
                    StoreError::OutcomeUnknown(_) => {
                        self.doubt_registration();
                        return Err(Trouble::at_once(Kind::Store, error));
                    }
                    StoreError::Unavailable(_) => {}
                }
                return Err(Trouble::new(Kind::Store, error));
            }
        };
        match self.fence.absorb(t0, &page) {
            Ok(how) => {
                self.metrics.fresh.inc();
                self.note_applied(how, &page);
                // The row says what was applied before this page: nobody should wait for the next heartbeat.
                self.acknowledge(asked).await;
                Ok(())
            }
            Err(refused) => {
                self.metrics.not_fresh.inc();
                self.refused(refused, &page).await
            }
        }
    }

    /// The registration to heartbeat under; a new one if there is none, or if a heartbeat of the present
    /// one hangs.
    async fn registered(&self, member: &Member) -> Result<RegistrationId, Trouble> {
        if let Some(registration) = member.sure() {
            return Ok(registration);
        }
        let fresh_until_now = || self.fence.stop_being_fresh();
        let joined = member.join(fresh_until_now).await;
        joined.map_err(|error| Trouble::new(Kind::Store, error))
    }

    fn doubt_registration(&self) {
        if let Some(member) = &self.member {
            member.doubt();
        }
    }

    /// I6: who waits is told after the tombstones stand.
    fn note_applied(&self, how: Absorbed, page: &Page) {
        if how == Absorbed::Jumped {
            tracing::warn!(head = page.head, "too far behind the log: starting cold");
        }
        self.applied.send_replace(self.fence.applied());
    }

    /// A refused page: a new start where one is in order.
    async fn refused(&self, refused: Refused, page: &Page) -> Result<(), Trouble> {
        let new_start = match refused {
            Refused::Trimmed { .. } => true,
            Refused::LogLost { .. } => self.fence.may_restart(page.epoch),
            Refused::Gap { .. } => false,
        };
        let kind = match refused {
            Refused::LogLost { .. } => Kind::Lost,
            Refused::Trimmed { .. } | Refused::Gap { .. } => Kind::Refused,
        };
        if !new_start {
            let advance = kind == Kind::Lost && self.member.is_some();
            let next = if advance { ADVANCE } else { "" };
            return Err(Trouble::new(kind, format_args!("{refused}{next}")));
        }
        // Under a new registration: the old one's acknowledgements spoke of another life.
        self.fence.stop_being_fresh();
        self.doubt_registration();
        let start = self.store.start().await;
        let start = start.map_err(|error| Trouble::new(Kind::Store, error))?;
        self.fence.restart(start);
        Err(Trouble::at_once(
            kind,
            format_args!("{refused}; it starts anew"),
        ))
    }

    /// Reads the log at a hint, applies, acknowledges. What goes wrong here the next heartbeat tells.
    async fn follow_hint(&self) {
        let t0 = Now::read(&*self.clock);
        let before = self.fence.applied();
        let Ok(page) = self.store.tail(before).await else {
            return;
        };
        let Ok(how) = self.fence.absorb_hint(t0, &page) else {
            return;
        };
        self.note_applied(how, &page);
        self.acknowledge(before).await;
    }

    /// Tells in this instance's row what was applied since the row said `told` (I6).
    async fn acknowledge(&self, told: u64) {
        let applied = self.fence.applied();
        if applied > told
            && let Some(member) = &self.member
            && let Some(registration) = member.sure()
            && let Err(error) = member.cluster().acknowledge(registration, applied).await
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
