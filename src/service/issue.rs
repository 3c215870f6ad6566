//! Issue: get-or-create the key of a slot.

use std::sync::Arc;
use std::time::Duration;

use super::{Service, ServiceError};
use crate::auth::Caller;
use keyward_core::key::{
    AccountId, FieldError, KeyRecord, MAX_TTL, Metadata, Networks, Role, Scopes, SecretText,
    SlotName, Timestamp,
};
use keyward_store::{Actor, Expiry, NewKey};

/// 9999-01-01T00:00:00Z, the first time that is refused as an end.
const LATEST: Timestamp = Timestamp::from_micros(253_370_764_800_000_000);

/// The slot, and what a key that is created for it is like.
#[derive(Debug)]
pub struct Issue {
    /// Whose key it is.
    pub account: AccountId,
    /// The slot.
    pub name: SlotName,
    /// What it may do.
    pub scopes: Scopes,
    /// The owner's notes.
    pub metadata: Metadata,
    /// From where it may be used.
    pub networks: Networks,
    /// Whether to keep a sealed copy.
    pub recoverable: bool,
    /// When it expires.
    pub expiry: Expiry,
}

/// The key of the slot.
#[derive(Debug)]
pub struct IssueReply {
    /// Its record.
    pub record: KeyRecord,
    /// Its secret, if this caller may see it now.
    pub secret: Option<SecretText>,
    /// Whether this call created it.
    pub created: bool,
    /// The store's time, to tell its state by.
    pub at: Timestamp,
}

impl Service {
    /// Gives the key of a slot, and creates it if there is none.
    pub async fn issue(
        self: &Arc<Self>,
        caller: &Caller,
        issue: Issue,
    ) -> Result<IssueReply, ServiceError> {
        if issue.recoverable && self.forbid_recoverable {
            return Err(ServiceError::RecoverableForbidden);
        }
        let (actor, may_see) = (caller.actor(), caller.has(Role::Revealer));
        self.change(|service| async move { service.issue_now(issue, &actor, may_see).await })
            .await
    }

    async fn issue_now(
        &self,
        issue: Issue,
        actor: &Actor,
        may_see: bool,
    ) -> Result<IssueReply, ServiceError> {
        let expiry = self.check_expiry(issue.expiry)?;
        let (id, minted) = self.mint()?;
        let sealed = issue
            .recoverable
            .then(|| self.seal(id, &issue.account, &minted.text))
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
        let secret = if issued.created {
            Some(minted.text)
        } else if may_see {
            self.reveal(&issued.key, actor).await?
        } else {
            None
        };
        let at = self.store_time();
        Ok(IssueReply {
            record: issued.key.record,
            secret,
            created: issued.created,
            at,
        })
    }

    fn check_expiry(&self, expiry: Expiry) -> Result<Expiry, FieldError> {
        match expiry {
            Expiry::Never => {}
            Expiry::At(end) => self.check_end("expire_time", end)?,
            Expiry::After(ttl) if ttl >= Duration::from_secs(1) && ttl <= MAX_TTL => {}
            Expiry::After(_) => {
                let takes = "takes 1 second to 100 years of 365 days";
                return Err(FieldError::new("ttl", takes));
            }
        }
        Ok(expiry)
    }

    /// Refuses an end that has passed by the store's time, or is out of reason.
    pub(super) fn check_end(&self, field: &'static str, end: Timestamp) -> Result<(), FieldError> {
        if end <= self.store_time() {
            return Err(FieldError::new(field, "must be in the future"));
        }
        if end >= LATEST {
            return Err(FieldError::new(field, "must be before the year 9999"));
        }
        Ok(())
    }
}
