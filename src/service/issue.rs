//! Issue: gets or creates the key of a slot.

use std::sync::Arc;

use super::{KeyUses, Service, ServiceError};
use crate::auth::Caller;
use keyward_core::key::{
    AccountId, KeyRecord, Metadata, Networks, Role, Scopes, SecretText, SlotName, Timestamp,
};
use keyward_store::{Actor, Expiry, NewKey};

/// The slot, and the properties of the key if one is created.
#[derive(Debug)]
pub struct Issue {
    /// The account that owns the key.
    pub account: AccountId,
    /// The slot of the account.
    pub name: SlotName,
    /// The scopes of the key.
    pub scopes: Scopes,
    /// The notes of the key.
    pub metadata: Metadata,
    /// The networks from which the key can be used.
    pub networks: Networks,
    /// Whether to keep a sealed copy of the secret.
    pub recoverable: bool,
    /// When the key expires.
    pub expiry: Expiry,
}

/// The key of the slot.
#[derive(Debug)]
pub struct IssueReply {
    /// The record of the key.
    pub record: KeyRecord,
    /// The secret, if this caller may see it.
    pub secret: Option<SecretText>,
    /// Whether this call created the key.
    pub created: bool,
    /// The key that an existing key replaced.
    pub predecessor: Option<KeyRecord>,
    /// The use of both.
    pub uses: KeyUses,
    /// The store's time, which decides the key's state.
    pub at: Timestamp,
}

impl Service {
    /// Returns the key of a slot, and creates it if the slot has none.
    pub async fn issue(
        self: &Arc<Self>,
        caller: &Caller,
        issue: Issue,
    ) -> Result<IssueReply, ServiceError> {
        if issue.recoverable && self.forbid_recoverable {
            return Err(ServiceError::RecoverableForbidden);
        }
        let (actor, is_revealer) = (caller.actor(), caller.has(Role::Revealer));
        self.change(|service| async move { service.issue_now(issue, &actor, is_revealer).await })
            .await
    }

    async fn issue_now(
        &self,
        issue: Issue,
        actor: &Actor,
        is_revealer: bool,
    ) -> Result<IssueReply, ServiceError> {
        let expiry = self.expiry_of_new_key(issue.expiry)?;
        // One keyring for the whole call: a sealed copy is opened by the keys that were there before it was
        // read.
        let keyring = self.keyring.load_full();
        let (id, minted) = self.mint(&keyring)?;
        let sealed = issue
            .recoverable
            .then(|| self.seal(&keyring, id, &issue.account, &minted.text))
            .transpose()?;
        let new = NewKey {
            id,
            digest: minted.digest,
            generation: minted.generation,
            hint: minted.hint,
            sealed,
            account: issue.account,
            name: issue.name,
            scopes: issue.scopes,
            metadata: issue.metadata,
            networks: issue.networks,
            expiry,
        };
        let issued = self.store.issue(new, actor).await?;
        // A new key has no use, and nobody has tried its predecessor since.
        let used = (!issued.created).then(|| self.begin_predecessor(issued.key.record.id));
        // A replaced primary still shows keys that were revoked since.
        let confirmed = self.barrier.confirm_read(issued.read_in).await;
        confirmed.map_err(|_| ServiceError::StoreUnavailable)?;
        let secret = if issued.created {
            Some(minted.text)
        } else if is_revealer {
            self.reveal(&keyring, &issued.key, actor).await?
        } else {
            None
        };
        let (predecessor, uses) = match used {
            Some(used) => used.end().await,
            None => Default::default(),
        };
        Ok(IssueReply {
            predecessor,
            uses,
            record: issued.key.record,
            secret,
            created: issued.created,
            at: self.store_time(),
        })
    }
}
