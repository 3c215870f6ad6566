//! Near-caches of callers.

use super::{Service, ServiceError};
use crate::auth::Caller;
use crate::replication::NearStream;
use keyward_core::key::{KeyId, KeyUse, Role};

impl Service {
    /// Opens the stream of a near-cache.
    pub async fn watch(&self, caller: &Caller) -> Result<NearStream, ServiceError> {
        caller.require(Role::NearCache)?;
        Ok(self.near.open(&caller.actor().name).await?)
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
