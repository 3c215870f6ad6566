//! Update: commit, then wait until it is in force everywhere, like a revoke.

use std::sync::Arc;

use super::{Service, ServiceError};
use crate::auth::Caller;
use crate::replication::Receipt;
use keyward_core::key::{KeyId, KeyRecord, Timestamp};
use keyward_store::{Actor, KeyChanges, UpdateAnswer};

/// The changed key, and the proof.
#[derive(Debug)]
pub struct UpdateReply {
    /// The key as it is now.
    pub record: KeyRecord,
    /// How it came to be in force everywhere.
    pub receipt: Receipt,
    /// The store's time, to tell its state by.
    pub at: Timestamp,
}

impl Service {
    /// Changes a key, and returns when that is in force everywhere.
    pub async fn update(
        self: &Arc<Self>,
        caller: &Caller,
        id: KeyId,
        changes: KeyChanges,
    ) -> Result<UpdateReply, ServiceError> {
        if let Some(Some(end)) = changes.expire_time {
            self.check_end("key.expire_time", end)?;
        }
        let actor = caller.actor();
        self.change(|service| async move { service.update_now(id, changes, &actor).await })
            .await
    }

    async fn update_now(
        &self,
        id: KeyId,
        changes: KeyChanges,
        actor: &Actor,
    ) -> Result<UpdateReply, ServiceError> {
        let answer = self.store.update(id, changes, actor).await?;
        let answered_at = self.clock.boot();
        match answer {
            UpdateAnswer::NotFound => Err(ServiceError::KeyNotFound),
            UpdateAnswer::Revoked => Err(ServiceError::KeyRevoked),
            UpdateAnswer::Expired => Err(ServiceError::KeyExpired),
            UpdateAnswer::Done(updated) => {
                let digests = [updated.digest];
                let confirmed = self.barrier.wait(updated.committed, &digests, answered_at);
                let receipt = confirmed.await?;
                Ok(UpdateReply {
                    record: updated.record,
                    receipt,
                    at: self.store_time(),
                })
            }
        }
    }
}
