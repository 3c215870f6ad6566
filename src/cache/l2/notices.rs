//! The change notices between instances, by Redis publish and subscribe. A notice may be lost: the
//! heartbeat finds the change later. Notices arrive on their own connection, so that a flood of them
//! does not delay entries.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::link::{CONNECT, Link, is_refusal};
use super::notice_receiver::NoticeReceiver;
use super::servers::Servers;
use super::{Background, PREFIX};
use keyward_core::key::Entropy;
use keyward_crypto::{CacheKey, NoticeId};
use keyward_ops::L2Metrics;

/// The interval at which the subscribed connection is probed. A connection through a dead network
/// reports nothing by itself.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The pause before the next connection.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// The additional pause after a flood of false notices.
const FLOOD_PAUSE: Duration = Duration::from_secs(10);

/// Sends and receives change notices.
pub struct ChangeNotices {
    receiver: Arc<NoticeReceiver>,
    /// Notified when a notice is to be published.
    publish: Arc<Notify>,
}

impl ChangeNotices {
    /// Starts the tasks in the background. Notices are published over `link` and
    /// received over a connection to `servers`.
    pub(super) fn start(
        link: Arc<Link>,
        servers: Servers,
        key: Arc<CacheKey>,
        entropy: &dyn Entropy,
        metrics: L2Metrics,
        background: &Background<'_>,
    ) -> Arc<Self> {
        let mut sender = [0; 8];
        entropy.fill(&mut sender);
        let sender = u64::from_be_bytes(sender);
        let receiver = Arc::new(NoticeReceiver::new(Arc::clone(&key), sender, metrics));
        let publish = Arc::new(Notify::new());
        let channel = format!("{PREFIX}{}", key.channel());
        let receiving = receive_all(servers, Arc::clone(&receiver), channel.clone());
        background.spawn("receiver of redis notices", receiving);
        let publishing = publish_all(link, Arc::clone(&publish), key, sender, channel);
        background.spawn("sender of redis notices", publishing);
        Arc::new(Self { receiver, publish })
    }

    /// Publishes a notice to all instances, without waiting for the result.
    pub fn publish(&self) {
        self.publish.notify_one();
    }

    /// Waits for a notice of another instance, or for a possible loss of one.
    pub async fn wait(&self) {
        self.receiver.wait().await;
    }
}

impl std::fmt::Debug for ChangeNotices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChangeNotices")
    }
}

/// Publishes one notice at a time. Changes during a publish share the next notice.
async fn publish_all(
    link: Arc<Link>,
    publish: Arc<Notify>,
    key: Arc<CacheKey>,
    sender: u64,
    channel: String,
) {
    for number in 1.. {
        publish.notified().await;
        let notice = key.sign_notice(NoticeId { sender, number });
        let channel = channel.as_str();
        let published =
            link.call(|connection| async move { connection.publish(channel, &notice).await });
        if published.await.is_err() {
            tracing::debug!("a change notice was not published; the heartbeats find the change");
        }
    }
}

async fn receive_all(servers: Servers, receiver: Arc<NoticeReceiver>, channel: String) {
    let mut is_flood_logged = false;
    let mut refusal = String::new();
    loop {
        receiver.start_connection();
        let subscribed = timeout(servers.patience(), async {
            let mut connection = servers.connect(Some(&receiver)).await?;
            connection.subscribe(&channel).await?;
            redis::RedisResult::Ok(connection)
        });
        let subscribed = subscribed.await;
        // An unreachable server is logged for the other connection.
        if let Ok(Err(error)) = &subscribed
            && is_refusal(error)
        {
            let why = servers.explain(error);
            if why != refusal {
                tracing::warn!("redis refuses the subscription to change notices: {why}");
                refusal = why;
            }
        }
        if let Ok(Ok(connection)) = subscribed {
            refusal.clear();
            // Notices from before the subscription are lost.
            receiver.note_loss();
            loop {
                tokio::select! {
                    () = tokio::time::sleep(PROBE_INTERVAL) => {}
                    () = receiver.broken.notified() => break,
                }
                let probe = timeout(CONNECT, connection.clone().ping());
                if !matches!(probe.await, Ok(Ok(()))) {
                    receiver.note_loss();
                    break;
                }
            }
        }
        if receiver.is_flooded() {
            if !std::mem::replace(&mut is_flood_logged, true) {
                tracing::error!(
                    "false notices flood the channel in redis: this instance subscribes only now \
                     and then, and relies on the notices of the store (keyward_l2_hints_total, \
                     kind forged)"
                );
            }
            tokio::time::sleep(FLOOD_PAUSE).await;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}
