//! The cache that instances share, on Redis: entries that only holders of the cache key can read and
//! make, and hints that something has changed. Redis may be away, slow, empty, or in the hands of
//! somebody else: what is read there is admitted like all that is read anywhere, and what is not
//! answered within the bound is done without.

mod entry;
mod inbox;
mod link;
mod servers;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::crypto::{CACHE_SEAL_LEN, CacheKey, Digest};
use crate::fence::Stamp;
use crate::key::{Entropy, KeyRecord};
use crate::telemetry::L2Metrics;
use inbox::Inbox;
pub use inbox::Told;
use link::{BOUND, CONNECT, Link};
pub use servers::{Address, AddressError, Node, Nodes};
use servers::{MAX_ENTRY, Servers};

/// What all names begin with.
const PREFIX: &str = "keyward:";
/// How long an entry is kept, and by how much more at most, so that what was written together does
/// not go together.
const KEEP: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(600));
/// Entries in one round trip at most.
const MOST: usize = 64;
/// Reads under way at a time.
const READERS: usize = 4;
/// Entries that wait to be written, and changes that wait to be announced; more are dropped.
const QUEUE: usize = 1_024;
/// How often the connection that hears is asked whether it still does, and how long it may rest.
const ASK: Duration = Duration::from_secs(1);
/// How long nobody listens to a channel that is flooded with false hints.
const DEAF: Duration = Duration::from_secs(10);

type Asked = (String, oneshot::Sender<Option<Vec<u8>>>);

struct Change {
    revision: u64,
    names: Vec<String>,
}

/// The cache that instances share.
pub struct L2 {
    key: Arc<CacheKey>,
    entropy: Arc<dyn Entropy>,
    metrics: L2Metrics,
    link: Arc<Link>,
    inbox: Arc<Inbox>,
    reads: mpsc::Sender<Asked>,
    writes: mpsc::Sender<(String, Vec<u8>, u64)>,
    changes: mpsc::Sender<Change>,
}

impl L2 {
    /// Starts to connect, on the current runtime, and goes on until `stop`. Nothing waits for it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or an address that makes no sense.
    pub fn start(
        address: Address,
        key: Arc<CacheKey>,
        entropy: Arc<dyn Entropy>,
        metrics: L2Metrics,
        stop: &CancellationToken,
    ) -> Result<Arc<Self>, AddressError> {
        let servers = Arc::new(Servers::new(address)?);
        let link = Arc::new(Link::new());
        let inbox = Arc::new(Inbox::new(Arc::clone(&key), metrics.clone()));
        let (reads, read) = mpsc::channel(MOST * READERS);
        let (writes, write) = mpsc::channel(QUEUE);
        let (changes, change) = mpsc::channel(QUEUE);
        let l2 = Arc::new(Self {
            key: Arc::clone(&key),
            entropy,
            metrics: metrics.clone(),
            link: Arc::clone(&link),
            inbox: Arc::clone(&inbox),
            reads,
            writes,
            changes,
        });
        let kept = Arc::clone(&link).keep(Arc::clone(&servers), metrics.clone(), stop.clone());
        spawn(kept, stop);
        let channel = format!("{PREFIX}{}", key.channel());
        spawn(listen(servers, inbox, channel.clone()), stop);
        let read = Arc::new(Mutex::new(read));
        for _ in 0..READERS {
            spawn(answer(Arc::clone(&link), Arc::clone(&read)), stop);
        }
        spawn(write_down(Arc::clone(&link), write, metrics), stop);
        spawn(announce(link, change, key, channel), stop);
        Ok(l2)
    }

    /// Tells all instances that the log has reached `revision`, and forgets what stands under these
    /// digests. Does not wait for it; it may be lost.
    pub fn announce(&self, revision: u64, digests: &[Digest]) {
        let names = digests.iter().map(|digest| self.name(digest)).collect();
        // Full: nobody is told, and the beats will do.
        let _ = self.changes.try_send(Change { revision, names });
    }

    /// Waits for a hint of another instance.
    pub async fn hear(&self) -> Told {
        self.inbox.hear().await
    }

    fn name(&self, digest: &Digest) -> String {
        format!("{PREFIX}{}", self.key.name(digest))
    }

    /// What stands under the name of `digest`; `None` when nobody answers in time.
    async fn ask(&self, digest: &Digest) -> Option<Vec<u8>> {
        if !self.link.is_closed() {
            self.metrics.skipped.inc();
            return None;
        }
        let (tell, told) = oneshot::channel();
        let asked = async {
            self.reads.send((self.name(digest), tell)).await.ok()?;
            told.await.ok()?
        };
        let answer = timeout(BOUND, asked).await.ok().flatten();
        if answer.is_none() {
            self.metrics.failed.inc();
        }
        answer
    }
}

#[async_trait]
impl Shared<KeyRecord> for L2 {
    async fn get(&self, digest: &Digest) -> Option<(KeyRecord, Stamp)> {
        let sealed = self.ask(digest).await?;
        if sealed.is_empty() {
            self.metrics.miss.inc();
            return None;
        }
        let opened = self.key.open(digest, &sealed);
        let entry = opened.and_then(|plain| entry::decode(&plain));
        if entry.is_some() {
            self.metrics.hit.inc();
        } else if self.metrics.bad.inc() == 0 {
            // Once: whoever can do it can do it again and again.
            tracing::error!(
                "an entry in redis was not made by an instance with this cache key: somebody else \
                 writes there; it counts as absent (keyward_l2_total, outcome bad_mac)"
            );
        }
        entry
    }

    fn put(&self, digest: &Digest, record: &KeyRecord, stamp: Stamp) {
        if !self.link.is_closed() {
            return;
        }
        let plain = entry::encode(record, stamp);
        if plain.len() + CACHE_SEAL_LEN > MAX_ENTRY {
            return;
        }
        let Some(sealed) = self.key.seal(digest, &plain, &*self.entropy) else {
            return;
        };
        let (least, spread) = KEEP;
        let more = u64::from(sealed.first().copied().unwrap_or_default());
        let seconds = least.as_secs() + spread.as_secs() * more / 255;
        if self
            .writes
            .try_send((self.name(digest), sealed, seconds))
            .is_err()
        {
            self.metrics.dropped.inc();
        }
    }

    fn note_refused(&self) {
        self.metrics.refused.inc();
    }
}

impl std::fmt::Debug for L2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("L2")
    }
}

/// Starts work that goes on until `stop`. Should it end before, by a panic, the service goes on without
/// it, and says so.
fn spawn(work: impl Future<Output = ()> + Send + 'static, stop: &CancellationToken) {
    let stop = stop.clone();
    let task = tokio::spawn(async move { stop.run_until_cancelled(work).await });
    tokio::spawn(async move {
        if let Err(ended) = task.await {
            tracing::error!(%ended, "work with redis ended: start this instance anew to have it back");
        }
    });
}

/// Gathers what is asked while a round trip is under way into the next one.
async fn answer(link: Arc<Link>, asked: Arc<Mutex<mpsc::Receiver<Asked>>>) {
    let mut batch = Vec::with_capacity(MOST);
    while asked.lock().await.recv_many(&mut batch, MOST).await > 0 {
        // Whoever has given up need not be answered.
        batch.retain(|(_, tell)| !tell.is_closed());
        if batch.is_empty() {
            continue;
        }
        let (names, tell): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let Ok(found) = link.call(|connection| connection.read(names)).await else {
            // Dropped: who asks does without.
            continue;
        };
        for (tell, value) in tell.into_iter().zip(found) {
            // Whoever asked may have gone.
            let _ = tell.send(value);
        }
    }
}

async fn write_down(
    link: Arc<Link>,
    mut entries: mpsc::Receiver<(String, Vec<u8>, u64)>,
    metrics: L2Metrics,
) {
    let mut batch = Vec::with_capacity(MOST);
    while entries.recv_many(&mut batch, MOST).await > 0 {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let entries = &batch;
        match link
            .call(|connection| async move { connection.write(entries).await })
            .await
        {
            Ok(written) => {
                let written = u64::try_from(written).unwrap_or(u64::MAX);
                metrics.written.inc_by(written);
                metrics.dropped.inc_by(count.saturating_sub(written));
            }
            Err(_) => {
                metrics.dropped.inc_by(count);
            }
        }
        batch.clear();
    }
}

async fn announce(
    link: Arc<Link>,
    mut changes: mpsc::Receiver<Change>,
    key: Arc<CacheKey>,
    channel: String,
) {
    let mut batch = Vec::with_capacity(MOST);
    while changes.recv_many(&mut batch, MOST).await > 0 {
        let highest = batch.iter().map(|change| change.revision).max();
        let hint = key.hint(highest.unwrap_or_default());
        let names: Vec<_> = batch.drain(..).flat_map(|change| change.names).collect();
        let channel = channel.as_str();
        let said = link
            .call(|connection| async move { connection.announce(channel, &hint, &names).await });
        if said.await.is_err() {
            tracing::debug!("a hint was not sent; the beats will do");
        }
    }
}

/// Hears on a connection of its own: a flood of hints must not hold entries up.
async fn listen(servers: Arc<Servers>, inbox: Arc<Inbox>, channel: String) {
    let mut told = false;
    loop {
        inbox.bear();
        let heard = timeout(servers.patience(), async {
            let mut connection = servers.connect(Some(&inbox)).await?;
            connection.subscribe(&channel).await?;
            redis::RedisResult::Ok(connection)
        });
        if let Ok(Ok(connection)) = heard.await {
            // Whatever was said before was not heard.
            inbox.note_loss();
            loop {
                tokio::select! {
                    () = tokio::time::sleep(ASK) => {}
                    () = inbox.broken.notified() => break,
                }
                // A connection into a black hole says nothing by itself.
                if !matches!(
                    timeout(CONNECT, connection.clone().ping()).await,
                    Ok(Ok(()))
                ) {
                    inbox.note_loss();
                    break;
                }
            }
        }
        if inbox.is_flooded() {
            if !std::mem::replace(&mut told, true) {
                tracing::error!(
                    "somebody floods the channel of hints in redis: it is listened to now and then \
                     only, and the hints of the store go on (keyward_l2_hints_total, kind forged)"
                );
            }
            tokio::time::sleep(DEAF).await;
        }
        tokio::time::sleep(ASK / 2).await;
    }
}
