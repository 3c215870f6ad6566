//! The use of the keys in an answer. It is read for the answer alone: no verdict depends on it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Service, ServiceError};
use keyward_core::key::{KeyId, KeyRecord, KeyUse};
use keyward_store::StoreError;

/// How long the answer of a change waits for the use of its keys, after all else is ready.
const PATIENCE: Duration = Duration::from_millis(50);

/// The use of some keys. A key without use is left out.
pub type KeyUses = HashMap<KeyId, KeyUse>;

/// A read that nothing waits for long.
pub(super) struct Begun<T>(JoinHandle<Result<T, StoreError>>);

impl<T: Default> Begun<T> {
    /// What the read found; nothing if it failed or is slow.
    pub(super) async fn end(self) -> T {
        match timeout(PATIENCE, self.0).await {
            Ok(Ok(Ok(found))) => found,
            _ => T::default(),
        }
    }
}

impl Service {
    /// Reads the use of keys.
    pub(super) async fn uses_of(&self, ids: Vec<KeyId>) -> Result<KeyUses, ServiceError> {
        Ok(self.store.uses_of(&ids).await?.into_iter().collect())
    }

    /// Begins to read the use of keys, for the answer of a change.
    pub(super) fn begin_uses(&self, ids: Vec<KeyId>) -> Begun<KeyUses> {
        let store = self.store.clone();
        let read = async move { Ok(store.uses_of(&ids).await?.into_iter().collect()) };
        Begun(self.control.spawn(read))
    }

    /// Begins to read the predecessor of a key, and the use of both.
    pub(super) fn begin_predecessor(&self, id: KeyId) -> Begun<(Option<KeyRecord>, KeyUses)> {
        let store = self.store.clone();
        Begun(self.control.spawn(async move {
            let predecessor = store.predecessor(id).await?;
            let ids = [Some(id), predecessor.as_ref().map(|key| key.id)];
            let ids: Vec<_> = ids.into_iter().flatten().collect();
            let uses = store.uses_of(&ids).await?.into_iter().collect();
            Ok((predecessor, uses))
        }))
    }
}
