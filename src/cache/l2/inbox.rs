//! Hints as they come in. Only what was made with the cache key is one, and each counts once, so that
//! whoever floods the channel, or repeats what was said there, makes nobody read the log. A flood itself
//! is not listened to for long.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use parking_lot::Mutex;
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use keyward_crypto::{CacheKey, Hint};
use keyward_ops::L2Metrics;

/// Where hints are put by the connection that hears them.
pub(super) struct Inbox {
    key: Arc<CacheKey>,
    /// This instance as a sender.
    own: u64,
    metrics: L2Metrics,
    /// The number of the last hint of each sender.
    last: Mutex<HashMap<u64, u64>>,
    news: Notify,
    /// What false hints have cost since [`Self::bear`].
    cost: AtomicU64,
    /// The connection broke, or is not to be borne.
    pub(super) broken: Notify,
}

/// Senders that are remembered; more are instances that started anew, and all are forgotten then.
const SENDERS: usize = 1_024;
/// So many hints that are false or repeated, each counted once and once more for each KiB, are borne on one connection.
const BEARABLE: u64 = 1_000;

impl Inbox {
    pub(super) fn new(key: Arc<CacheKey>, own: u64, metrics: L2Metrics) -> Self {
        Self {
            key,
            own,
            metrics,
            last: Mutex::default(),
            news: Notify::new(),
            cost: AtomicU64::new(0),
            broken: Notify::new(),
        }
    }

    /// Notes that hints may have been lost.
    pub(super) fn note_loss(&self) {
        self.metrics.hints_lost.inc();
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

    /// Waits until another instance has changed something, or may have.
    pub(super) async fn hear(&self) {
        self.news.notified().await;
    }

    fn take(&self, payload: &[u8]) {
        let Some(hint) = self.key.read_hint(payload) else {
            self.metrics.hints_forged.inc();
            return self.charge(1 + payload.len() as u64 / 1_024);
        };
        if !self.is_first(hint) {
            self.metrics.hints_repeated.inc();
            self.charge(1);
        } else if hint.sender == self.own {
            self.metrics.hints_own.inc();
        } else {
            self.metrics.hints_news.inc();
            self.news.notify_one();
        }
    }

    fn is_first(&self, hint: Hint) -> bool {
        let mut last = self.last.lock();
        if last.len() >= SENDERS && !last.contains_key(&hint.sender) {
            last.clear();
        }
        let number = last.entry(hint.sender).or_default();
        let first = *number < hint.number;
        *number = hint.number.max(*number);
        first
    }

    fn charge(&self, cost: u64) {
        if self.cost.fetch_add(cost, Ordering::SeqCst) + cost > BEARABLE {
            self.broken.notify_one();
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
    use keyward_ops::Metrics;

    fn message(payload: &[u8]) -> PushInfo {
        PushInfo {
            kind: PushKind::Message,
            data: vec![
                Value::BulkString(b"channel".to_vec()),
                Value::BulkString(payload.to_vec()),
            ],
        }
    }

    fn inbox() -> Slot {
        let metrics = Metrics::new(&[]).l2;
        Slot(Arc::new(Inbox::new(cache_key(1), 1, metrics)))
    }

    #[test]
    fn only_a_true_hint_of_another_instance_is_handed_on_and_only_once() {
        let slot = inbox();
        let heard = || slot.0.hear().now_or_never().is_some();
        let say = |payload: &[u8]| slot.send(message(payload)).unwrap();
        let hint = |sender, number| cache_key(1).seal_hint(Hint { sender, number });
        assert!(!heard());
        say(&hint(2, 1));
        say(&hint(2, 3));
        assert!(heard());
        assert!(!heard(), "what was not yet heard is heard as one");
        say(&hint(2, 2));
        say(&hint(2, 3));
        say(&hint(1, 9));
        say(&cache_key(2).seal_hint(Hint {
            sender: 3,
            number: 1,
        }));
        say(b"");
        say(&[0xff; 32]);
        assert!(!heard());
        say(&hint(3, 1));
        assert!(heard());
        let metrics = &slot.0.metrics;
        assert_eq!(metrics.hints_news.get(), 3);
        assert_eq!(metrics.hints_own.get(), 1);
        assert_eq!(metrics.hints_repeated.get(), 2);
        assert_eq!(metrics.hints_forged.get(), 3);
        slot.send(PushInfo {
            kind: PushKind::Disconnection,
            data: Vec::new(),
        })
        .unwrap();
        assert!(heard(), "some may be lost");
    }

    #[test]
    fn a_flood_is_not_borne_whether_it_is_invented_or_repeated_or_huge() {
        let hint = cache_key(1).seal_hint(Hint {
            sender: 2,
            number: 1,
        });
        let (small, huge) = (vec![0; 32], vec![0; 1 << 20]);
        let floods = [
            (&hint[..], BEARABLE + 2),
            (&small[..], BEARABLE + 1),
            (&huge[..], 1),
        ];
        for (payload, times) in floods {
            let slot = inbox();
            for _ in 1..times {
                slot.send(message(payload)).unwrap();
            }
            assert!(!slot.0.is_flooded());
            slot.send(message(payload)).unwrap();
            assert!(slot.0.is_flooded());
            assert!(slot.0.broken.notified().now_or_never().is_some());
            slot.0.bear();
            assert!(!slot.0.is_flooded());
        }
    }
}
