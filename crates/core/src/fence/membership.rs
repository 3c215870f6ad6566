//! Decisions about the instances that share a store: which instances a committed change waits for
//! ([`AckSet`]), and which rows may be reaped ([`FailureDetector`]).
//!
//! Upholds I7 (with `wait`) and the reaper's half of I9.

use std::collections::HashMap;
use std::time::Duration;

use super::wait::{Progress, Wait, bound};
use super::{Epoch, Mark, Position};
use crate::key::{BootTime, Entropy, KeyId};

uuid_type! {
    /// Identifies one registration of one instance. Each registration draws a new id, so that an
    /// acknowledgement under an earlier registration never counts for a later one.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    RegistrationId
}

impl RegistrationId {
    /// Draws a new random id.
    pub fn draw(entropy: &dyn Entropy) -> Self {
        let mut random = [0; 16];
        entropy.fill(&mut random);
        Self(uuid::Builder::from_random_bytes(random).into_uuid())
    }
}

/// A change that must be effective on every instance before its call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedChange {
    /// Its revision in the log; 0 if there is nothing to wait for.
    pub revision: u64,
    /// Its mark; `None` for revision 0.
    pub mark: Option<Mark>,
    /// The key or token whose row holds the revision and the mark; `None` for revision 0.
    pub id: Option<KeyId>,
    /// The epoch of the read that the call relies on, because it found nothing to change. `None` if the
    /// call committed this change, and on an embedded store.
    pub read_in: Option<Epoch>,
}

impl CommittedChange {
    /// No change: there is nothing to wait for.
    pub const NOTHING: Self = Self {
        revision: 0,
        mark: None,
        id: None,
        read_in: None,
    };

    /// The same change, of a call that relies on a read in `epoch`.
    pub fn read_in(self, epoch: Option<Epoch>) -> Self {
        Self {
            read_in: epoch,
            ..self
        }
    }
}

/// One row of `instances`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The registration that wrote the row.
    pub registration: RegistrationId,
    /// The number of heartbeats so far. Each heartbeat raises it.
    pub heartbeat: u64,
    /// The revision up to which the instance has acknowledged the log of this read; 0 if its mark does
    /// not stand there, because the acknowledgement then belongs to another history.
    pub acked: u64,
    /// The longest time for which the instance answers without news from the store.
    pub max_staleness: Duration,
}

/// All registered instances, read in one snapshot of the database.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The epoch of the read.
    pub epoch: Epoch,
    /// The epoch that the store names as settled.
    pub settled: Option<Epoch>,
    /// Whether commits wait for a standby: `synchronous_standby_names` is not empty.
    pub has_standby: bool,
    /// One member for each row.
    pub members: Vec<Member>,
}

impl Membership {
    /// Replaces the acknowledgement of `own`, the registration of this process, by what it may acknowledge now,
    /// which is never behind the row (I6). It counts only in the epoch of this membership: another
    /// history has other changes under the same numbers.
    #[must_use]
    pub fn with_own_memory(
        mut self,
        own: Option<RegistrationId>,
        (epoch, acked): (Epoch, Position),
    ) -> Self {
        if epoch != self.epoch {
            return self;
        }
        for member in &mut self.members {
            if Some(member.registration) == own {
                member.acked = member.acked.max(acked.revision);
            }
        }
        self
    }
}

/// How a change became effective on every instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The number of instances that have applied the change, have left, or were reaped.
    pub confirmed: u32,
    /// The number of instances whose bound passed first.
    pub waited_out: u32,
}

/// The instances that one committed change waits for: all instances of the first membership that
/// was read after the commit was answered. Each instance has its own bound.
#[derive(Debug)]
pub struct AckSet {
    waiting: Vec<(RegistrationId, Wait)>,
    receipt: Receipt,
}

impl AckSet {
    /// The ack set of `revision`, whose commit was answered at `answered_at`.
    ///
    /// I7: the read of `first` began after `answered_at`. An instance that is not in `first`
    /// registers later, so it applies the change before it becomes fresh.
    pub fn new(revision: u64, answered_at: BootTime, first: &Membership) -> Self {
        let wait = |member: &Member| Wait::new(revision, answered_at, member.max_staleness);
        Self {
            waiting: first
                .members
                .iter()
                .map(|member| (member.registration, wait(member)))
                .collect(),
            receipt: Receipt::default(),
        }
    }

    /// When the bound of each instance in the set has passed at the latest. Then no instance is left to wait
    /// for.
    pub fn ends_at(&self) -> Option<BootTime> {
        self.waiting.iter().map(|(_, wait)| wait.ends_at()).max()
    }

    /// Updates the set from a membership whose read ended at `now` or before. Returns the receipt
    /// when no instance is left to wait for.
    ///
    /// An instance without a row has left after it gave up freshness, or was reaped (I9). Both
    /// count as an acknowledgement.
    pub fn observe(&mut self, membership: &Membership, now: BootTime) -> Option<Receipt> {
        let receipt = &mut self.receipt;
        self.waiting.retain(|(registration, wait)| {
            let acknowledged = membership
                .members
                .iter()
                .find(|member| member.registration == *registration)
                .map_or(u64::MAX, |member| member.acked);
            match wait.progress(acknowledged, now) {
                Progress::Pending => return true,
                Progress::Acknowledged => receipt.confirmed += 1,
                Progress::WaitedOut => receipt.waited_out += 1,
            }
            false
        });
        self.waiting.is_empty().then_some(*receipt)
    }
}

/// Finds unresponsive instances: those whose heartbeat has not changed for longer than their bound.
#[derive(Debug, Default)]
pub struct FailureDetector {
    /// For each instance the last heartbeat, and when this process first saw it.
    seen: HashMap<RegistrationId, (u64, BootTime)>,
}

impl FailureDetector {
    /// Updates the detector from a membership whose read was answered at `answered_at`. Returns the
    /// unresponsive instances, each with its heartbeat.
    ///
    /// I9: a row may be reaped only if its heartbeat is still the returned one. The time without a
    /// heartbeat counts from the answer of the first read that showed the heartbeat, not from the
    /// start of that read. It must exceed the row's own bound: then the instance's last freshness
    /// has ended.
    pub fn observe(
        &mut self,
        membership: &Membership,
        answered_at: BootTime,
    ) -> Vec<(RegistrationId, u64)> {
        let mut seen = HashMap::with_capacity(membership.members.len());
        let mut unresponsive = Vec::new();
        for member in &membership.members {
            let since = match self.seen.get(&member.registration) {
                Some((heartbeat, since)) if *heartbeat == member.heartbeat => *since,
                _ => answered_at,
            };
            seen.insert(member.registration, (member.heartbeat, since));
            if answered_at.since(since) > bound(member.max_staleness) {
                unresponsive.push((member.registration, member.heartbeat));
            }
        }
        self.seen = seen;
        unresponsive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Duration = Duration::from_secs(2);

    fn member(id: u8, heartbeat: u64, acked: u64, max_staleness: Duration) -> Member {
        Member {
            registration: RegistrationId::from_bytes([id; 16]),
            heartbeat,
            acked,
            max_staleness,
        }
    }

    fn membership(members: &[Member]) -> Membership {
        Membership {
            epoch: Epoch {
                system: 1,
                timeline: 1,
                incarnation: 1,
            },
            settled: None,
            has_standby: false,
            members: members.to_vec(),
        }
    }

    fn at(millis: u64) -> BootTime {
        BootTime::from_micros(0).plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_change_waits_for_each_instance_of_the_first_membership() {
        let first = membership(&[member(1, 0, 7, TWO), member(2, 0, 6, TWO)]);
        let mut ack_set = AckSet::new(7, at(0), &first);
        assert_eq!(ack_set.observe(&first, at(1)), None);
        let joined = member(3, 0, 0, TWO);
        let later = membership(&[member(1, 1, 7, TWO), member(2, 1, 7, TWO), joined]);
        let receipt = ack_set.observe(&later, at(2)).unwrap();
        assert_eq!((receipt.confirmed, receipt.waited_out), (2, 0));
    }

    #[test]
    fn a_change_does_not_wait_for_an_instance_that_left() {
        let mut ack_set = AckSet::new(7, at(0), &membership(&[member(1, 0, 6, TWO)]));
        let receipt = ack_set.observe(&membership(&[]), at(1)).unwrap();
        assert_eq!((receipt.confirmed, receipt.waited_out), (1, 0));
    }

    /// The wait must use neither the revoker's bound nor one bound for all instances.
    #[test]
    fn a_change_waits_for_each_instance_by_its_own_bound() {
        let first = membership(&[member(1, 0, 6, TWO), member(2, 0, 6, 2 * TWO)]);
        let mut ack_set = AckSet::new(7, at(0), &first);
        assert_eq!(ack_set.observe(&first, at(2_140)), None);
        assert_eq!(ack_set.observe(&first, at(2_141)), None);
        assert_eq!(ack_set.observe(&first, at(4_180)), None);
        let receipt = ack_set.observe(&first, at(4_181)).unwrap();
        assert_eq!((receipt.confirmed, receipt.waited_out), (0, 2));
    }

    /// After a failover with a lost tail, memory may hold a number that is another change now.
    #[test]
    fn own_memory_counts_only_in_the_epoch_of_the_membership() {
        let membership = membership(&[member(1, 0, 3, TWO), member(2, 0, 3, TWO)]);
        let position = Position {
            revision: 5,
            mark: [1; 8],
        };
        let acked = |epoch, own| {
            let own = Some(RegistrationId::from_bytes([own; 16]));
            let with_own = membership.clone().with_own_memory(own, (epoch, position));
            let acked = with_own.members.iter().map(|member| member.acked);
            acked.collect::<Vec<_>>()
        };
        let promoted = Epoch {
            timeline: 2,
            ..membership.epoch
        };
        assert_eq!(acked(membership.epoch, 1), [5, 3]);
        assert_eq!(acked(membership.epoch, 9), [3, 3]);
        assert_eq!(acked(promoted, 1), [3, 3]);
    }

    #[test]
    fn an_instance_is_unresponsive_after_its_own_bound() {
        let mut detector = FailureDetector::default();
        let quiet = [member(1, 5, 0, TWO), member(2, 5, 0, 2 * TWO)];
        assert!(detector.observe(&membership(&quiet), at(1_000)).is_empty());
        assert!(detector.observe(&membership(&quiet), at(3_140)).is_empty());
        let unresponsive = detector.observe(&membership(&quiet), at(3_141));
        assert_eq!(unresponsive, [(quiet[0].registration, 5)]);
    }

    #[test]
    fn a_heartbeat_restarts_the_detection() {
        let mut detector = FailureDetector::default();
        let row = |heartbeat| membership(&[member(1, heartbeat, 0, TWO)]);
        assert!(detector.observe(&row(5), at(0)).is_empty());
        assert!(detector.observe(&row(6), at(3_000)).is_empty());
        assert!(detector.observe(&row(6), at(5_000)).is_empty());
        assert_eq!(detector.observe(&row(6), at(5_200)).len(), 1);
        // A row that disappears and comes back counts as new.
        assert!(detector.observe(&membership(&[]), at(5_300)).is_empty());
        assert!(detector.observe(&row(6), at(9_000)).is_empty());
    }
}
