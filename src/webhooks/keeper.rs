//! Keeps the webhooks known to the store, tells keys that expire soon, and measures what waits.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Webhooks;
use crate::replication::repeat;
use keyward_ops::{Metrics, WebhookMetrics};
use keyward_store::webhooks::FIRST_PLACE;
use keyward_store::{EventKind, Result, Store};

/// Much less than the time after which the store forgets a webhook.
const INTERVAL: Duration = Duration::from_secs(15);

/// Keeps the webhooks of one instance.
pub(super) struct Keeper {
    webhooks: Arc<Webhooks>,
    store: Arc<dyn Store>,
    notice: Duration,
    metrics: Vec<(String, WebhookMetrics)>,
}

impl Keeper {
    pub(super) fn new(
        webhooks: Arc<Webhooks>,
        store: &Arc<dyn Store>,
        notice: Duration,
        metrics: &Metrics,
    ) -> Self {
        let names = webhooks.endpoints().map(|endpoint| &endpoint.name);
        let metrics = names.map(|name| (name.clone(), metrics.webhooks.webhook(name)));
        Self {
            metrics: metrics.collect(),
            webhooks,
            store: Arc::clone(store),
            notice,
        }
    }

    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let watching = async {
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                // The store's calls are logged where they fail.
                let _ = self.webhooks.announce(&*self.store).await;
                let _ = self.measure().await;
            }
        };
        let mut endpoints = self.webhooks.endpoints();
        let is_told = endpoints.any(|endpoint| endpoint.events.contains(&EventKind::Expiring));
        let telling = async {
            if is_told {
                let place = Mutex::new(FIRST_PLACE);
                let step = || async {
                    let begin = *place.lock();
                    let step = self.store.note_expiring(self.notice, begin).await?;
                    *place.lock() = step.next;
                    Ok(step.noted)
                };
                repeat(INTERVAL, "told keys that expire soon", stop.clone(), step).await;
            }
        };
        tokio::join!(watching, telling);
    }

    async fn measure(&self) -> Result<()> {
        let now = self.webhooks.clock.wall();
        for status in self.store.webhook_status().await? {
            let mut metrics = self.metrics.iter();
            let known = metrics.find(|(name, _)| *name == status.webhook.name);
            if let Some((_, metrics)) = known {
                let age = status
                    .oldest
                    .map_or(Duration::ZERO, |oldest| now.since(oldest));
                let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
                metrics.waiting.set(number(status.waiting));
                metrics.oldest_age.set(number(age.as_secs()));
                metrics.dead.set(number(status.dead));
                metrics.gone.set(i64::from(status.is_gone));
            }
        }
        Ok(())
    }
}
