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

use tokio_util::sync::CancellationToken;

use keyward_core::key::{Clock, Entropy, KeyId};
use keyward_ops::settings::values::Url;
use keyward_ops::{Metrics, Tasks};
use keyward_store::{EventKind, Store, StoreError, Webhook};
pub use secret::check as check_secret;
pub use sender::Answer;
use sender::Sender;

/// A webhook in the settings.
#[derive(Clone, Debug)]
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

/// The webhooks of this instance.
pub struct Webhooks {
    endpoints: Vec<Arc<Endpoint>>,
    sender: Sender,
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
        for endpoint in endpoints {
            secret::check(endpoint)?;
        }
        Ok(Self {
            endpoints: endpoints.iter().cloned().map(Arc::new).collect(),
            sender: Sender::new(timeout, Arc::clone(&clock))?,
            clock,
            entropy,
        })
    }

    /// Has the store write events for the webhooks from now on.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn announce(&self, store: &dyn Store) -> Result<(), StoreError> {
        let webhooks = self.endpoints.iter().map(|endpoint| Webhook {
            name: endpoint.name.clone(),
            events: endpoint.events.clone(),
        });
        match webhooks.collect::<Vec<_>>() {
            none if none.is_empty() => Ok(()),
            webhooks => store.name_webhooks(&webhooks).await,
        }
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
    ) -> Vec<tokio::task::JoinHandle<Option<()>>> {
        if self.endpoints.is_empty() {
            return Vec::new();
        }
        let keeper = keeper::Keeper::new(Arc::clone(self), store, notice, metrics);
        let mut running = vec![tasks.spawn("webhooks", keeper.run(stop.clone()))];
        for endpoint in &self.endpoints {
            let delivery = delivery::Delivery::new(self, endpoint, store, metrics);
            running.push(tasks.spawn("webhook", delivery.run(stop.clone())));
        }
        running
    }

    /// The webhook with this name.
    pub fn endpoint(&self, name: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }

    /// Sends an event `keyward.test` now. Returns its id and the answer.
    pub async fn test(&self, endpoint: &Endpoint) -> (KeyId, Answer) {
        let now = self.clock.wall();
        let id = KeyId::draw(now, &*self.entropy);
        let body = message::test(now);
        (id, self.sender.send(endpoint, id, body).await)
    }
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Webhooks({})", self.endpoints.len())
    }
}
