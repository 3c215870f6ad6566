//! The stream of one near-cache.
//!
//! Upholds I6 for near-caches, with `near_caches`: an answer is built under the lock of the leases, after its
//! poll was noted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::near_caches::{ANSWER_LIMIT, NearCaches, NearRefusal};
use keyward_core::fence::{Epoch, NearAnswer, StreamId, bound};
use keyward_core::key::BootTime;

/// A near-cache polls this often within the time for which an answer keeps it fresh.
const POLLS: u32 = 5;
/// The longest time for which a poll without news is held. A client gives up an instance that is silent longer.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The near-cache has said that it is off, or never polled, so that it was not fresh.
    Off,
    /// Its near-cache has gone without a word, or was too slow.
    Broken,
}

/// The stream of one near-cache. When it is dropped, its lease runs out.
pub struct NearStream {
    near: Arc<NearCaches>,
    id: StreamId,
    caller: String,
    applied: watch::Receiver<u64>,
    answered: Option<Answered>,
    end: End,
}

/// The latest answer of a stream.
#[derive(Clone, Copy, Debug)]
struct Answered {
    at: BootTime,
    epoch: Epoch,
    applied: u64,
    /// Whether it told changes.
    has_told: bool,
}

impl NearStream {
    pub(super) fn new(
        near: Arc<NearCaches>,
        id: StreamId,
        caller: &str,
        applied: watch::Receiver<u64>,
    ) -> Self {
        Self {
            near,
            id,
            caller: caller.to_owned(),
            applied,
            answered: None,
            end: End::Off,
        }
    }

    /// Notes a poll of a near-cache that has applied the log of an epoch up to a revision.
    pub fn poll(&mut self, known: (Epoch, u64)) -> Result<(), NearRefusal> {
        let near = &self.near;
        if let Some(answered) = self.answered {
            let taken = near.clock.boot().since(answered.at);
            // A near-cache that polls without taking what it is told would delay every change.
            if known.0 != answered.epoch || known.1 < answered.applied {
                return Err(NearRefusal::Unacknowledged);
            }
            // A change waits for the near-cache: one that it was told, or one that came after its answer.
            let is_waited_for = answered.has_told || known.1 < near.fence.applied();
            if taken > ANSWER_LIMIT && is_waited_for {
                return Err(NearRefusal::TooSlow);
            }
            if answered.has_told {
                near.metrics.acknowledged.observe(taken.as_secs_f64());
            }
        }
        self.end = End::Broken;
        near.leases
            .lock()
            .poll(self.id, known, &near.fence, &*near.clock);
        near.acked();
        Ok(())
    }

    /// Returns when there is something to tell a near-cache that has applied the log up to `applied`: at once
    /// for the first poll of a stream, after a change, at the next heartbeat, or when this instance leaves.
    pub async fn news(&mut self, applied: u64) {
        if self.answered.is_none() {
            return;
        }
        let heartbeat = (self.near.limits.max_staleness / POLLS).min(HEARTBEAT);
        tokio::select! {
            _ = self.applied.wait_for(|own| *own > applied) => {}
            () = tokio::time::sleep(heartbeat) => {}
            () = self.near.leaving.cancelled() => {}
        }
    }

    /// The answer to a poll; `None` if this instance cannot make the near-cache fresh now, so that it must be
    /// off.
    pub fn answer(&mut self, known: (Epoch, u64)) -> Option<NearAnswer> {
        let near = &self.near;
        // No lease is noted and nothing is acknowledged meanwhile.
        let leases = near.leases.lock();
        let fresh_for = (!leases.is_leaving()).then_some(near.limits.max_staleness);
        let answer = near.fence.answer(known, fresh_for, &*near.clock);
        drop(leases);
        let answer = answer.filter(|answer| answer.fresh_for.is_some())?;
        self.answered = Some(Answered {
            at: near.clock.boot(),
            epoch: answer.epoch,
            applied: answer.applied,
            has_told: answer.changes.as_ref().is_none_or(|all| !all.is_empty()),
        });
        Some(answer)
    }

    /// Returns when this instance leaves, so that its near-caches must be off.
    pub async fn leaving(&self) {
        self.near.leaving.cancelled().await;
    }

    /// Whether this instance leaves.
    pub fn is_leaving(&self) -> bool {
        self.near.leaving.is_cancelled()
    }

    /// How long a near-cache that does not poll may be fresh.
    pub fn lease(&self) -> Duration {
        bound(self.near.limits.max_staleness)
    }

    /// The near-cache has ended its freshness.
    pub fn off(mut self) {
        self.end = End::Off;
    }
}

impl Drop for NearStream {
    fn drop(&mut self) {
        self.near.close(self.id, &self.caller, self.end);
    }
}
