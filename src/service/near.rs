//! Near-caches of callers.

use super::{Service, ServiceError};
use crate::auth::Caller;
use crate::replication::NearStream;
use keyward_core::key::Role;

impl Service {
    /// Opens the stream of a near-cache.
    pub async fn watch(&self, caller: &Caller) -> Result<NearStream, ServiceError> {
        caller.require(Role::NearCache)?;
        Ok(self.near.open(&caller.actor().name).await?)
    }
}
