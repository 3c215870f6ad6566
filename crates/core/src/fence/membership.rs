//! The instances that share a store, as far as they decide anything: whom a committed change waits
//! for, and who has been silent for so long that its row may go.
//!
//! Upholds I7 with `wait`, and the reaping half of I9.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::wait::{Progress, Wait, bound};
use super::{Epoch, Mark};
use crate::key::{BootTime, Entropy, KeyId};

/// Names one registration of one instance. Drawn anew for each: an acknowledgement of an earlier
/// life must never speak for a later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistrationId(uuid::Uuid);

impl RegistrationId {
    /// Draws a new one.
    pub fn draw(entropy: &dyn Entropy) -> Self {
        let mut random = [0; 16];
        entropy.fill(&mut random);
        Self(uuid::Builder::from_random_bytes(random).into_uuid())
    }

    /// From the 16 bytes that a store holds.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// The 16 bytes that a store holds.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for RegistrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A change that must hold everywhere before the call returns. Revision 0: nothing to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedChange {
    /// Its place in the log.
    pub revision: u64,
    /// Its mark; `None` for revision 0.
    pub mark: Option<Mark>,
    /// The key or token whose row carries both; `None` for revision 0.
    pub id: Option<KeyId>,
}

impl CommittedChange {
    /// Nothing to wait for.
    pub const NOTHING: Self = Self {
        revision: 0,
        mark: None,
        id: None,
    };
}

/// One registered instance, as its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which registration.
    pub registration: RegistrationId,
    /// How often it has beaten; never the same twice in a row.
    pub beat: u64,
    /// The revision up to which it has applied the log.
    pub applied: u64,
    /// How long it may answer without news.
    pub max_staleness: Duration,
}

/// All registered instances, read in one snapshot.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The epoch in which it was read.
    pub epoch: Epoch,
    /// One for each row.
    pub members: Vec<Member>,
}

/// How a change came to hold everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Instances that have applied it, or have left since.
    pub confirmed: u32,
    /// Instances whose bound passed instead.
    pub waited_out: u32,
}

/// What one committed change waits for: every instance of the first membership that was read after
/// its commit was answered, each by its own bound.
#[derive(Debug)]
pub struct AckSet {
    waiting: Vec<(RegistrationId, Wait)>,
    receipt: Receipt,
}

impl AckSet {
    /// For `revision`, whose commit was answered at `answered_at`. `first` was asked for after
    /// that: an instance that registered later has seen the change before it became fresh (I7).
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

    /// Takes in a membership that was read at `now` or before; the receipt when nobody is waited for
    /// any more. An instance that is gone has left with its freshness off, or was reaped.
    pub fn observe(&mut self, membership: &Membership, now: BootTime) -> Option<Receipt> {
        let receipt = &mut self.receipt;
        self.waiting.retain(|(boot, wait)| {
            let acknowledged = membership
                .members
                .iter()
                .find(|member| member.registration == *boot)
                .map_or(u64::MAX, |member| member.applied);
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

/// Who has been silent since when, by this process's boot clock.
#[derive(Debug, Default)]
pub struct FailureDetector {
    seen: HashMap<RegistrationId, (u64, BootTime)>,
}

impl FailureDetector {
    /// Takes in a membership whose read was answered at `answered_at`; answers whose rows may be
    /// deleted, each only if its heartbeat is still the one given here (I9). FailureDetector is counted from
    /// the answer of the read that first showed a heartbeat, never from its sending, and lasts until
    /// the row's own bound has passed: its last freshness is older than that.
    pub fn observe(
        &mut self,
        membership: &Membership,
        answered_at: BootTime,
    ) -> Vec<(RegistrationId, u64)> {
        let mut seen = HashMap::with_capacity(membership.members.len());
        let mut silent = Vec::new();
        for member in &membership.members {
            let since = match self.seen.get(&member.registration) {
                Some((beat, since)) if *beat == member.beat => *since,
                _ => answered_at,
            };
            seen.insert(member.registration, (member.beat, since));
            if answered_at.since(since) > bound(member.max_staleness) {
                silent.push((member.registration, member.beat));
            }
        }
        self.seen = seen;
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Duration = Duration::from_secs(2);

    fn member(boot: u8, beat: u64, applied: u64, max_staleness: Duration) -> Member {
        Member {
            registration: RegistrationId::from_bytes([boot; 16]),
            beat,
            applied,
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
            members: members.to_vec(),
        }
    }

    fn at(millis: u64) -> BootTime {
        BootTime::from_micros(0).plus(Duration::from_millis(millis))
    }

    #[test]
    fn a_change_waits_for_each_instance_of_the_first_roster() {
        let first = membership(&[member(1, 0, 7, TWO), member(2, 0, 6, TWO)]);
        let mut quorum = AckSet::new(7, at(0), &first);
        assert_eq!(quorum.observe(&first, at(1)), None);
        let joined = member(3, 0, 0, TWO);
        let later = membership(&[member(1, 1, 7, TWO), member(2, 1, 7, TWO), joined]);
        let receipt = quorum.observe(&later, at(2)).unwrap();
        assert_eq!((receipt.confirmed, receipt.waited_out), (2, 0));
    }

    #[test]
    fn who_has_left_is_not_waited_for() {
        let mut quorum = AckSet::new(7, at(0), &membership(&[member(1, 0, 6, TWO)]));
        let receipt = quorum.observe(&membership(&[]), at(1)).unwrap();
        assert_eq!((receipt.confirmed, receipt.waited_out), (1, 0));
    }

    /// Not the revoker's own bound, nor one for all.
    #[test]
    fn each_instance_is_waited_for_by_its_own_bound() {
        let first = membership(&[member(1, 0, 6, TWO), member(2, 0, 6, 2 * TWO)]);
        let mut quorum = AckSet::new(7, at(0), &first);
        assert_eq!(quorum.observe(&first, at(2_140)), None);
        assert_eq!(quorum.observe(&first, at(2_141)), None);
        assert_eq!(quorum.observe(&first, at(4_180)), None);
        let receipt = quorum.observe(&first, at(4_181)).unwrap();
        assert_eq!((receipt.confirmed, receipt.waited_out), (0, 2));
    }

    #[test]
    fn a_silent_row_may_go_after_its_own_bound() {
        let mut detector = FailureDetector::default();
        let quiet = [member(1, 5, 0, TWO), member(2, 5, 0, 2 * TWO)];
        assert!(detector.observe(&membership(&quiet), at(1_000)).is_empty());
        assert!(detector.observe(&membership(&quiet), at(3_140)).is_empty());
        let silent = detector.observe(&membership(&quiet), at(3_141));
        assert_eq!(silent, [(quiet[0].registration, 5)]);
    }

    #[test]
    fn a_beat_ends_the_silence() {
        let mut detector = FailureDetector::default();
        let row = |beat| membership(&[member(1, beat, 0, TWO)]);
        assert!(detector.observe(&row(5), at(0)).is_empty());
        assert!(detector.observe(&row(6), at(3_000)).is_empty());
        assert!(detector.observe(&row(6), at(5_000)).is_empty());
        assert_eq!(detector.observe(&row(6), at(5_200)).len(), 1);
        // A row that went and came back was not seen in between.
        assert!(detector.observe(&membership(&[]), at(5_300)).is_empty());
        assert!(detector.observe(&row(6), at(9_000)).is_empty());
    }
}
