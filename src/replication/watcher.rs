//! The one watcher of a process: it polls the rows of all instances while anybody waits, and
//! confirms all that is due in one statement. A thousand concurrent revocations cost what one
//! does.
//!
//! Upholds I7 on a shared store, with `fence::AckSet`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Tail;
use super::barrier::Unconfirmed;
use keyward_core::fence::{AckSet, CommittedChange, Epoch, Fence, Membership, Receipt, bound};
use keyward_core::key::{BootTime, Clock};
use keyward_store::Cluster;

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
pub(super) struct PendingConfirmation {
    change: CommittedChange,
    answered_at: BootTime,
    tell: oneshot::Sender<Proof>,
    /// Set by the first membership that was asked for after the commit was answered, with its epoch.
    quorum: Option<(Epoch, AckSet)>,
    /// Nobody is waited for any more.
    receipt: Option<Receipt>,
    /// The longest bound of those it waits for.
    longest: Duration,
    looks: u32,
}

impl PendingConfirmation {
    pub(super) fn new(
        change: CommittedChange,
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

    /// Takes in a membership. In another epoch it begins again: what was waited for may be no more.
    fn observe(&mut self, membership: &Membership, now: BootTime) {
        self.looks = self.looks.saturating_add(1);
        if self
            .quorum
            .as_ref()
            .is_some_and(|(epoch, _)| *epoch != membership.epoch)
        {
            self.begin_again();
        }
        if self.quorum.is_none() {
            let bounds = membership
                .members
                .iter()
                .map(|member| bound(member.max_staleness));
            self.longest = self.longest.max(bounds.max().unwrap_or_default());
        }
        let (_, quorum) = self.quorum.get_or_insert_with(|| {
            let quorum = AckSet::new(self.change.revision, self.answered_at, membership);
            (membership.epoch, quorum)
        });
        if self.receipt.is_none() {
            self.receipt = quorum.observe(membership, now);
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
    pub(super) cluster: Arc<dyn Cluster>,
    pub(super) tail: Arc<Tail>,
    pub(super) fence: Arc<Fence>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Watcher {
    /// Watches until `closing`, or until nobody can ask any more.
    pub(super) async fn run(
        self,
        mut asked: mpsc::Receiver<PendingConfirmation>,
        closing: CancellationToken,
    ) {
        let mut held: Vec<PendingConfirmation> = Vec::new();
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
    async fn look(&self, held: &mut Vec<PendingConfirmation>) -> Duration {
        // Asked for now, after the commits of all that is held were answered.
        let membership = self.cluster.membership().await;
        let now = self.clock.boot();
        let Ok(membership) = membership else {
            self.give_up_overdue(held, now);
            return REST;
        };
        let membership = self.with_own_memory(membership);
        for one in held.iter_mut() {
            one.observe(&membership, now);
        }
        if held.iter().any(|one| one.receipt.is_some()) {
            self.confirm(held, membership.epoch).await;
        }
        self.give_up_overdue(held, self.clock.boot());
        if held.iter().any(|one| one.looks < SOON) {
            Duration::ZERO
        } else {
            LOOK
        }
    }

    /// What this instance has applied its memory tells, before its row does (I6).
    fn with_own_memory(&self, mut membership: Membership) -> Membership {
        let (own, applied) = (self.tail.registration(), self.fence.applied());
        for member in &mut membership.members {
            if Some(member.registration) == own {
                member.applied = member.applied.max(applied);
            }
        }
        membership
    }

    /// Confirms what is due: by a statement that also commits a write, so that only a primary can
    /// answer it. Without a row of this instance, or in another epoch, it is asked again later.
    async fn confirm(&self, held: &mut Vec<PendingConfirmation>, epoch: Epoch) {
        let Some(registration) = self.tail.registration() else {
            return;
        };
        let (mut due, waiting): (Vec<PendingConfirmation>, Vec<PendingConfirmation>) =
            std::mem::take(held)
                .into_iter()
                .partition(|one| one.receipt.is_some());
        *held = waiting;
        held.extend(due.split_off(due.len().min(MOST)));
        let changes: Vec<CommittedChange> = due.iter().map(|one| one.change).collect();
        let Ok(confirmed) = self.cluster.confirm(registration, &changes).await else {
            return held.extend(due);
        };
        if confirmed.epoch != epoch {
            due.iter_mut().for_each(PendingConfirmation::begin_again);
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

    fn give_up_overdue(&self, held: &mut Vec<PendingConfirmation>, now: BootTime) {
        let own = self.fence.max_staleness();
        held.retain(|one| !one.is_overdue(own, now));
    }
}
