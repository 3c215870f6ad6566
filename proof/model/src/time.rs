//! Time in the models: ages in ticks, which stop growing above all bounds. So a search covers runs of any
//! length. The core's own types judge these ages.

use std::time::Duration;

use keyward_core::fence::{Epoch, FailureDetector, Member, Membership, Now, RegistrationId};
use keyward_core::key::{BootTime, Timestamp};

/// One tick. It is longer than the margin that the core adds to a bound.
const TICK: Duration = Duration::from_secs(60);
/// An event that has not happened, or that is too long ago to matter.
pub(crate) const NEVER: u8 = u8::MAX;

/// The epoch of a model with one history.
pub(crate) const EPOCH: Epoch = Epoch {
    system: 1,
    timeline: 1,
    incarnation: 1,
};

pub(crate) fn ticks(number: u8) -> Duration {
    TICK * u32::from(number)
}

/// The boot time `age` ticks after the event whose age it is.
pub(crate) fn after(age: u8) -> BootTime {
    BootTime::default().plus(ticks(age))
}

/// Both clocks, `age` ticks before [`NOW_TICKS`].
pub(crate) fn before(age: u8) -> Now {
    let micros = i64::from(NOW_TICKS - age) * 60_000_000;
    Now {
        boot: BootTime::from_micros(micros),
        wall: Timestamp::from_micros(micros),
    }
}
const NOW_TICKS: u8 = 100;

/// The age of `then`, of which [`before`] is the reverse.
pub(crate) fn age_of(then: Now) -> u8 {
    (0..NOW_TICKS)
        .find(|age| before(*age) == then)
        .unwrap_or(NEVER)
}

/// Ages an event by one tick, up to `most`.
pub(crate) fn grow(age: &mut u8, most: u8) {
    if *age != NEVER {
        *age = (*age + 1).min(most);
    }
}

/// A member with this bound, in ticks.
pub(crate) fn member(id: u8, acked: u64, bound: u8) -> Member {
    Member {
        registration: RegistrationId::from_bytes([id; 16]),
        heartbeat: 0,
        acked,
        max_staleness: ticks(bound),
    }
}

pub(crate) fn membership(epoch: Epoch, members: Vec<Member>) -> Membership {
    Membership {
        epoch,
        settled: Some(EPOCH),
        has_standby: true,
        members,
    }
}

/// Whether a heartbeat that was first seen `age` ticks ago makes an instance unresponsive.
pub(crate) fn is_unresponsive(age: u8, bound: u8) -> bool {
    let seen = membership(EPOCH, vec![member(0, 0, bound)]);
    let mut detector = FailureDetector::default();
    detector.observe(&seen, after(0));
    age != NEVER && !detector.observe(&seen, after(age)).is_empty()
}
