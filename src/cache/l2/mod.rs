//! L2: Redis, which instances share for two things. [`Entries`] is the cache of records;
//! [`ChangeNotices`] carries the notices that something changed. Neither is trusted: Redis may be
//! slow, empty, unavailable or controlled by an attacker. Both are authenticated with the cache key,
//! and the fence admits every record.

pub mod encoding;
mod entries;
mod examine;
mod explain;
mod link;
mod notice_receiver;
mod notices;
mod servers;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use keyward_core::key::Entropy;
use keyward_crypto::CacheKey;
use keyward_ops::{L2Metrics, Tasks};
use link::Link;
use servers::Servers;

pub use entries::Entries;
pub use examine::examine;
pub use notices::ChangeNotices;
pub use servers::{Address, AddressError, Node, Nodes};

/// The prefix of all names in Redis.
const PREFIX: &str = "keyward:";

/// Both uses of Redis.
#[derive(Clone, Debug)]
pub struct L2 {
    /// The cache of records.
    pub entries: Arc<Entries>,
    /// The change notices.
    pub notices: Arc<ChangeNotices>,
}

impl L2 {
    /// Starts the connections on the current runtime, until `stop`. It does not wait for them.
    ///
    /// # Errors
    ///
    /// A certificate file cannot be read, or the address is invalid.
    pub fn start(
        address: Address,
        key: Arc<CacheKey>,
        entropy: Arc<dyn Entropy>,
        metrics: L2Metrics,
        tasks: &Tasks,
        stop: &CancellationToken,
    ) -> Result<Self, AddressError> {
        let background = Background { tasks, stop };
        // Two `Servers`: a search for the primary by one connection must not delay the other.
        let (servers, notice_servers) = (Servers::new(address.clone())?, Servers::new(address)?);
        let link = Arc::new(Link::new());
        let servers = Arc::new(servers);
        let maintained = Arc::clone(&link).maintain(servers, metrics.clone(), stop.clone());
        background.spawn("redis connection", maintained);
        let notices = ChangeNotices::start(
            Arc::clone(&link),
            notice_servers,
            Arc::clone(&key),
            &*entropy,
            metrics.clone(),
            &background,
        );
        let entries = Entries::start(link, key, entropy, metrics, &background);
        Ok(Self { entries, notices })
    }
}

/// Starts the tasks of Redis, which run until `stop`.
struct Background<'b> {
    tasks: &'b Tasks,
    stop: &'b CancellationToken,
}

impl Background<'_> {
    fn spawn(&self, name: &str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let work = async move { stop.run_until_cancelled(work).await };
        self.tasks.spawn(name, work);
    }
}
