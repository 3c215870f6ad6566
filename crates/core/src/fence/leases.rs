//! What an instance knows of the near-caches that it keeps fresh, and so what it may acknowledge. A near-cache
//! answers VALID in its caller's process, and has no row in the store: its instance answers for it. So
//! an instance acknowledges a change only when each near-cache that may be fresh has acknowledged it.
//!
//! The owner keeps one `Leases` behind one lock, and builds each answer to a near-cache under it
//! ([`Fence::answer`]): noting a lease, building an answer and acknowledging exclude each other.
//!
//! Upholds I6 for near-caches.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{Epoch, Fence, Position, bound};
use crate::key::{BootTime, Clock};

/// The most positions that wait for an acknowledgement. Above that, later ones are joined.
const MAX_PENDING: usize = 1_024;

/// Nothing is acknowledged.
const NOTHING: Position = Position {
    revision: 0,
    mark: [0; 8],
};

/// Identifies one stream of a near-cache to this process. A lease belongs to a stream, not to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u64);

/// What one stream may have made fresh.
#[derive(Clone, Copy, Debug)]
struct Lease {
    /// The near-cache may be fresh until this time, inclusive.
    until: BootTime,
    /// The revision up to which it has acknowledged the log of this epoch.
    acked: u64,
}

impl Lease {
    /// Both: the later end, and the lower acknowledgement.
    fn merged(self, other: Self) -> Self {
        Self {
            until: self.until.max(other.until),
            acked: self.acked.min(other.acked),
        }
    }
}

/// The leases of one process.
#[derive(Debug)]
pub struct Leases {
    /// How long a poll may keep a near-cache fresh, by this process's clock.
    length: Duration,
    epoch: Epoch,
    next: u64,
    /// The open streams; `None` until the first poll.
    streams: HashMap<StreamId, Option<Lease>>,
    /// The leases of broken streams, merged.
    ghost: Option<Lease>,
    /// The positions that were applied and not acknowledged yet, each with a time read after that.
    pending: VecDeque<(Position, BootTime)>,
    acked: Position,
    /// A stream that lately held the oldest of them. While it does, no other one needs to be looked at.
    holder: Option<StreamId>,
    /// The longest wait of an acknowledged change for leases that was not reported yet.
    held: Option<Duration>,
    is_leaving: bool,
}

impl Leases {
    /// The leases of a process that keeps near-caches fresh for `near_max_staleness`. On an embedded store, a
    /// process that ended before `now` may have left near-caches that are fresh for at most `left`.
    pub fn new(
        near_max_staleness: Duration,
        left: Option<Duration>,
        fence: &Fence,
        now: BootTime,
    ) -> Self {
        let length = bound(left.unwrap_or_default().max(near_max_staleness));
        Self {
            length,
            epoch: fence.epoch(),
            next: 0,
            streams: HashMap::new(),
            ghost: left.map(|_| Lease {
                until: now.plus(length),
                acked: 0,
            }),
            pending: VecDeque::new(),
            acked: NOTHING,
            holder: None,
            held: None,
            is_leaving: false,
        }
    }

    /// Opens a stream, which has no lease yet.
    pub fn open(&mut self) -> StreamId {
        let id = StreamId(self.next);
        self.next += 1;
        self.streams.insert(id, None);
        id
    }

    /// The number of open streams.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Notes the poll of a near-cache that has applied the log of `epoch` up to `applied`. Call it before
    /// anything is read for the answer: the near-cache may be fresh by that answer from now on.
    pub fn poll(
        &mut self,
        id: StreamId,
        (epoch, applied): (Epoch, u64),
        fence: &Fence,
        clock: &dyn Clock,
    ) {
        self.follow(fence.epoch());
        // The acknowledgement of another epoch is about another log.
        let acked = if epoch == self.epoch { applied } else { 0 };
        let until = clock.boot().plus(self.length);
        let is_leaving = self.is_leaving;
        let Some(lease) = self.streams.get_mut(&id) else {
            return;
        };
        match lease {
            Some(lease) => {
                lease.acked = acked;
                if !is_leaving {
                    lease.until = until;
                }
            }
            None if is_leaving => {}
            None => *lease = Some(Lease { until, acked }),
        }
    }

    /// The near-cache of this stream has ended its freshness, and takes nothing more from the stream.
    pub fn off(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    /// The stream has ended otherwise: the near-cache may be fresh until the end of its lease.
    pub fn broke(&mut self, id: StreamId) {
        if let Some(lease) = self.streams.remove(&id).flatten() {
            self.ghost = Some(self.ghost.map_or(lease, |ghost| ghost.merged(lease)));
        }
    }

    /// From now on no lease is noted or renewed: this process is about to end its freshness for good.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Whether this process gives near-caches no more freshness.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// The latest end of the leases that run at `now`; `None` if none does.
    pub fn end(&self, now: BootTime) -> Option<BootTime> {
        self.running(now).map(|lease| lease.until).max()
    }

    /// What this instance may acknowledge, and the epoch of it: the latest position that it has applied and that
    /// each near-cache with a running lease has acknowledged.
    pub fn acked(&mut self, fence: &Fence, clock: &dyn Clock) -> (Epoch, Position) {
        // I6: `applied` is read before the leases, and the time after it.
        let (epoch, applied) = fence.position();
        let now = clock.boot();
        self.follow(epoch);
        if self.acked == applied {
            return (epoch, applied);
        }
        if self.is_held(now) {
            self.note(applied, now);
            return (epoch, self.acked);
        }
        self.ghost = self.ghost.filter(|ghost| now <= ghost.until);
        let Some(lowest) = self.running(now).map(|lease| lease.acked).min() else {
            if let Some((_, first)) = self.pending.drain(..).next() {
                self.held = self.held.max(Some(now.since(first)));
            }
            self.acked = applied;
            return (epoch, applied);
        };
        self.note(applied, now);
        while let Some((position, at)) = self.pending.front().copied() {
            // A near-cache that did not poll for so long is not fresh; one that did was sent the change.
            let waited = now.since(at);
            if position.revision > lowest && waited <= self.length {
                break;
            }
            self.held = self.held.max(Some(waited));
            self.acked = position;
            self.pending.pop_front();
        }
        self.holder = self.pending.front().and_then(|(position, _)| {
            let mut streams = self.streams.iter();
            let holds = |lease: &Lease| now <= lease.until && lease.acked < position.revision;
            let holder = streams.find(|(_, lease)| lease.as_ref().is_some_and(holds));
            holder.map(|(id, _)| *id)
        });
        (epoch, self.acked)
    }

    /// Whether the stream that held the oldest position still does. The streams are in no order, so of many that
    /// poll after a change, few are the holder.
    fn is_held(&self, now: BootTime) -> bool {
        let lease = self.holder.and_then(|id| *self.streams.get(&id)?);
        let oldest = self.pending.front();
        oldest.zip(lease).is_some_and(|((position, at), lease)| {
            now.since(*at) <= self.length && now <= lease.until && lease.acked < position.revision
        })
    }

    /// The longest time that a change waited for near-caches since the last call.
    pub fn take_held(&mut self) -> Option<Duration> {
        self.held.take()
    }

    fn note(&mut self, applied: Position, now: BootTime) {
        let newest = self
            .pending
            .back()
            .map_or(self.acked, |(newest, _)| *newest);
        if applied.revision <= newest.revision {
            return;
        }
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_back();
        }
        self.pending.push_back((applied, now));
    }

    fn running(&self, now: BootTime) -> impl Iterator<Item = Lease> {
        let streams = self.streams.values().copied().flatten();
        let all = streams.chain(self.ghost);
        all.filter(move |lease| now <= lease.until)
    }

    /// In a new epoch nothing is acknowledged yet.
    fn follow(&mut self, epoch: Epoch) {
        if self.epoch == epoch {
            return;
        }
        self.epoch = epoch;
        self.acked = NOTHING;
        self.pending.clear();
        let streams = self.streams.values_mut().flatten();
        for lease in streams.chain(&mut self.ghost) {
            lease.acked = 0;
        }
    }
}
