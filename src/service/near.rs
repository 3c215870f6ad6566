//! Near-caches of callers.

use std::sync::Arc;

use super::{Service, ServiceError};
use crate::auth::Caller;
use crate::replication::NearStream;
use keyward_core::key::{KeyId, KeyUse, Role};

impl Service {
    /// Opens the stream of a near-cache.
    pub async fn watch(self: &Arc<Self>, caller: &Caller) -> Result<NearStream, ServiceError> {
        caller.require(Role::NearCache)?;
        let name = caller.actor().name;
        // It may write to the store.
        self.read(|service| async move { Ok(service.near.open(&name).await?) })
            .await
    }

    /// Notes that a near-cache has accepted these keys.
    pub fn note_uses(&self, ids: &[KeyId]) {
        let noted = KeyUse {
            last_use: Some(self.store_time()),
            ..KeyUse::default()
        };
        ids.iter().for_each(|id| self.uses.report(*id, noted));
    }
}
