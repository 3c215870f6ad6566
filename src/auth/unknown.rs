//! The names in certificates that belonged to no caller a moment ago. Without them each call of a stranger would read
//! its names from the store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward_core::key::BootTime;
use keyward_crypto::Digest;
use quick_cache::sync::Cache;

/// How long a name counts as unknown. A caller that another instance creates may be refused for so long.
const UNKNOWN_FOR: Duration = Duration::from_millis(250);
/// The maximum number of names.
const NAMES: usize = 10_000;

/// Names of no caller.
#[derive(Debug)]
pub(super) struct UnknownNames {
    reads: Cache<Digest, NameRead>,
    /// The number of callers with a name that were created here.
    created: AtomicU64,
}

/// The begin of a read of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct NameRead {
    begun: BootTime,
    created: u64,
}

impl UnknownNames {
    pub(super) fn new() -> Self {
        Self {
            reads: Cache::new(NAMES),
            created: AtomicU64::new(0),
        }
    }

    /// Begins a read at `now`.
    pub(super) fn begin(&self, now: BootTime) -> NameRead {
        NameRead {
            begun: now,
            created: self.created.load(Ordering::Acquire),
        }
    }

    /// Whether another read found no caller shortly before `read`, and no caller was created here since it began.
    pub(super) fn has(&self, name: &Digest, read: NameRead) -> bool {
        let other = self.reads.get(name);
        other.is_some_and(|other| {
            other.created == read.created && read.begun.since(other.begun) < UNKNOWN_FOR
        })
    }

    /// Notes that `read` found no caller.
    pub(super) fn note(&self, name: Digest, read: NameRead) {
        self.reads.insert(name, read);
    }

    /// A caller was created: what began before counts no more, even if it ends later.
    pub(super) fn created(&self) {
        self.created.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::key::San;

    #[test]
    fn a_name_is_unknown_for_a_short_time_and_until_a_caller_is_created() {
        let name = |text| Digest::of_san(&San::new("san", text).unwrap());
        let (one, other) = (name("a.example"), name("b.example"));
        let unknown = UnknownNames::new();
        let begun = BootTime::from_micros(1_000);
        let read = |after| unknown.begin(begun.plus(after));
        let first = read(Duration::ZERO);
        unknown.note(one, first);
        assert!(unknown.has(&one, read(UNKNOWN_FOR / 2)));
        assert!(!unknown.has(&other, first));
        assert!(!unknown.has(&one, read(UNKNOWN_FOR)));
        unknown.created();
        let second = read(Duration::ZERO);
        assert!(!unknown.has(&one, second));
        unknown.note(one, first);
        assert!(!unknown.has(&one, second), "it began before");
        unknown.note(one, second);
        assert!(unknown.has(&one, second));
    }

    #[test]
    fn many_names_take_bounded_memory() {
        let unknown = UnknownNames::new();
        for n in 0..3 * NAMES {
            let name = San::new("san", &format!("n{n}.example")).unwrap();
            unknown.note(Digest::of_san(&name), unknown.begin(BootTime::default()));
        }
        assert!(unknown.reads.len() <= NAMES);
    }
}
