//! The names in certificates that belonged to no caller a moment ago. Without them each call of a stranger would read
//! its names from the store.

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
pub(super) struct UnknownNames(Cache<Digest, BootTime>);

impl UnknownNames {
    pub(super) fn new() -> Self {
        Self(Cache::new(NAMES))
    }

    /// Whether a read that began shortly before `now` found no caller.
    pub(super) fn has(&self, name: &Digest, now: BootTime) -> bool {
        let read = self.0.get(name);
        read.is_some_and(|read| now.since(read) < UNKNOWN_FOR)
    }

    /// Notes that a read that began at `begun` found no caller.
    pub(super) fn note(&self, name: Digest, begun: BootTime) {
        self.0.insert(name, begun);
    }

    /// The name belongs to a caller now.
    pub(super) fn forget(&self, name: &Digest) {
        self.0.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::key::San;

    #[test]
    fn a_name_is_unknown_for_a_short_time_and_until_it_has_a_caller() {
        let name = |text| Digest::of_san(&San::new("san", text).unwrap());
        let (one, other) = (name("a.example"), name("b.example"));
        let unknown = UnknownNames::new();
        let begun = BootTime::from_micros(1_000);
        unknown.note(one, begun);
        assert!(unknown.has(&one, begun.plus(UNKNOWN_FOR / 2)));
        assert!(!unknown.has(&other, begun));
        assert!(!unknown.has(&one, begun.plus(UNKNOWN_FOR)));
        unknown.forget(&one);
        assert!(!unknown.has(&one, begun));
    }

    #[test]
    fn many_names_take_bounded_memory() {
        let unknown = UnknownNames::new();
        for n in 0..3 * NAMES {
            let name = San::new("san", &format!("n{n}.example")).unwrap();
            unknown.note(Digest::of_san(&name), BootTime::default());
        }
        assert!(unknown.0.len() <= NAMES);
    }
}
