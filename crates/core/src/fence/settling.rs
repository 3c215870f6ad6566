//! Whether an epoch is settled: whether every instance that may be fresh has a row in it.
//!
//! A failover can lose the row of an instance that is still fresh. No change waits for that instance, so a
//! change may be confirmed only in an epoch that is old enough: then the freshness from before it has
//! ended.

use std::collections::HashMap;
use std::time::Duration;

use super::{Epoch, Membership, bound};
use crate::key::BootTime;

/// The largest `max_staleness` that an instance may have.
pub const MAX_STALENESS: Duration = Duration::from_secs(60);

/// Why changes cannot be confirmed in an epoch now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsettled {
    /// An instance without a row may still be fresh.
    #[error("the database has failed over or was restored; changes are confirmed again in {} s", remaining.as_secs() + 1)]
    TooYoung {
        /// The time until the epoch is old enough.
        remaining: Duration,
    },
    /// `failover_loses_nothing` is set, but no standby is waited for.
    #[error("`failover_loses_nothing` is set, but synchronous_standby_names is empty")]
    NoStandby,
}

/// What one process knows about the epochs of its store.
#[derive(Debug, Default)]
pub struct Settling {
    /// A failover loses no commit, so it loses no row.
    failover_loses_nothing: bool,
    /// Each epoch, and the answer that first showed it.
    known: HashMap<Epoch, BootTime>,
    /// The last answer that showed no standby.
    no_standby: Option<BootTime>,
}

impl Settling {
    /// A process that knows no epoch yet.
    pub fn new(failover_loses_nothing: bool) -> Self {
        Self {
            failover_loses_nothing,
            ..Self::default()
        }
    }

    /// Decides whether changes may be confirmed in the epoch of a membership, which was answered at
    /// `answered_at`.
    ///
    /// An epoch is settled if the store names it, or if this process has known it for longer than the
    /// bound of [`MAX_STALENESS`]. If a failover loses nothing, a new timeline is settled, but not a new
    /// system or incarnation.
    pub fn observe(
        &mut self,
        membership: &Membership,
        answered_at: BootTime,
    ) -> Result<(), Unsettled> {
        let epoch = membership.epoch;
        let since = *self.known.entry(epoch).or_insert(answered_at);
        if self.failover_loses_nothing && !membership.has_standby {
            self.no_standby = Some(answered_at);
            return Err(Unsettled::NoStandby);
        }
        // While no standby was waited for, a failover could lose rows.
        let lost_rows = self
            .no_standby
            .is_some_and(|at| left(at, answered_at).is_some());
        let named = membership.settled == Some(epoch);
        if named || (self.is_successor(membership.settled, epoch) && !lost_rows) {
            return Ok(());
        }
        left(since, answered_at).map_or(Ok(()), |remaining| Err(Unsettled::TooYoung { remaining }))
    }

    /// Whether this process has waited so long in `epoch` that the store may name it.
    pub fn has_waited(&self, epoch: Epoch, now: BootTime) -> bool {
        let since = self.known.get(&epoch);
        since.is_some_and(|since| left(*since, now).is_none())
    }

    /// Whether only a failover that lost nothing lies between the settled epoch and `epoch`.
    fn is_successor(&self, settled: Option<Epoch>, epoch: Epoch) -> bool {
        self.failover_loses_nothing
            && settled.is_some_and(|settled| {
                (settled.system, settled.incarnation) == (epoch.system, epoch.incarnation)
            })
    }
}

/// What is left at `now` of the bound of [`MAX_STALENESS`] after `since`; `None` once it has passed.
fn left(since: BootTime, now: BootTime) -> Option<Duration> {
    let end = since.plus(bound(MAX_STALENESS));
    (now <= end).then(|| end.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Epoch = Epoch {
        system: 1,
        timeline: 1,
        incarnation: 1,
    };
    const PROMOTED: Epoch = Epoch {
        timeline: 2,
        ..FIRST
    };
    const ADVANCED: Epoch = Epoch {
        incarnation: 9,
        ..FIRST
    };

    fn membership(epoch: Epoch, settled: Option<Epoch>) -> Membership {
        Membership {
            epoch,
            settled,
            has_standby: true,
            members: Vec::new(),
        }
    }

    fn at(millis: u64) -> BootTime {
        BootTime::from_micros(0).plus(Duration::from_millis(millis))
    }

    /// 60 s, plus 2 %, plus 100 ms.
    const BOUND: u64 = 61_300;

    #[test]
    fn an_epoch_is_settled_once_it_is_named_or_known_for_longer_than_the_bound() {
        let mut settling = Settling::new(false);
        for epoch in [PROMOTED, ADVANCED] {
            let unnamed = membership(epoch, Some(FIRST));
            let mut left = |millis| settling.observe(&unnamed, at(millis));
            let remaining = Duration::from_millis(BOUND);
            assert_eq!(left(1_000), Err(Unsettled::TooYoung { remaining }));
            assert!(left(1_000 + BOUND).is_err(), "at the bound, not past it");
            assert_eq!(left(1_001 + BOUND), Ok(()));
            assert!(settling.has_waited(epoch, at(1_001 + BOUND)));
        }
        let mut new_process = Settling::new(false);
        let unnamed = membership(PROMOTED, None);
        assert!(new_process.observe(&unnamed, at(90_000)).is_err());
        assert!(!new_process.has_waited(PROMOTED, at(90_000)));
        let named = membership(PROMOTED, Some(PROMOTED));
        assert_eq!(new_process.observe(&named, at(90_001)), Ok(()));
    }

    #[test]
    fn a_failover_that_loses_nothing_settles_a_timeline_but_no_incarnation_and_no_system() {
        let restored = Epoch { system: 7, ..FIRST };
        let mut settling = Settling::new(true);
        let mut observe = |epoch, millis| {
            let outcome = settling.observe(&membership(epoch, Some(FIRST)), at(millis));
            outcome.is_ok()
        };
        assert!(observe(FIRST, 0) && observe(PROMOTED, 1));
        assert!(!observe(ADVANCED, 2) && !observe(restored, 3));
        assert!(observe(ADVANCED, BOUND + 3));
    }

    #[test]
    fn without_a_standby_nothing_is_settled_and_the_next_timeline_is_waited_for() {
        let mut settling = Settling::new(true);
        let named = membership(FIRST, Some(FIRST));
        let alone = Membership {
            has_standby: false,
            ..named.clone()
        };
        assert_eq!(settling.observe(&alone, at(0)), Err(Unsettled::NoStandby));
        assert_eq!(settling.observe(&named, at(1)), Ok(()));
        let promoted = membership(PROMOTED, Some(FIRST));
        assert!(settling.observe(&promoted, at(2)).is_err());
        assert_eq!(settling.observe(&promoted, at(BOUND + 1)), Ok(()));
        // Without the setting, a missing standby says nothing.
        assert_eq!(Settling::new(false).observe(&alone, at(0)), Ok(()));
    }
}
