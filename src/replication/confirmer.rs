//! The confirmer of a process on a shared store. While changes wait, it polls the membership; it
//! confirms all acknowledged changes in one statement. So 1,000 concurrent revocations cost about as
//! many statements as one.
//!
//! Upholds I7 on a shared store, with `fence::AckSet`.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Tail;
use super::barrier::Unconfirmed;
use keyward_core::fence::{
    AckSet, CommittedChange, Epoch, Fence, Membership, Receipt, Settling, Unsettled, bound,
};
use keyward_core::key::{BootTime, Clock};
use keyward_ops::TIMELINE;
use keyward_store::{Cluster, Confirmed};

/// The shortest pause between two polls: the timer measures no shorter one. Before that, polls follow
/// each other.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause between two polls.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How long the first poll waits for this instance.
const OWN_LIMIT: Duration = Duration::from_millis(5);
/// The pause after a poll that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How much longer than the longest bound a change may wait for its confirmation.
const CONFIRM_MARGIN: Duration = Duration::from_secs(5);
/// The most changes in one confirming statement.
const BATCH: usize = 1_024;

pub(super) type Confirmation = Result<Receipt, Unconfirmed>;

/// A committed change, or the answer of a call that changed nothing, whose call has not returned yet.
pub(super) struct PendingConfirmation {
    change: CommittedChange,
    /// Whether every instance must have applied the change.
    waits_for_instances: bool,
    answered_at: BootTime,
    sender: oneshot::Sender<Confirmation>,
    /// I7: made from the first membership whose read began after the commit was answered.
    ack_set: Option<(Epoch, AckSet)>,
    /// Set when the ack set is empty. The change is then due to be confirmed.
    receipt: Option<Receipt>,
    /// The longest bound in the ack set.
    longest_bound: Duration,
}

impl PendingConfirmation {
    /// A change that every instance must have applied.
    pub(super) fn of_change(
        change: CommittedChange,
        answered_at: BootTime,
        sender: oneshot::Sender<Confirmation>,
    ) -> Self {
        Self {
            change,
            waits_for_instances: true,
            answered_at,
            sender,
            ack_set: None,
            receipt: None,
            longest_bound: Duration::ZERO,
        }
    }

    /// An answer that relies on a read in `epoch`, and waits for no instance.
    pub(super) fn of_read(
        epoch: Epoch,
        answered_at: BootTime,
        sender: oneshot::Sender<Confirmation>,
    ) -> Self {
        let nothing = CommittedChange::NOTHING.read_in(Some(epoch));
        Self {
            waits_for_instances: false,
            ..Self::of_change(nothing, answered_at, sender)
        }
    }

    /// Why this cannot be confirmed in the epoch of a membership, if it cannot.
    fn refusal(&self, epoch: Epoch, settled: Result<(), Unsettled>) -> Option<Unconfirmed> {
        // What was read belongs to another history: the call must read again.
        if self.change.read_in.is_some_and(|read_in| read_in != epoch) {
            return Some(Unconfirmed::Unproven);
        }
        let unsettled = settled.err().filter(|_| self.waits_for_instances);
        unsettled.map(Unconfirmed::from)
    }

    /// Updates the ack set from a membership. In a new epoch it starts with a new ack set, because
    /// the acknowledgements of the old epoch say nothing about this one.
    fn observe(&mut self, membership: &Membership, now: BootTime) {
        if !self.waits_for_instances {
            self.receipt = Some(Receipt::default());
            return;
        }
        if self
            .ack_set
            .as_ref()
            .is_some_and(|(epoch, _)| *epoch != membership.epoch)
        {
            (self.ack_set, self.receipt) = (None, None);
        }
        if self.ack_set.is_none() {
            let bounds = membership
                .members
                .iter()
                .map(|member| bound(member.max_staleness));
            self.longest_bound = self.longest_bound.max(bounds.max().unwrap_or_default());
        }
        let (_, ack_set) = self.ack_set.get_or_insert_with(|| {
            let ack_set = AckSet::new(self.change.revision, self.answered_at, membership);
            (membership.epoch, ack_set)
        });
        if self.receipt.is_none() {
            self.receipt = ack_set.observe(membership, now);
        }
    }

    /// The outcome, if the statement that read the last membership committed a write: `stands` says whether
    /// the change then stood.
    fn outcome(&self, stands: Option<bool>) -> Option<Confirmation> {
        let (receipt, stands) = (self.receipt?, stands?);
        if stands {
            return Some(Ok(receipt));
        }
        let revision = self.change.revision;
        tracing::error!(revision, "a committed change is missing from the database");
        Some(Err(Unconfirmed::Unproven))
    }

    /// The acknowledgement that this still waits for at `now`; 0 if it is due.
    fn awaited(&self, now: BootTime) -> u64 {
        let is_over = self.ends_at().is_some_and(|end| now > end);
        match self.receipt {
            None if !is_over => self.change.revision,
            _ => 0,
        }
    }

    /// When the bounds of all instances in the ack set have passed.
    fn ends_at(&self) -> Option<BootTime> {
        self.ack_set.as_ref()?.1.ends_at()
    }

    /// The pause until the next poll for this change: a quarter of its wait so far. So its answer is late by
    /// at most that, and a long wait costs few polls. The end of the bounds is not missed.
    fn pause(&self, now: BootTime) -> Duration {
        let pause = (now.since(self.answered_at) / 4).min(LONGEST_PAUSE);
        if pause < SHORTEST_PAUSE {
            return Duration::ZERO;
        }
        let end = self.ends_at().map(|end| end.since(now));
        end.map_or(pause, |end| end.clamp(SHORTEST_PAUSE, pause))
    }

    /// Whether the change has waited too long, by this instance's bound and those of its ack set.
    fn is_overdue(&self, own_max_staleness: Duration, now: BootTime) -> bool {
        let longest = bound(own_max_staleness).max(self.longest_bound);
        now.since(self.answered_at) > longest + CONFIRM_MARGIN
    }
}

/// Confirms the changes of this process.
pub(super) struct Confirmer {
    pub(super) cluster: Arc<dyn Cluster>,
    pub(super) settling: Arc<Mutex<Settling>>,
    pub(super) tail: Arc<Tail>,
    pub(super) fence: Arc<Fence>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Confirmer {
    /// Runs until `closing`, or until the barrier is dropped.
    pub(super) async fn run(
        self,
        mut receiver: mpsc::Receiver<PendingConfirmation>,
        closing: CancellationToken,
    ) {
        let mut pending: Vec<PendingConfirmation> = Vec::new();
        loop {
            if pending.is_empty() {
                let first = tokio::select! {
                    biased;
                    first = receiver.recv() => first,
                    () = closing.cancelled() => None,
                };
                let Some(first) = first else { break };
                pending.push(first);
            }
            while let Ok(more) = receiver.try_recv() {
                pending.push(more);
            }
            let pause = tokio::select! {
                biased;
                pause = async {
                    self.wait_for_this_instance(&pending).await;
                    self.poll(&mut pending).await
                } => pause,
                () = closing.cancelled() => break,
            };
            if pause.is_zero() {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                // A new change does not wait for the poll of an older one.
                Some(new) = receiver.recv() => pending.push(new),
                () = closing.cancelled() => break,
            }
        }
        // The dropped senders make the waiting calls return `Unconfirmed::Unproven`.
    }

    /// Waits until this instance has applied the first of new changes. Before that, a poll can confirm none
    /// of them, and would only slow down the instances.
    async fn wait_for_this_instance(&self, pending: &[PendingConfirmation]) {
        if pending.iter().all(|pending| pending.ack_set.is_none()) {
            let first = pending.iter().map(|pending| pending.change.revision).min();
            let mut applied = self.tail.near().subscribe_acked();
            let has_applied = applied.wait_for(|applied| Some(*applied) >= first);
            // The poll after the limit finds out why this instance is late.
            let _ = tokio::time::timeout(OWN_LIMIT, has_applied).await;
        }
    }

    /// Reads the membership once and confirms the changes that are due, in one statement if all other
    /// instances have acknowledged the first of them. Returns the pause until the next poll.
    async fn poll(&self, pending: &mut Vec<PendingConfirmation>) -> Duration {
        // Those that are due without a further acknowledgement come first.
        pending.sort_by_key(|confirmation| confirmation.receipt.is_none());
        let asked = &pending[..pending.len().min(BATCH)];
        // I7: this read begins after the commits of all pending changes were answered.
        let asked_at = self.clock.boot();
        let answer = self.ask(asked, asked_at).await;
        let now = self.clock.boot();
        let Ok(Confirmed { membership, stands }) = answer else {
            self.drop_overdue(pending, now);
            return RETRY_INTERVAL;
        };
        let settled = self.settling.lock().observe(&membership, now);
        let membership =
            membership.with_own_memory(self.tail.registration(), self.tail.near().acked());
        let step = match stands {
            Some(_) => "confirmed",
            None => "polled",
        };
        tracing::trace!(target: TIMELINE, changes = pending.len(), "{step}");
        let mut stands = stands.unwrap_or_default().into_iter();
        for mut confirmation in std::mem::take(pending) {
            let stands = stands.next();
            let outcome = match confirmation.refusal(membership.epoch, settled) {
                Some(refusal) => Some(Err(refusal)),
                None => {
                    // A bound that has passed since then counts at the next poll: its write must come
                    // after the bound.
                    confirmation.observe(&membership, asked_at);
                    confirmation.outcome(stands)
                }
            };
            match outcome {
                // The call may have been cancelled.
                Some(outcome) => drop(confirmation.sender.send(outcome)),
                None => pending.push(confirmation),
            }
        }
        self.drop_overdue(pending, now);
        let pauses = pending.iter().map(|pending| pending.pause(now));
        pauses.min().unwrap_or_default()
    }

    /// Reads the membership. Only a primary can answer that changes are confirmed, because the statement
    /// then commits a write. Without a row of this instance nothing is confirmed.
    async fn ask(
        &self,
        pending: &[PendingConfirmation],
        now: BootTime,
    ) -> keyward_store::Result<Confirmed> {
        let Some(registration) = self.tail.registration() else {
            let membership = self.cluster.membership().await?;
            let stands = None;
            return Ok(Confirmed { membership, stands });
        };
        let changes: Vec<CommittedChange> = pending.iter().map(|asked| asked.change).collect();
        let awaited = pending.iter().map(|asked| asked.awaited(now)).min();
        let once_acked = awaited.unwrap_or_default();
        self.cluster
            .confirm(registration, &changes, once_acked)
            .await
    }

    fn drop_overdue(&self, pending: &mut Vec<PendingConfirmation>, now: BootTime) {
        let own = self.fence.max_staleness();
        pending.retain(|confirmation| !confirmation.is_overdue(own, now));
    }
}
