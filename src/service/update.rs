//! Update: commits the change, waits until it is in force everywhere, then replies. Upholds P2.

use std::sync::Arc;

use super::{KeyUses, Service, ServiceError};
use crate::auth::Caller;
use crate::replication::Receipt;
use keyward_core::key::{KeyId, KeyRecord, Timestamp};
use keyward_store::{Actor, KeyChanges, KeyTarget, UpdateAnswer};

/// The changed key, and how the change was confirmed.
#[derive(Debug)]
pub struct UpdateReply {
    /// The current record of the key.
    pub record: KeyRecord,
    /// How the change was confirmed.
    pub receipt: Receipt,
    /// The use of the key.
    pub uses: KeyUses,
    /// The store's time, which decides the key's state.
    pub at: Timestamp,
}

impl Service {
    /// Changes a key, and returns after the change is in force everywhere.
    pub async fn update(
        self: &Arc<Self>,
        caller: &Caller,
        id: KeyId,
        changes: KeyChanges,
    ) -> Result<UpdateReply, ServiceError> {
        let actor = caller.actor();
        self.change(|service| async move { service.update_now(id, changes, &actor).await })
            .await
    }

    async fn update_now(
        &self,
        id: KeyId,
        mut changes: KeyChanges,
        actor: &Actor,
    ) -> Result<UpdateReply, ServiceError> {
        if let Some(end) = changes.expire_time {
            let created = self.create_time(id).await?;
            changes.expire_time = Some(self.limited_end("key.expire_time", end, created)?);
        }
        let answer = self.store.update(id, changes, actor).await?;
        // I7: the wait counts from the answer of the commit, which is later than the commit.
        let answered_at = self.clock.boot();
        match answer {
            UpdateAnswer::NotFound => Err(ServiceError::KeyNotFound),
            UpdateAnswer::Revoked => Err(ServiceError::KeyRevoked),
            UpdateAnswer::Expired => Err(ServiceError::KeyExpired),
            UpdateAnswer::Done(updated) => {
                let digests = [updated.digest];
                let uses = self.begin_uses(vec![updated.record.id]);
                // P2: no reply before the change holds everywhere.
                let confirmation = self.barrier.wait(updated.committed, &digests, answered_at);
                let receipt = confirmation.await?;
                Ok(UpdateReply {
                    record: updated.record,
                    receipt,
                    uses: uses.end().await,
                    at: self.store_time(),
                })
            }
        }
    }

    /// The time from which `max_key_age` counts. It never changes, so this can read it before the change.
    async fn create_time(&self, id: KeyId) -> Result<Timestamp, ServiceError> {
        if self.max_key_age.is_none() {
            return Ok(Timestamp::default());
        }
        let found = self.store.get_key(&KeyTarget::Id(id)).await?;
        Ok(found.ok_or(ServiceError::KeyNotFound)?.record.create_time)
    }
}
