//! Lists, tests and replays webhooks.

use std::sync::Arc;

use super::{Service, ServiceError};
use crate::auth::Caller;
use crate::webhooks::{Answer, Sender, rfc3339};
use keyward_core::key::KeyId;
use keyward_store::webhooks::REPLAY_STEP;
use keyward_store::{AuditAction, EventPlace, Replay, Replayed, Store, StoreError, WebhookStatus};

/// A webhook, and what waits for it.
#[derive(Clone, Debug)]
pub struct KnownWebhook {
    /// What the store knows.
    pub status: WebhookStatus,
    /// Scheme and host of its URL; `None` if this instance does not have it.
    pub url: Option<String>,
}

impl Service {
    fn webhook(&self, name: &str) -> Result<&Arc<Sender>, ServiceError> {
        let sender = self.webhooks.sender(name);
        sender.ok_or(ServiceError::WebhookNotFound)
    }

    /// Lists the webhooks that instances have named.
    pub async fn list_webhooks(self: &Arc<Self>) -> Result<Vec<KnownWebhook>, ServiceError> {
        let status = self
            .read(|service| async move { Ok(service.store.webhook_status().await?) })
            .await?;
        let known = status.into_iter().map(|status| {
            let sender = self.webhooks.sender(&status.webhook.name);
            let url = sender.map(|sender| sender.endpoint().url.origin());
            KnownWebhook { status, url }
        });
        Ok(known.collect())
    }

    /// Sends a test to a webhook. Returns the id of the event, and the answer.
    pub async fn test_webhook(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<(KeyId, Answer), ServiceError> {
        let sender = Arc::clone(self.webhook(name)?);
        self.read(|service| async move { Ok(service.webhooks.test(&sender).await) })
            .await
    }

    /// Makes events of a webhook due again, and returns their number. The audit entry is written before.
    pub async fn replay_webhook(
        self: &Arc<Self>,
        caller: &Caller,
        name: String,
        events: Replayed,
    ) -> Result<u64, ServiceError> {
        self.webhook(&name)?;
        let actor = caller.actor();
        let entry = AuditAction::WebhookReplay.entry(format!("{name} {}", described(events)));
        // In this order an event that waits follows the dead ones about its key.
        let parts = match events {
            Replayed::Dead => vec![Replayed::Dead, Replayed::Failing],
            _ => vec![events],
        };
        let until = self.store_time();
        self.change(|service| async move {
            service.store.record(entry, &actor).await?;
            let mut replayed = 0;
            for events in parts {
                let replay = Replay {
                    webhook: name.clone(),
                    events,
                    until,
                    after: EventPlace::default(),
                };
                replayed += replay_all(&*service.store, replay).await?;
            }
            Ok(replayed)
        })
        .await
    }
}

/// Replays in steps, and returns the number of events.
async fn replay_all(store: &dyn Store, mut replay: Replay) -> Result<u64, StoreError> {
    let mut replayed = 0;
    loop {
        let step = store.replay_events(&replay).await?;
        replayed += step.len() as u64;
        match step.iter().max() {
            Some(last) if step.len() as u64 == REPLAY_STEP.unsigned_abs() => replay.after = *last,
            _ => return Ok(replayed),
        }
    }
}

/// The events as the audit names them.
fn described(events: Replayed) -> String {
    match events {
        Replayed::Dead | Replayed::Failing => "dead".to_owned(),
        Replayed::Message(id) => format!("event {}", KeyId::from_bytes(id)),
        Replayed::Since(time) => format!("since {}", rfc3339(time).unwrap_or_default()),
    }
}
