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
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Shared;
use inbox::Inbox;
use keyward_core::fence::Stamp;
use keyward_core::key::{Entropy, KeyRecord};
use keyward_crypto::{CACHE_SEAL_LEN, CacheKey, Digest, Hint};
use keyward_ops::L2Metrics;
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
/// Entries that wait to be written, and names that wait to be forgotten; more are dropped.
const QUEUE: usize = 1_024;
/// How often the connection that hears is asked whether it still does, and how long it may rest.
const ASK: Duration = Duration::from_secs(1);
/// How long nobody listens to a channel that is flooded with false hints.
const DEAF: Duration = Duration::from_secs(10);

type Asked = (String, oneshot::Sender<Option<Vec<u8>>>);

/// The cache that instances share.
pub struct L2 {
    key: Arc<CacheKey>,
    entropy: Arc<dyn Entropy>,
    metrics: L2Metrics,
    link: Arc<Link>,
    inbox: Arc<Inbox>,
    reads: mpsc::Sender<Asked>,
    writes: mpsc::Sender<(String, Vec<u8>, u64)>,
    stale: mpsc::Sender<String>,
    /// A hint is due.
    due: Arc<Notify>,
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
        // Each has servers of its own: one that looks for the primary does not keep the other from it.
        let kept_by = Arc::new(Servers::new(address.clone())?);
        let heard_from = Arc::new(Servers::new(address)?);
        let link = Arc::new(Link::new());
        let sender = drawn(&*entropy);
        let inbox = Arc::new(Inbox::new(Arc::clone(&key), sender, metrics.clone()));
        let (reads, read) = mpsc::channel(MOST * READERS);
        let (writes, write) = mpsc::channel(QUEUE);
        let (stale, forgotten) = mpsc::channel(QUEUE);
        let due = Arc::new(Notify::new());
        let l2 = Arc::new(Self {
            key: Arc::clone(&key),
            entropy,
            metrics: metrics.clone(),
            link: Arc::clone(&link),
            inbox: Arc::clone(&inbox),
            reads,
            writes,
            stale,
            due: Arc::clone(&due),
        });
        let kept = Arc::clone(&link).keep(kept_by, metrics.clone(), stop.clone());
        spawn(kept, stop);
        let channel = format!("{PREFIX}{}", key.channel());
        spawn(listen(heard_from, inbox, channel.clone()), stop);
        let read = Arc::new(Mutex::new(read));
        for _ in 0..READERS {
            spawn(answer(Arc::clone(&link), Arc::clone(&read)), stop);
        }
        spawn(write_down(Arc::clone(&link), write, metrics), stop);
        spawn(forget(Arc::clone(&link), forgotten), stop);
        spawn(hint(link, due, key, sender, channel), stop);
        Ok(l2)
    }

    /// Hints to all instances that something has changed. Does not wait for it; it may be lost.
    pub fn hint(&self) {
        self.due.notify_one();
    }

    /// Forgets what stands under these digests, soon; that may be left undone.
    pub fn forget(&self, digests: &[Digest]) {
        for digest in digests {
            // Full: what stands there is not admitted any more anyway.
            let _ = self.stale.try_send(self.name(digest));
        }
    }

    /// Waits until another instance has changed something, or may have.
    pub async fn hear(&self) {
        self.inbox.hear().await;
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
        let Some(plain) = self.key.open(digest, &sealed) else {
            // Once: whoever can do it can do it again and again.
            if self.metrics.bad.inc() == 0 {
                tracing::error!(
                    "an entry in redis was not made by an instance with this cache key: somebody \
                     else writes there; it counts as absent (keyward_l2_total, outcome bad_mac)"
                );
            }
            return None;
        };
        let entry = entry::decode(&plain);
        match &entry {
            Some(_) => self.metrics.hit.inc(),
            None => self.metrics.unreadable.inc(),
        };
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

async fn forget(link: Arc<Link>, mut stale: mpsc::Receiver<String>) {
    let mut batch = Vec::with_capacity(MOST);
    while stale.recv_many(&mut batch, MOST).await > 0 {
        let names = std::mem::take(&mut batch);
        if link
            .call(|connection| connection.delete(names))
            .await
            .is_err()
        {
            tracing::debug!("entries of dead keys were not deleted; nobody admits them");
        }
    }
}

/// Gives hints, one at a time: what changes meanwhile is told by the next one.
async fn hint(link: Arc<Link>, due: Arc<Notify>, key: Arc<CacheKey>, sender: u64, channel: String) {
    for number in 1.. {
        due.notified().await;
        let hint = key.seal_hint(Hint { sender, number });
        let channel = channel.as_str();
        let said = link.call(|connection| async move { connection.publish(channel, &hint).await });
        if said.await.is_err() {
            tracing::debug!("a hint was not sent; the beats will do");
        }
    }
}

fn drawn(entropy: &dyn Entropy) -> u64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    u64::from_be_bytes(bytes)
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
