//! The one watcher of a process: it polls the rows of all instances while anybody waits, and
//! confirms all that is due in one statement. A thousand concurrent revocations cost what one
//! does.
//!
//! Upholds I7 on a shared store, with `fence::Quorum`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Tail;
use super::barrier::Unconfirmed;
use keyward_core::fence::{Committed, Epoch, Fence, Quorum, Receipt, Roster, bound};
use keyward_core::key::{BootTime, Clock};
use keyward_store::Store;

/// How long it rests between two looks; not at all between the first ones, since a healthy instance
/// acknowledges within a millisecond.
const LOOK: Duration = Duration::from_millis(2);
/// How many looks come without a rest.
const SOON: u32 = 6;
/// How long it rests when the store does not answer.
const REST: Duration = Duration::from_millis(50);
/// How much longer than the longest bound a change waits for its proof.
const PATIENCE: Duration = Duration::from_secs(5);
/// Changes that are confirmed in one statement at most.
const MOST: usize = 1_024;

type Proof = Result<Receipt, Unconfirmed>;

/// A change that waits, and who hears of it.
pub(super) struct Held {
    change: Committed,
    answered_at: BootTime,
    tell: oneshot::Sender<Proof>,
    /// Set by the first roster that was asked for after the commit was answered, with its epoch.
    quorum: Option<(Epoch, Quorum)>,
    /// Nobody is waited for any more.
    receipt: Option<Receipt>,
    /// The longest bound of those it waits for.
    longest: Duration,
    looks: u32,
}

impl Held {
    pub(super) fn new(
        change: Committed,
        answered_at: BootTime,
        tell: oneshot::Sender<Proof>,
    ) -> Self {
        Self {
            change,
            answered_at,
            tell,
            quorum: None,
            receipt: None,
            longest: Duration::ZERO,
            looks: 0,
        }
    }

    /// Takes in a roster. In another epoch it begins again: what was waited for may be no more.
    fn observe(&mut self, roster: &Roster, now: BootTime) {
        self.looks = self.looks.saturating_add(1);
        if self
            .quorum
            .as_ref()
            .is_some_and(|(epoch, _)| *epoch != roster.epoch)
        {
            self.begin_again();
        }
        if self.quorum.is_none() {
            let bounds = roster
                .members
                .iter()
                .map(|member| bound(member.max_staleness));
            self.longest = self.longest.max(bounds.max().unwrap_or_default());
        }
        let (_, quorum) = self.quorum.get_or_insert_with(|| {
            let quorum = Quorum::new(self.change.revision, self.answered_at, roster);
            (roster.epoch, quorum)
        });
        if self.receipt.is_none() {
            self.receipt = quorum.observe(roster, now);
        }
    }

    fn begin_again(&mut self) {
        self.quorum = None;
        self.receipt = None;
    }

    /// Whether its time is up, by this instance's bound and the longest of those it waits for.
    fn is_overdue(&self, own: Duration, now: BootTime) -> bool {
        now.since(self.answered_at) > bound(own).max(self.longest) + PATIENCE
    }
}

/// Watches for all changes of this process.
pub(super) struct Watcher {
    pub(super) store: Arc<dyn Store>,
    pub(super) tail: Arc<Tail>,
    pub(super) fence: Arc<Fence>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Watcher {
    /// Watches until `closing`, or until nobody can ask any more.
    pub(super) async fn run(self, mut asked: mpsc::Receiver<Held>, closing: CancellationToken) {
        let mut held: Vec<Held> = Vec::new();
        loop {
            if held.is_empty() {
                let first = tokio::select! {
                    first = asked.recv() => first,
                    () = closing.cancelled() => None,
                };
                let Some(first) = first else { break };
                held.push(first);
            }
            while let Ok(more) = asked.try_recv() {
                held.push(more);
            }
            let rest = tokio::select! {
                rest = self.look(&mut held) => rest,
                () = closing.cancelled() => break,
            };
            if rest.is_zero() {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = closing.cancelled() => break,
            }
        }
        // Dropping what is held tells those who wait that it is not confirmed.
    }

    /// One look at the rows, and the confirmation of what is due. Answers how long to rest.
    async fn look(&self, held: &mut Vec<Held>) -> Duration {
        // Asked for now, after the commits of all that is held were answered.
        let roster = self.store.roster().await;
        let now = self.clock.boot();
        let Ok(Some(roster)) = roster else {
            self.give_up_overdue(held, now);
            return REST;
        };
        let roster = self.with_own_memory(roster);
        for one in held.iter_mut() {
            one.observe(&roster, now);
        }
        if held.iter().any(|one| one.receipt.is_some()) {
            self.confirm(held, roster.epoch).await;
        }
        self.give_up_overdue(held, self.clock.boot());
        if held.iter().any(|one| one.looks < SOON) {
            Duration::ZERO
        } else {
            LOOK
        }
    }

    /// What this instance has applied its memory tells, before its row does (I6).
    fn with_own_memory(&self, mut roster: Roster) -> Roster {
        let (own, applied) = (self.tail.boot(), self.fence.applied());
        for member in &mut roster.members {
            if Some(member.boot) == own {
                member.applied = member.applied.max(applied);
            }
        }
        roster
    }

    /// Confirms what is due: by a statement that also commits a write, so that only a primary can
    /// answer it. Without a row of this instance, or in another epoch, it is asked again later.
    async fn confirm(&self, held: &mut Vec<Held>, epoch: Epoch) {
        let Some(boot) = self.tail.boot() else { return };
        let (mut due, waiting): (Vec<Held>, Vec<Held>) = std::mem::take(held)
            .into_iter()
            .partition(|one| one.receipt.is_some());
        *held = waiting;
        held.extend(due.split_off(due.len().min(MOST)));
        let changes: Vec<Committed> = due.iter().map(|one| one.change).collect();
        let confirmed = match self.store.confirm(boot, &changes).await {
            Ok(Some(confirmed)) => confirmed,
            Ok(None) | Err(_) => return held.extend(due),
        };
        if confirmed.epoch != epoch {
            due.iter_mut().for_each(Held::begin_again);
            return held.extend(due);
        }
        if !confirmed.registered {
            return held.extend(due);
        }
        for (n, one) in due.into_iter().enumerate() {
            let stands = confirmed.stands.get(n).is_some_and(|stands| *stands);
            if !stands {
                tracing::error!(
                    revision = one.change.revision,
                    "a change that was committed is not there any more"
                );
            }
            // Whoever waited may have gone.
            let _ = one
                .tell
                .send(one.receipt.filter(|_| stands).ok_or(Unconfirmed));
        }
    }

    fn give_up_overdue(&self, held: &mut Vec<Held>, now: BootTime) {
        let own = self.fence.max_staleness();
        held.retain(|one| !one.is_overdue(own, now));
    }
}
