//! The check of received change notices. A notice must be signed with the cache key, and each counts
//! once: forged and repeated notices wake no instance. A flood of them ends the subscription for a
//! while.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;
use parking_lot::Mutex;
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;

use keyward_crypto::{CacheKey, NoticeId};
use keyward_ops::L2Metrics;

/// Checks the notices that the subscribed connection receives.
pub(super) struct NoticeReceiver {
    key: Arc<CacheKey>,
    /// This instance's number as a sender.
    own_sender: u64,
    metrics: L2Metrics,
    /// The highest notice number of each sender.
    highest: Mutex<HashMap<u64, u64>>,
    wake: Notify,
    /// The cost of false notices on this connection: one each, plus one for each KiB.
    flood_cost: AtomicU64,
    /// Notified when the connection has broken or is flooded.
    pub(super) broken: Notify,
}

/// The most senders in memory. Each start of an instance is a new sender; at the limit all are
/// forgotten.
const MAX_SENDERS: usize = 1_024;
/// The highest cost of false notices on one connection.
const MAX_FLOOD_COST: u64 = 1_000;

impl NoticeReceiver {
    pub(super) fn new(key: Arc<CacheKey>, own_sender: u64, metrics: L2Metrics) -> Self {
        Self {
            key,
            own_sender,
            metrics,
            highest: Mutex::default(),
            wake: Notify::new(),
            flood_cost: AtomicU64::new(0),
            broken: Notify::new(),
        }
    }

    /// Notes that notices may have been lost.
    pub(super) fn note_loss(&self) {
        self.metrics.hints_lost.inc();
        self.wake.notify_one();
    }

    /// Resets the state of the connection, because a new one begins.
    pub(super) fn start_connection(&self) {
        self.flood_cost.store(0, Ordering::SeqCst);
        // A report about the previous connection does not count.
        let _ = self.broken.notified().now_or_never();
    }

    /// Whether false notices flood the connection.
    pub(super) fn is_flooded(&self) -> bool {
        self.flood_cost.load(Ordering::SeqCst) > MAX_FLOOD_COST
    }

    /// Waits for a notice of another instance, or for a possible loss of one.
    pub(super) async fn wait(&self) {
        self.wake.notified().await;
    }

    fn receive(&self, payload: &[u8]) {
        let Some(notice) = self.key.verify_notice(payload) else {
            self.metrics.hints_forged.inc();
            return self.charge(1 + payload.len() as u64 / 1_024);
        };
        if !self.is_new(notice) {
            self.metrics.hints_repeated.inc();
            self.charge(1);
        } else if notice.sender == self.own_sender {
            self.metrics.hints_own.inc();
        } else {
            self.metrics.hints_news.inc();
            self.wake.notify_one();
        }
    }

    fn is_new(&self, notice: NoticeId) -> bool {
        let mut highest = self.highest.lock();
        if highest.len() >= MAX_SENDERS && !highest.contains_key(&notice.sender) {
            highest.clear();
        }
        let number = highest.entry(notice.sender).or_default();
        let is_new = *number < notice.number;
        *number = notice.number.max(*number);
        is_new
    }

    fn charge(&self, cost: u64) {
        if self.flood_cost.fetch_add(cost, Ordering::SeqCst) + cost > MAX_FLOOD_COST {
            self.broken.notify_one();
        }
    }
}

/// The receiver in the form that the driver needs. It never blocks.
pub(super) struct PushSink(pub(super) Arc<NoticeReceiver>);

impl AsyncPushSender for PushSink {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        match (&push.kind, &push.data[..]) {
            (PushKind::Message, [_, Value::BulkString(payload)]) => self.0.receive(payload),
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

    fn sink() -> PushSink {
        let metrics = Metrics::new(&[]).l2;
        PushSink(Arc::new(NoticeReceiver::new(cache_key(1), 1, metrics)))
    }

    #[test]
    fn only_a_new_genuine_notice_of_another_instance_wakes() {
        let sink = sink();
        let is_woken = || sink.0.wait().now_or_never().is_some();
        let send = |payload: &[u8]| sink.send(message(payload)).unwrap();
        let notice = |sender, number| cache_key(1).sign_notice(NoticeId { sender, number });
        assert!(!is_woken());
        send(&notice(2, 1));
        send(&notice(2, 3));
        assert!(is_woken());
        assert!(!is_woken(), "waiting notices wake once");
        send(&notice(2, 2));
        send(&notice(2, 3));
        send(&notice(1, 9));
        send(&cache_key(2).sign_notice(NoticeId {
            sender: 3,
            number: 1,
        }));
        send(b"");
        send(&[0xff; 32]);
        assert!(!is_woken());
        send(&notice(3, 1));
        assert!(is_woken());
        let metrics = &sink.0.metrics;
        assert_eq!(metrics.hints_news.get(), 3);
        assert_eq!(metrics.hints_own.get(), 1);
        assert_eq!(metrics.hints_repeated.get(), 2);
        assert_eq!(metrics.hints_forged.get(), 3);
        sink.send(PushInfo {
            kind: PushKind::Disconnection,
            data: Vec::new(),
        })
        .unwrap();
        assert!(is_woken(), "a disconnection may lose notices");
    }

    #[test]
    fn a_flood_of_repeated_or_forged_or_huge_notices_is_detected() {
        let repeated = cache_key(1).sign_notice(NoticeId {
            sender: 2,
            number: 1,
        });
        let (small, huge) = (vec![0; 32], vec![0; 1 << 20]);
        let floods = [
            (&repeated[..], MAX_FLOOD_COST + 2),
            (&small[..], MAX_FLOOD_COST + 1),
            (&huge[..], 1),
        ];
        for (payload, times) in floods {
            let sink = sink();
            for _ in 1..times {
                sink.send(message(payload)).unwrap();
            }
            assert!(!sink.0.is_flooded());
            sink.send(message(payload)).unwrap();
            assert!(sink.0.is_flooded());
            assert!(sink.0.broken.notified().now_or_never().is_some());
            sink.0.start_connection();
            assert!(!sink.0.is_flooded());
        }
    }
}
