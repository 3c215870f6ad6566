//! What callers saw, by one monotonic clock, and whether it keeps the promise.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use keyward_proto::v1::Verdict;

/// The one clock of a history.
#[expect(
    clippy::disallowed_methods,
    reason = "the callers' clock, which no service reads"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A key and its end.
#[derive(Debug, Default)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) text: String,
    /// Before the call that ends it was sent: until then it lives.
    pub(crate) dying: OnceLock<Instant>,
    /// The promise holds from here on: the call returned, and its grace is over.
    pub(crate) dead: OnceLock<Instant>,
    /// Somebody has seen it VALID.
    pub(crate) seen_valid: AtomicBool,
}

impl Key {
    pub(crate) fn new((id, text): (String, String)) -> Self {
        Self {
            id,
            text,
            ..Self::default()
        }
    }
}

/// One answer to a Verify; no verdict when the call was UNAVAILABLE.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) key: Arc<Key>,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) verdict: Option<Verdict>,
}

impl Seen {
    pub(crate) fn new(key: Arc<Key>, began: Instant, verdict: Option<Verdict>) -> Self {
        if verdict == Some(Verdict::Valid) {
            key.seen_valid.store(true, Ordering::Relaxed);
        }
        Self {
            key,
            began,
            ended: now(),
            verdict,
        }
    }

    /// P2: VALID, though the call began after the key was promised dead.
    fn breaks_the_promise(&self) -> bool {
        let dead = self.key.dead.get();
        self.verdict == Some(Verdict::Valid) && dead.is_some_and(|dead| self.began > *dead)
    }

    /// A verdict against a key that lived: the answer came before anybody had asked for its end.
    fn slanders(&self) -> bool {
        let dying = self.key.dying.get();
        self.verdict
            .is_some_and(|verdict| verdict != Verdict::Valid)
            && dying.is_none_or(|dying| self.ended < *dying)
    }
}

/// What is wrong with a history; empty if nothing is.
pub(crate) fn faults(history: &[Seen]) -> Vec<String> {
    let late = |seen: &Seen| {
        let dead = seen.key.dead.get()?;
        Some(seen.began.saturating_duration_since(*dead))
    };
    history
        .iter()
        .filter_map(|seen| {
            let id = &seen.key.id;
            if seen.breaks_the_promise() {
                let late = late(seen).unwrap_or(Duration::ZERO);
                Some(format!(
                    "{id}: VALID to a call that began {late:?} after its end"
                ))
            } else if seen.slanders() {
                Some(format!("{id}: {:?}, though it lived", seen.verdict))
            } else {
                None
            }
        })
        .collect()
}

/// How often each verdict was given; UNAVAILABLE under `None`.
pub(crate) fn count(history: &[Seen]) -> BTreeMap<Option<i32>, usize> {
    let mut counts = BTreeMap::new();
    for seen in history {
        *counts
            .entry(seen.verdict.map(|verdict| verdict as i32))
            .or_default() += 1;
    }
    counts
}

mod the_checker {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A key that is asked to die at 10 ms and promised dead from 20 ms on.
    fn key(zero: Instant) -> Arc<Key> {
        let key = Key::default();
        key.dying.set(zero + 10 * MS).unwrap();
        key.dead.set(zero + 20 * MS).unwrap();
        Arc::new(key)
    }

    fn faults_of(began: u32, ended: u32, verdict: Option<Verdict>) -> usize {
        let zero = now();
        let seen = Seen {
            key: key(zero),
            began: zero + began * MS,
            ended: zero + ended * MS,
            verdict,
        };
        faults(&[seen]).len()
    }

    #[test]
    fn finds_a_planted_violation() {
        assert_eq!(faults_of(21, 22, Some(Verdict::Valid)), 1);
        let zero = now();
        let mut history: Vec<_> = (0..1_000)
            .map(|_| Seen::new(key(zero), zero, Some(Verdict::Valid)))
            .collect();
        assert!(faults(&history).is_empty());
        history[500].began = zero + 21 * MS;
        assert_eq!(faults(&history).len(), 1);
    }

    #[test]
    fn allows_what_the_promise_allows() {
        assert_eq!(faults_of(1, 2, Some(Verdict::Valid)), 0, "it lives");
        assert_eq!(
            faults_of(19, 30, Some(Verdict::Valid)),
            0,
            "it began before"
        );
        assert_eq!(faults_of(11, 12, Some(Verdict::Revoked)), 0, "it is dying");
        assert_eq!(faults_of(21, 22, Some(Verdict::Revoked)), 0, "it is dead");
        assert_eq!(faults_of(1, 2, None), 0, "UNAVAILABLE is no verdict");
    }

    #[test]
    fn finds_a_live_key_called_dead() {
        assert_eq!(faults_of(1, 2, Some(Verdict::Revoked)), 1);
        assert_eq!(faults_of(1, 2, Some(Verdict::NotFound)), 1);
        let seen = Seen::new(Arc::<Key>::default(), now(), Some(Verdict::NotFound));
        assert_eq!(faults(&[seen]).len(), 1, "nobody ever asked for its end");
    }
}
