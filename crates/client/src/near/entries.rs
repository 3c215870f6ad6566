//! What a near-cache keeps: for each key what an instance read of it, found by a digest under a random key of
//! this process. It keeps no text of a key, and never a verdict.

use hmac::{Hmac, KeyInit as _, Mac as _};
use keyward_core::fence::{Epoch, Stamp, Terms};
use keyward_core::key::{BootTime, KeyId, Networks, Scopes, Timestamp};
use keyward_proto::v1;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::Sha256;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{Identity, Secret};

/// The name of a key in this process: 128 bits of an HMAC.
type Digest = [u8; 16];

/// How often the use of a key is reported.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// What is kept of one key.
#[derive(Debug)]
pub(super) struct Entry {
    /// The ids whose changes outdate it.
    pub(super) ids: Box<[KeyId]>,
    /// The revision that the instance's own admission used. Nobody stamps it later.
    pub(super) stamp: Stamp,
    /// What decides a verdict.
    pub(super) terms: Terms,
    pub(super) identity: Identity,
    /// When its use was last reported, in seconds of boot time.
    reported: AtomicU64,
}

impl Entry {
    /// The entry in a response, which was VALID for `identity`. `None` if there is none, or if it is
    /// incomplete.
    pub(super) fn new(entry: v1::CacheEntry, identity: &Identity) -> Option<Self> {
        let id = |bytes: &Vec<u8>| Some(KeyId::from_bytes(bytes.as_slice().try_into().ok()?));
        let ids = entry.ids.iter().map(id).collect::<Option<Box<[KeyId]>>>()?;
        if ids.is_empty() {
            return None;
        }
        let networks = Networks::new("allowed_cidrs", &entry.allowed_cidrs).ok()?;
        let scopes = Scopes::new("scopes", identity.scopes.clone()).ok()?;
        let revoke_time = entry.revoke_time.map(timestamp);
        let expire_time = identity.expire_time.map(from_system);
        Some(Self {
            ids,
            stamp: Stamp {
                epoch: epoch(entry.epoch?),
                revision: entry.revision,
            },
            terms: Terms::of_live(scopes, networks, revoke_time, expire_time),
            identity: identity.clone(),
            reported: AtomicU64::new(0),
        })
    }

    /// Reports the use of the key if that is due. `report` returns whether it took the key.
    pub(super) fn report(&self, now: BootTime, report: impl FnOnce(KeyId) -> bool) {
        let now = now.since(BootTime::default()).as_secs();
        let reported = self.reported.load(Ordering::Relaxed);
        // The key is the first of them.
        if now >= reported + REPORT_EVERY.as_secs()
            && let Some(id) = self.ids.first()
            && report(*id)
        {
            self.reported.store(now, Ordering::Relaxed);
        }
    }

    /// The size in memory in bytes, about.
    fn weight(&self) -> u64 {
        const OVERHEAD: usize = 160;
        let identity = &self.identity;
        let texts = [&identity.key_id, &identity.account_id, &identity.name];
        let texts = texts.into_iter().chain(&identity.scopes);
        let notes = identity
            .metadata
            .iter()
            .flat_map(|(name, value)| [name, value]);
        // A text has its own allocation.
        let texts: usize = texts.chain(notes).map(|text| text.len() + 32).sum();
        let all = OVERHEAD
            + size_of::<Self>()
            + size_of_val(&**identity)
            + texts
            + self.ids.len() * size_of::<KeyId>()
            + self.terms.size();
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}

pub(super) fn epoch(epoch: v1::Epoch) -> Epoch {
    Epoch {
        system: epoch.system,
        timeline: epoch.timeline,
        incarnation: epoch.incarnation,
    }
}

/// Rounded down, so that nothing ends later than it should.
pub(super) fn timestamp(time: prost_types::Timestamp) -> Timestamp {
    let micros = time.seconds.saturating_mul(1_000_000);
    Timestamp::from_micros(micros.saturating_add(i64::from(time.nanos) / 1_000))
}

fn from_system(time: std::time::SystemTime) -> Timestamp {
    let micros = match time.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    Timestamp::from_micros(micros)
}

#[derive(Clone, Copy, Debug)]
struct ByWeight;

impl Weighter<Digest, Arc<Entry>> for ByWeight {
    fn weight(&self, _: &Digest, entry: &Arc<Entry>) -> u64 {
        entry.weight()
    }
}

/// Entries by digests, bounded by bytes.
pub(super) struct Entries(Cache<Digest, Arc<Entry>, ByWeight>);

impl Entries {
    /// Holds at most `bytes` bytes.
    pub(super) fn new(bytes: u64) -> Self {
        const USUAL: u64 = 600;
        let count = usize::try_from(bytes / USUAL).unwrap_or(usize::MAX);
        Self(Cache::with_weighter(count, bytes, ByWeight))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Entry>> {
        self.0.get(digest)
    }

    pub(super) fn insert(&self, digest: Digest, entry: Entry) {
        self.0.insert(digest, Arc::new(entry));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Names keys by digests under a random key, so that the memory of this process holds no text of a key
/// and nobody can choose texts that collide.
pub(super) struct Names(Hmac<Sha256>);

impl Names {
    pub(super) fn new(random: &[u8; 64]) -> Self {
        Self(Hmac::new(random.into()))
    }

    pub(super) fn of(&self, api_key: &Secret) -> Digest {
        let mut mac = self.0.clone();
        mac.update(api_key.expose().as_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_that_finds_no_place_is_due_again() {
        let wire = v1::CacheEntry {
            epoch: Some(v1::Epoch::default()),
            ids: vec![vec![7; 16]],
            ..Default::default()
        };
        let identity = Identity::from(keyward_guard::Holder {
            key_id: "1".to_owned(),
            account_id: "42".to_owned(),
            name: "default".to_owned(),
            scopes: Vec::new(),
            metadata: [].into(),
            expire_time: None,
            revision: 0,
        });
        let entry = Entry::new(wire, &identity).unwrap();
        let at = |seconds: i64| BootTime::from_micros((100 + seconds) * 1_000_000);
        let reported = |seconds, has_place| {
            let mut was_due = false;
            entry.report(at(seconds), |_| {
                was_due = true;
                has_place
            });
            was_due
        };
        assert!(reported(0, false) && reported(1, true));
        assert!(!reported(30, true) && reported(31, true));
    }
}
