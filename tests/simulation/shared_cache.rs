//! The shared cache of the simulation, which writes late, forgets, and keeps what is outdated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward::cache::SharedCache;
use keyward::cache::l2::encoding;
use keyward_core::fence::Stamp;
use keyward_core::key::KeyRecord;
use keyward_crypto::Digest;
use keyward_testkit::Random;
use parking_lot::Mutex;
use tokio::time::sleep;

/// Encoded entries by digest. Nothing is ever removed because of a change.
pub(crate) struct MemoryCache {
    entries: Arc<Mutex<BTreeMap<Digest, Vec<u8>>>>,
    random: Random,
}

impl MemoryCache {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            entries: Arc::default(),
            random,
        }
    }

    pub(crate) fn clear(&self) {
        self.entries.lock().clear();
    }
}

#[async_trait]
impl SharedCache<KeyRecord> for MemoryCache {
    async fn get_many(&self, digests: &[Digest]) -> Vec<Option<(KeyRecord, Stamp)>> {
        sleep(Duration::from_millis(self.random.below(4))).await;
        let get = |digest| {
            let sealed = self.entries.lock().get(digest).cloned();
            encoding::decode(&sealed.filter(|_| !self.random.chance(5))?)
        };
        let answers = digests.iter().map(get).collect();
        sleep(Duration::from_millis(self.random.below(4))).await;
        answers
    }

    fn put(&self, digest: &Digest, record: &KeyRecord, stamp: Stamp) {
        let (digest, entry) = (*digest, encoding::encode(record, stamp));
        let entries = Arc::clone(&self.entries);
        let delay = match self.random.chance(20) {
            true => self.random.below(2_000),
            false => self.random.below(5),
        };
        tokio::spawn(async move {
            sleep(Duration::from_millis(delay)).await;
            entries.lock().insert(digest, entry);
        });
    }

    fn note_refused(&self) {}
}
