//! Near-caches of callers.

use std::sync::Arc;

use super::{Service, ServiceError};
use crate::auth::{Caller, Denied};
use crate::replication::NearStream;
use keyward_core::key::{KeyId, KeyUse, Role};

impl Service {
    /// Opens the stream of a near-cache.
    pub async fn watch(self: &Arc<Self>, caller: &Caller) -> Result<NearStream, ServiceError> {
        require_roles(caller)?;
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

/// Refuses a caller that must have no near-cache: it may open the stream, and may verify.
pub fn require_roles(caller: &Caller) -> Result<(), Denied> {
    caller.require(Role::NearCache)?;
    caller.require(Role::Verifier)
}
