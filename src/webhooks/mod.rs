//! Sends the events of the store's outbox to webhooks, as <https://www.standardwebhooks.com> describes. Each
//! webhook has a task of its own, so that none waits for another.

mod delivery;
mod keeper;
mod message;
mod schedule;
mod secret;
mod sender;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use keyward_core::key::{Clock, Entropy, KeyId};
use keyward_ops::settings::values::Url;
use keyward_ops::{Metrics, Tasks};
use keyward_store::{EventKind, Store, StoreError, Webhook};
pub(crate) use message::rfc3339;
pub use secret::check as check_secret;
pub use sender::{Answer, Sender};

/// A webhook in the settings.
#[derive(Clone)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// Where events are sent.
    pub url: Url,
    /// The file of the secret that signs them.
    pub secret_file: PathBuf,
    /// The events that are sent.
    pub events: Vec<EventKind>,
}

/// The path of a URL can be a secret.
impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({} {})", self.name, self.url.origin())
    }
}

/// The webhooks of this instance.
pub struct Webhooks {
    senders: Vec<Arc<Sender>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Webhooks {
    /// Sends events to `endpoints`. An attempt ends after `timeout`.
    ///
    /// # Errors
    ///
    /// A secret that cannot be read, or TLS that cannot be set up.
    pub fn new(
        endpoints: &[Endpoint],
        timeout: Duration,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, String> {
        let mut senders = Vec::new();
        for endpoint in endpoints {
            secret::check(endpoint)?;
            let sender = Sender::new(endpoint.clone(), timeout, Arc::clone(&clock))?;
            senders.push(Arc::new(sender));
        }
        Ok(Self {
            senders,
            clock,
            entropy,
        })
    }

    /// The webhooks in the settings.
    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.senders.iter().map(|sender| sender.endpoint())
    }

    /// Has the store write events for the webhooks from now on.
    async fn announce(&self, store: &dyn Store) -> Result<(), StoreError> {
        let webhooks = self.endpoints().map(|endpoint| Webhook {
            name: endpoint.name.clone(),
            events: endpoint.events.clone(),
        });
        match webhooks.collect::<Vec<_>>() {
            none if none.is_empty() => Ok(()),
            webhooks => store.name_webhooks(&webhooks).await,
        }
    }

    /// Has the store write events for the webhooks from now on. A store that cannot be written, for example on a
    /// full disk, stops no start if it knows them from an earlier one.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn announce_first(&self, store: &dyn Store) -> Result<(), StoreError> {
        let Err(error) = self.announce(store).await else {
            return Ok(());
        };
        let known = store.webhook_status().await?;
        let is_known = |endpoint: &Endpoint| {
            let mut names = known.iter().map(|status| &status.webhook.name);
            names.any(|name| *name == endpoint.name)
        };
        if !self.endpoints().all(is_known) {
            return Err(error);
        }
        tracing::warn!(%error, "the webhooks could not be announced to the store");
        Ok(())
    }

    /// Starts the tasks that send events until `stop`. `notice` is the time before an expiry at which an
    /// event tells it.
    pub fn start(
        self: &Arc<Self>,
        store: &Arc<dyn Store>,
        notice: Duration,
        metrics: &Metrics,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Vec<JoinHandle<Option<()>>> {
        if self.senders.is_empty() {
            return Vec::new();
        }
        let keeper = keeper::Keeper::new(Arc::clone(self), store, notice, metrics);
        let mut running = vec![tasks.spawn("webhooks", keeper.run(stop.clone()))];
        for sender in &self.senders {
            let delivery = delivery::Delivery::new(self, sender, store, metrics);
            running.push(tasks.spawn("webhook", delivery.run(stop.clone())));
        }
        running
    }

    /// The sender of the webhook with this name.
    pub fn sender(&self, name: &str) -> Option<&Arc<Sender>> {
        let mut senders = self.senders.iter();
        senders.find(|sender| sender.endpoint().name == name)
    }

    /// Sends an event `keyward.test` now. Returns its id and the answer.
    pub async fn test(&self, sender: &Sender) -> (KeyId, Answer) {
        let now = self.clock.wall();
        let id = KeyId::draw(now, &*self.entropy);
        (id, sender.send(id, message::test(now)).await)
    }
}
