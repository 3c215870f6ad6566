//! Revoke: commit, then wait until it holds everywhere, then say so.

use std::sync::Arc;
use std::time::Duration;

use super::{Service, ServiceError};
use crate::auth::Caller;
use crate::replication::Receipt;
use keyward_core::key::{
    AccountId, FieldError, KeyId, KeyRecord, MAX_GRACE, Reason, Role, SecretText, Timestamp,
};
use keyward_store::{Actor, KeyTarget, Revocation, RevokeAnswer, Revoked, Successor};

/// What to revoke.
#[derive(Debug)]
pub enum RevokeTarget {
    /// One key by its public name.
    Key(KeyId),
    /// One key by its text.
    Text(SecretText),
    /// All keys of an account.
    Account(AccountId),
}

/// What to revoke, and how.
#[derive(Debug)]
pub struct Revoke {
    /// Which keys.
    pub target: RevokeTarget,
    /// Whether to make a successor.
    pub replace: bool,
    /// How long the key lives on.
    pub grace: Duration,
    /// Why.
    pub reason: Option<Reason>,
}

/// What was revoked, and the proof.
#[derive(Debug)]
pub struct RevokeReply {
    /// What the store did.
    pub revoked: Revoked,
    /// The successor's secret, if this caller may see it.
    pub secret: Option<SecretText>,
    /// How it came to hold everywhere.
    pub receipt: Receipt,
    /// The store's time, to tell states by.
    pub at: Timestamp,
}

impl Service {
    /// Revokes, and returns when that holds everywhere. `None` for a caller who may report a
    /// leaked key and see nothing back.
    pub async fn revoke(
        self: &Arc<Self>,
        caller: &Caller,
        revoke: Revoke,
    ) -> Result<Option<RevokeReply>, ServiceError> {
        let reporting = matches!(revoke.target, RevokeTarget::Text(_))
            && caller.has(Role::Reporter)
            && !caller.has(Role::Issuer);
        if !reporting {
            caller.require(Role::Issuer)?;
        }
        check(&revoke)?;
        let (actor, may_see) = (caller.actor(), caller.has(Role::Revealer));
        let reply = self
            .change(|service| async move { service.revoke_now(revoke, &actor, may_see).await })
            .await;
        match reply {
            // A reporter learns nothing of the key, not even whether there is one.
            Ok(_) | Err(ServiceError::KeyNotFound) if reporting => Ok(None),
            Err(error) if reporting => Err(error.with_replacement(None)),
            other => other.map(Some),
        }
    }

    async fn revoke_now(
        &self,
        revoke: Revoke,
        actor: &Actor,
        may_see: bool,
    ) -> Result<RevokeReply, ServiceError> {
        let (successor, minted) = match (&revoke.target, revoke.replace) {
            (RevokeTarget::Key(id), true) => {
                let (successor, text) = self.successor_of(*id).await?;
                (Some(successor), Some(text))
            }
            _ => (None, None),
        };
        // A successor is shown to the call that asks for one by the key's public name: whoever
        // found a key's text may kill it, not inherit it.
        let asked = successor.is_some();
        let planned = successor.as_ref().map(|successor| successor.id);
        let revocation = self.revocation(revoke, successor)?;
        let answer = self.store.revoke(revocation, actor).await;
        // From here the bound is counted: the commit has been answered.
        let answered_at = self.clock.boot();
        let revoked = match answer {
            Ok(RevokeAnswer::Done(revoked)) => *revoked,
            Ok(RevokeAnswer::NotFound) => return Err(ServiceError::KeyNotFound),
            Ok(RevokeAnswer::Expired) => return Err(ServiceError::KeyExpired),
            Err(error) => return Err(ServiceError::from(error).with_replacement(planned)),
        };
        // P2: no reply before the change holds everywhere.
        let made = revoked
            .successor
            .as_ref()
            .map(|successor| successor.record.id);
        let receipt = self
            .barrier
            .wait(revoked.committed, &revoked.digests, answered_at)
            .await
            .map_err(|unconfirmed| ServiceError::from(unconfirmed).with_replacement(made))?;
        let secret = match &revoked.successor {
            Some(_) if revoked.created => minted,
            // The change is made, whatever becomes of showing it: the same call may ask again.
            Some(successor) if asked && may_see => {
                let unshown = ServiceError::Unconfirmed { replacement: made };
                self.reveal(successor, actor).await.map_err(|_| unshown)?
            }
            _ => None,
        };
        Ok(RevokeReply {
            revoked,
            secret,
            receipt,
            at: self.store_time(),
        })
    }

    fn revocation(
        &self,
        revoke: Revoke,
        successor: Option<Successor>,
    ) -> Result<Revocation, ServiceError> {
        let (grace, reason) = (revoke.grace, revoke.reason);
        let target = match revoke.target {
            RevokeTarget::Account(account) => return Ok(Revocation::Account { account, reason }),
            RevokeTarget::Key(id) => KeyTarget::Id(id),
            RevokeTarget::Text(text) => {
                let digest = self
                    .recognise(text.expose())
                    .map_err(|_| ServiceError::KeyNotFound)?;
                KeyTarget::Digest(digest)
            }
        };
        Ok(Revocation::Key {
            target,
            successor,
            grace,
            reason,
        })
    }

    /// The secret of a successor. Account and recoverability of a key never change, so they can be
    /// read before the transaction that makes the successor.
    async fn successor_of(&self, id: KeyId) -> Result<(Successor, SecretText), ServiceError> {
        let found = self.store.get_key(&KeyTarget::Id(id)).await?;
        let predecessor: KeyRecord = found.ok_or(ServiceError::KeyNotFound)?.record;
        let (id, minted) = self.mint()?;
        let sealed = (predecessor.recoverable && !self.forbid_recoverable)
            .then(|| self.seal(id, &predecessor.account, &minted.text))
            .transpose()?;
        let successor = Successor {
            id,
            digest: minted.digest,
            generation: minted.generation,
            hint: minted.hint,
            sealed,
        };
        Ok((successor, minted.text))
    }
}

/// `replace` and `grace` need a `key_id`: whoever found a key may kill it, not inherit it.
fn check(revoke: &Revoke) -> Result<(), FieldError> {
    let by_id = matches!(revoke.target, RevokeTarget::Key(_));
    if revoke.replace && !by_id {
        return Err(FieldError::new("replace", "goes with key_id only"));
    }
    if !revoke.grace.is_zero() && !by_id {
        return Err(FieldError::new("grace", "goes with key_id only"));
    }
    if revoke.grace > MAX_GRACE {
        return Err(FieldError::new("grace", "takes 0 to 30 days"));
    }
    Ok(())
}
