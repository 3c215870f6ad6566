//! What a foreign key's text finds: the keys under all its digests, in one read. The set is kept as a
//! whole, and so is the empty one: most texts that nobody issued are asked for again.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Kept, KeptKey, Record, Records};
use keyward_core::fence::Terms;
use keyward_core::key::{KeyId, KeyRecord};
use keyward_crypto::Digest;
use keyward_store::{Found, Store, StoreError};

/// The digests that a text may be stored under, one for each scheme. What is kept has all of them as its
/// name, so nothing found before a scheme was added counts after it.
pub type ForeignDigests = Arc<[Digest]>;

/// The keys that a foreign key's text names, in the order of their ids.
#[derive(Debug)]
pub struct ForeignKeys {
    keys: Vec<KeyRecord>,
    ids: Vec<KeyId>,
}

impl ForeignKeys {
    /// The keys that one read found under the digests of a text.
    pub fn new(found: impl IntoIterator<Item = Option<KeyRecord>>) -> Self {
        let (mut keys, mut is_complete) = (Vec::new(), true);
        for key in found {
            is_complete &= key.is_some();
            keys.extend(key);
        }
        keys.sort_unstable_by_key(|key| key.id);
        let mut ids: Vec<_> = keys.iter().map(|key| key.id).collect();
        if !is_complete {
            // A digest without a key: an import may add one.
            ids.push(KeyId::IMPORTS);
        }
        Self { keys, ids }
    }
}

impl Record for ForeignKeys {
    type Digests = ForeignDigests;
    type Kept = KeptForeign;

    fn ids(&self) -> &[KeyId] {
        &self.ids
    }
}

#[async_trait]
impl Records<ForeignKeys> for Arc<dyn Store> {
    /// One statement finds all: a set of keys is true only within one snapshot.
    async fn find_all(
        &self,
        digests: &[ForeignDigests],
    ) -> Result<Vec<Found<ForeignKeys>>, StoreError> {
        let all: Vec<_> = digests
            .iter()
            .flat_map(|digests| digests.iter().copied())
            .collect();
        let mut found = self.find_keys(&all).await?.into_iter();
        let mut sets = Vec::with_capacity(digests.len());
        for digests in digests {
            let found: Vec<_> = found.by_ref().take(digests.len()).collect();
            let stamp = found.first().map(|found| found.stamp);
            let lost = || StoreError::Damaged("a read has no result for a digest".to_owned());
            sets.push(Found {
                stamp: stamp.ok_or_else(lost)?,
                record: Some(ForeignKeys::new(
                    found.into_iter().map(|found| found.record),
                )),
            });
        }
        Ok(sets)
    }
}

/// What is kept of the keys that a text names.
#[derive(Debug)]
pub struct KeptForeign {
    keys: Box<[KeptKey]>,
    ids: Box<[KeyId]>,
}

impl KeptForeign {
    /// Keeps of each key what `keep` keeps.
    pub fn new(found: &ForeignKeys, keep: impl Fn(&KeyRecord) -> KeptKey) -> Self {
        Self {
            keys: found.keys.iter().map(keep).collect(),
            ids: found.ids.as_slice().into(),
        }
    }

    /// What decides a verdict, in the order of the keys' ids.
    pub fn terms(&self) -> impl Iterator<Item = &Terms> {
        self.keys.iter().map(KeptKey::terms)
    }

    /// The keys, in the order of their ids.
    pub fn keys(&self) -> &[KeptKey] {
        &self.keys
    }
}

impl Kept for KeptForeign {
    fn ids(&self) -> &[KeyId] {
        &self.ids
    }

    fn weight(&self) -> usize {
        let keys = self
            .keys
            .iter()
            .map(|key| size_of::<KeptKey>() + key.weight());
        // The digests are on the heap, too: one for each key, and perhaps some without one.
        let digest = size_of::<Digest>() + size_of::<KeyId>();
        keys.sum::<usize>() + 2 * digest * self.ids.len()
    }
}
