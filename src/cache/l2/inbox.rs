//! Hints as they come in. Only what was made with the cache key is one, and of those only the highest
//! revision counts, so that whoever floods the channel makes nobody read the log. A flood itself is not
//! listened to for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::FutureExt;
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use crate::crypto::CacheKey;
use crate::telemetry::L2Metrics;

/// What came of waiting for a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The log has reached this revision.
    Reached(u64),
    /// Hints may have been lost: look.
    Lost,
}

/// Where hints are put by the connection that hears them.
pub(super) struct Inbox {
    key: Arc<CacheKey>,
    metrics: L2Metrics,
    highest: AtomicU64,
    /// The highest that was handed on.
    told: AtomicU64,
    lost: AtomicBool,
    news: Notify,
    /// What false hints have cost since [`Self::bear`].
    cost: AtomicU64,
    /// The connection broke, or is not to be borne.
    pub(super) broken: Notify,
}

/// So many false hints, each counted once and once more for each KiB, are borne on one connection.
const BEARABLE: u64 = 1_000;

impl Inbox {
    pub(super) fn new(key: Arc<CacheKey>, metrics: L2Metrics) -> Self {
        Self {
            key,
            metrics,
            highest: AtomicU64::new(0),
            told: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            news: Notify::new(),
            cost: AtomicU64::new(0),
            broken: Notify::new(),
        }
    }

    /// Notes that hints may have been lost.
    pub(super) fn note_loss(&self) {
        self.metrics.hints_lost.inc();
        self.lost.store(true, Ordering::SeqCst);
        self.news.notify_one();
    }

    /// Begins to count anew what false hints cost: there is a new connection.
    pub(super) fn bear(&self) {
        self.cost.store(0, Ordering::SeqCst);
        // What was said of the one before does not count.
        let _ = self.broken.notified().now_or_never();
    }

    /// Whether the connection must be left: somebody floods it.
    pub(super) fn is_flooded(&self) -> bool {
        self.cost.load(Ordering::SeqCst) > BEARABLE
    }

    /// Waits for a hint that says more than those before.
    pub(super) async fn hear(&self) -> Told {
        loop {
            if self.lost.swap(false, Ordering::SeqCst) {
                return Told::Lost;
            }
            let highest = self.highest.load(Ordering::SeqCst);
            if self.told.fetch_max(highest, Ordering::SeqCst) < highest {
                return Told::Reached(highest);
            }
            self.news.notified().await;
        }
    }

    fn take(&self, payload: &[u8]) {
        match self.key.read_hint(payload) {
            Some(revision) if self.highest.fetch_max(revision, Ordering::SeqCst) < revision => {
                self.metrics.hints_news.inc();
                self.news.notify_one();
            }
            Some(_) => {
                self.metrics.hints_known.inc();
            }
            None => {
                self.metrics.hints_forged.inc();
                let cost = 1 + payload.len() as u64 / 1_024;
                if self.cost.fetch_add(cost, Ordering::SeqCst) + cost > BEARABLE {
                    self.broken.notify_one();
                }
            }
        }
    }
}

/// The inbox as the driver takes it. It must never block.
pub(super) struct Slot(pub(super) Arc<Inbox>);

impl AsyncPushSender for Slot {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        match (&push.kind, &push.data[..]) {
            (PushKind::Message, [_, Value::BulkString(payload)]) => self.0.take(payload),
            (PushKind::Disconnection, _) => {
                self.0.note_loss();
                self.0.broken.notify_one();
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::l2::testing::cache_key;
    use crate::telemetry::Metrics;

    fn message(payload: &[u8]) -> PushInfo {
        PushInfo {
            kind: PushKind::Message,
            data: vec![
                Value::BulkString(b"channel".to_vec()),
                Value::BulkString(payload.to_vec()),
            ],
        }
    }

    #[test]
    fn only_a_true_hint_that_says_more_is_handed_on() {
        let key = cache_key(1);
        let metrics = Metrics::new(&[]).l2;
        let slot = Slot(Arc::new(Inbox::new(Arc::clone(&key), metrics)));
        let heard = || slot.0.hear().now_or_never();
        let say = |payload: &[u8]| slot.send(message(payload)).unwrap();
        assert_eq!(heard(), None);
        say(&key.hint(5));
        say(&key.hint(9));
        say(&key.hint(7));
        assert_eq!(heard(), Some(Told::Reached(9)));
        say(&key.hint(9));
        say(&cache_key(2).hint(100));
        say(b"");
        say(&[0xff; 24]);
        say(&vec![0; 1 << 20]);
        assert_eq!(heard(), None);
        assert_eq!(slot.0.metrics.hints_forged.get(), 4);
        assert!(slot.0.is_flooded(), "a huge one counts for its size");
        slot.0.bear();
        assert!(!slot.0.is_flooded());
        assert_eq!(slot.0.metrics.hints_known.get(), 2);
        slot.send(PushInfo {
            kind: PushKind::Disconnection,
            data: Vec::new(),
        })
        .unwrap();
        assert_eq!(heard(), Some(Told::Lost));
        assert_eq!(heard(), None);
    }
}
