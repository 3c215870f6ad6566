//! The use of keys, noted in memory. A hit stores its second in the entry of the key; once in a while
//! [`Uses::collect`] takes what is noted, for the store. What an entry still holds when it leaves the cache
//! is kept here, so that no use depends on the size of the cache.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::{ForeignKeys, KeptKey, L1};
use keyward_core::key::{KeyId, KeyRecord, KeyUse, Timestamp};

/// The most keys whose use is kept outside their entries.
const MOST_KEPT: usize = 100_000;

/// The use of a key since it was taken last. Threads share it. A second of use is stored once.
#[derive(Debug)]
pub(super) struct UseMark {
    /// The second of the last use, since 1970; 0 without one.
    used: AtomicU32,
    /// The part of `used` that was taken.
    taken: AtomicU32,
    refused: AtomicU32,
    /// The second of the last refusal.
    refused_at: AtomicU32,
    uses: Arc<Uses>,
}

impl UseMark {
    pub(super) fn new(uses: &Arc<Uses>) -> Self {
        Self {
            used: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            refused: AtomicU32::new(0),
            refused_at: AtomicU32::new(0),
            uses: Arc::clone(uses),
        }
    }

    pub(super) fn note_use(&self, at: Timestamp) {
        let second = second(at);
        // Most hits find the second noted, and leave the memory that threads share as it is.
        if self.used.load(Ordering::Relaxed) < second {
            self.used.store(second, Ordering::Relaxed);
        }
    }

    pub(super) fn note_refusal(&self, at: Timestamp) {
        self.refused_at.fetch_max(second(at), Ordering::Relaxed);
        // Whoever takes the count sees its time.
        self.refused.fetch_add(1, Ordering::Release);
    }

    fn is_noted(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.taken.load(Ordering::Relaxed)
            || self.refused.load(Ordering::Relaxed) > 0
    }

    /// Takes what was noted. Only one thread does so at a time: [`Uses::collect`] while the entry lives,
    /// and the one that drops it.
    fn take(&self) -> Option<KeyUse> {
        if !self.is_noted() {
            return None;
        }
        let used = self.used.load(Ordering::Relaxed);
        self.taken.store(used, Ordering::Relaxed);
        let refused = self.refused.swap(0, Ordering::Acquire);
        let refused_at = self.refused_at.load(Ordering::Relaxed);
        Some(KeyUse {
            last_use: time(used),
            refused: refused.into(),
            last_refused: time(refused_at),
        })
    }

    /// Keeps what was noted for the key `id`, whose entry ends.
    pub(super) fn leave(&self, id: KeyId) {
        if let Some(noted) = self.take() {
            self.uses.report(id, noted);
        }
    }
}

fn second(at: Timestamp) -> u32 {
    u32::try_from(at.as_micros() / 1_000_000).unwrap_or(0)
}

fn time(second: u32) -> Option<Timestamp> {
    (second > 0).then(|| Timestamp::from_micros(i64::from(second) * 1_000_000))
}

/// A part of all keys. Each key is in one of `of` parts.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The number of parts.
    pub of: usize,
    /// Which part, counted from 0; larger numbers begin anew.
    pub turn: usize,
    /// The most keys to take.
    pub most: usize,
}

impl Share {
    /// All keys.
    pub const ALL: Self = Self {
        of: 1,
        turn: 0,
        most: usize::MAX,
    };

    fn has(&self, id: KeyId) -> bool {
        // The last bytes of an id are random.
        let [.., a, b, c, d] = *id.as_bytes();
        let random = u32::from_be_bytes([a, b, c, d]);
        usize::try_from(random).unwrap_or(0) % self.of == self.turn % self.of
    }
}

/// What [`Uses::collect`] has found.
#[derive(Debug, Default)]
pub struct Collected {
    /// The use that was taken.
    pub taken: HashMap<KeyId, KeyUse>,
    /// The number of keys that had some.
    pub noted: usize,
}

/// The use of keys that no entry in memory holds.
#[derive(Debug)]
pub struct Uses {
    kept: Mutex<HashMap<KeyId, KeyUse>>,
    dropped: Counter,
}

impl Uses {
    /// Counts in `dropped` the keys whose use could not be kept.
    pub fn new(dropped: Counter) -> Self {
        Self {
            kept: Mutex::default(),
            dropped,
        }
    }

    /// Notes use that no entry of the cache holds: its entry has left, it could not be written, or a
    /// caller that keeps records itself reports it.
    pub fn report(&self, id: KeyId, noted: KeyUse) {
        let mut kept = self.kept.lock();
        if kept.len() < MOST_KEPT || kept.contains_key(&id) {
            kept.entry(id).or_default().add(&noted);
        } else {
            self.dropped.inc();
        }
    }

    /// Takes what is kept here, and from the entries of the caches the `share`. The use of the other keys
    /// stays in their entries. Visits every entry, which takes long: run it on a thread of its own.
    pub fn collect(
        &self,
        keys: &L1<KeyRecord>,
        foreign: &L1<ForeignKeys>,
        share: Share,
    ) -> Collected {
        let taken = std::mem::take(&mut *self.kept.lock());
        let mut collected = Collected {
            noted: taken.len(),
            taken,
        };
        let mut visit = |key: &KeptKey| collected.visit(key, share);
        keys.each(|entry| visit(entry.kept()));
        foreign.each(|entry| entry.kept().keys().iter().for_each(&mut visit));
        collected
    }
}

impl Collected {
    fn visit(&mut self, key: &KeptKey, share: Share) {
        if !key.mark.is_noted() {
            return;
        }
        self.noted += 1;
        if self.taken.len() < share.most
            && share.has(key.id)
            && let Some(noted) = key.mark.take()
        {
            self.taken.entry(key.id).or_default().add(&noted);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::cache::tests::{at as stamp, key};
    use crate::cache::{Entry, KeptAnswer};
    use keyward_crypto::Digest;

    fn uses() -> Arc<Uses> {
        Arc::new(Uses::new(Counter::default()))
    }

    const fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000 + 999_999)
    }

    fn on(second: i64) -> Option<Timestamp> {
        Some(Timestamp::from_micros(second * 1_000_000))
    }

    #[test]
    fn what_is_noted_is_taken_once() {
        let mark = UseMark::new(&uses());
        assert_eq!(mark.take(), None);
        mark.note_use(at(7));
        mark.note_use(at(9));
        // A slower thread.
        mark.note_use(at(8));
        mark.note_refusal(at(6));
        mark.note_refusal(at(5));
        let expected = KeyUse {
            last_use: on(9),
            refused: 2,
            last_refused: on(6),
        };
        assert_eq!(mark.take(), Some(expected));
        assert_eq!(mark.take(), None);
        mark.note_use(at(9));
        assert_eq!(mark.take(), None, "this second was taken");
        mark.note_use(at(10));
        assert_eq!(mark.take().unwrap().last_use, on(10));
    }

    #[test]
    fn no_refusal_is_lost_or_taken_twice_while_threads_count() {
        const EACH: u64 = 20_000;
        let mark = UseMark::new(&uses());
        let mut taken = KeyUse::default();
        thread::scope(|scope| {
            let counting = [1, 2, 3].map(|_| {
                scope.spawn(|| (0..EACH).for_each(|second| mark.note_refusal(at(second as i64))))
            });
            while counting.iter().any(|thread| !thread.is_finished()) {
                mark.take().iter().for_each(|noted| taken.add(noted));
            }
        });
        mark.take().iter().for_each(|noted| taken.add(noted));
        assert_eq!(taken.refused, 3 * EACH);
        assert_eq!(taken.last_refused, on(EACH as i64 - 1));
    }

    #[test]
    fn an_entry_that_ends_leaves_its_use_behind() {
        let uses = uses();
        let key = KeptKey::new(&key(1), KeptAnswer::default(), &uses);
        key.note_use(at(7));
        let id = key.id;
        drop(key);
        uses.report(
            id,
            KeyUse {
                last_use: on(5),
                ..KeyUse::default()
            },
        );
        let (keys, foreign) = (L1::new(1 << 16), L1::new(1 << 16));
        let collected = uses.collect(&keys, &foreign, Share::ALL);
        assert_eq!(collected.taken[&id].last_use, on(7));
        assert!(uses.collect(&keys, &foreign, Share::ALL).taken.is_empty());
    }

    #[test]
    fn kept_use_is_bounded_and_what_is_dropped_counts() {
        let uses = uses();
        let noted = KeyUse {
            last_use: on(1),
            ..KeyUse::default()
        };
        let id = |number: u128| KeyId::from_bytes(number.to_be_bytes());
        let most = MOST_KEPT as u128;
        (0..most + 10).for_each(|number| uses.report(id(number), noted));
        assert_eq!(uses.dropped.get(), 10);
        // A key that is there already takes no place.
        uses.report(id(0), noted);
        assert_eq!(uses.dropped.get(), 10);
        assert_eq!(uses.kept.lock().len(), MOST_KEPT);
    }

    #[test]
    fn each_key_is_in_one_share_and_the_rest_stays() {
        let (uses, keys, foreign) = (uses(), L1::new(4 << 20), L1::new(1 << 16));
        for number in 0..1_000 {
            let kept = KeptKey::new(&key(number), KeptAnswer::default(), &uses);
            kept.note_use(at(3));
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&number.to_be_bytes());
            keys.insert(
                Digest::from_bytes(digest),
                Arc::new(Entry::new(kept, stamp(1))),
            );
        }
        let mut taken = 0;
        for turn in 7..10 {
            let share = Share {
                of: 3,
                turn,
                most: 1_000,
            };
            let collected = uses.collect(&keys, &foreign, share);
            assert_eq!(collected.noted, 1_000 - taken);
            taken += collected.taken.len();
        }
        assert_eq!(taken, 1_000);
        assert_eq!(uses.collect(&keys, &foreign, Share::ALL).noted, 0);
    }
}
