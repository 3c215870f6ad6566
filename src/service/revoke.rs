//! Revoke: commits the revocation, waits until it holds everywhere, then replies. Upholds P2.

use std::sync::Arc;
use std::time::Duration;

use super::{KeyUses, Service, ServiceError};
use crate::auth::Caller;
use crate::replication::Receipt;
use keyward_core::key::{
    AccountId, FieldError, KeyId, KeyRecord, MAX_GRACE, Reason, Role, SecretText, Timestamp,
};
use keyward_crypto::Keyring;
use keyward_store::{
    Actor, CommittedChange, KeyTarget, Revocation, RevokeAnswer, Revoked, Selection, Successor,
};

/// The keys to revoke.
#[derive(Debug)]
pub enum RevokeTarget {
    /// One key by its public name.
    Key(KeyId),
    /// One key by its text.
    Text(SecretText),
    /// All keys of an account.
    Account(AccountId),
}

/// The keys to revoke, and how to revoke them.
#[derive(Debug)]
pub struct Revoke {
    /// The keys to revoke.
    pub target: RevokeTarget,
    /// Whether to create a successor.
    pub replace: bool,
    /// How long the key remains usable.
    pub grace: Duration,
    /// The reason, if the caller gave one.
    pub reason: Option<Reason>,
}

/// The revoked keys, and how their revocation was confirmed.
#[derive(Debug)]
pub struct RevokeReply {
    /// The result of the store.
    pub revoked: Revoked,
    /// The successor's secret, if this caller may see it.
    pub secret: Option<SecretText>,
    /// How the revocation was confirmed.
    pub receipt: Receipt,
    /// The use of the keys.
    pub uses: KeyUses,
    /// The store's time, which decides the keys' states.
    pub at: Timestamp,
}

impl Service {
    /// Revokes, and returns after the revocation holds everywhere. `None` for a reporter of a leaked
    /// key, who gets an empty response.
    pub async fn revoke(
        self: &Arc<Self>,
        caller: &Caller,
        revoke: Revoke,
    ) -> Result<Option<RevokeReply>, ServiceError> {
        let reporting = matches!(revoke.target, RevokeTarget::Text(_))
            && caller.has(Role::Reporter)
            && !caller.has(Role::Issuer);
        if !reporting {
            caller
                .require(Role::Issuer)
                .inspect_err(|denied| self.note_denial(caller, "Revoke", denied))?;
        }
        check(&revoke)?;
        let (actor, is_revealer) = (caller.actor(), caller.has(Role::Revealer));
        let reply = self
            .change(|service| async move { service.revoke_now(revoke, &actor, is_revealer).await })
            .await;
        match reply {
            // A reporter learns nothing about the key, not even whether it exists.
            Ok(_) | Err(ServiceError::KeyNotFound) if reporting => Ok(None),
            Err(error) if reporting => Err(error.with_replacement(None)),
            other => other.map(Some),
        }
    }

    pub(super) async fn revoke_now(
        &self,
        revoke: Revoke,
        actor: &Actor,
        is_revealer: bool,
    ) -> Result<RevokeReply, ServiceError> {
        let keyring = self.keyring.load_full();
        let (successor, minted) = match (&revoke.target, revoke.replace) {
            (RevokeTarget::Key(id), true) => {
                let (successor, text) = self.successor_of(&keyring, *id).await?;
                (Some(successor), Some(text))
            }
            _ => (None, None),
        };
        // Only a call that requests a successor by the key's public name may see the secret: the
        // finder of a key's text may revoke it, but must not receive its successor.
        let requests_successor = successor.is_some();
        let planned = successor.as_ref().map(|successor| successor.id);
        let revocation = self.revocation(revoke, successor)?;
        let answer = self.store.revoke(revocation, actor).await;
        // I7: the wait counts from the answer of the commit, which is later than the commit.
        let answered_at = self.clock.boot();
        let revoked = match answer {
            Ok(RevokeAnswer::Done(revoked)) => *revoked,
            Ok(RevokeAnswer::NotFound { read_in }) => {
                let nothing = CommittedChange::NOTHING.read_in(read_in);
                let confirmed = self.barrier.wait(nothing, &[], answered_at).await;
                // A reporter gets OK. A replaced primary may lack the key.
                return Err(confirmed.map_or(ServiceError::StoreUnavailable, |_| {
                    ServiceError::KeyNotFound
                }));
            }
            Ok(RevokeAnswer::Expired) => return Err(ServiceError::KeyExpired),
            Err(error) => return Err(ServiceError::from(error).with_replacement(planned)),
        };
        // P2: no reply before the change holds everywhere.
        let created = revoked
            .successor
            .as_ref()
            .map(|successor| successor.record.id);
        let successor = revoked.successor.iter().map(|key| &key.record);
        let ids = revoked.keys.iter().chain(successor).map(|key| key.id);
        let uses = self.begin_uses(ids.collect());
        let receipt = self
            .barrier
            .wait(revoked.committed, &revoked.digests, answered_at)
            .await
            .map_err(|unconfirmed| ServiceError::from(unconfirmed).with_replacement(created))?;
        self.note_revoked(&revoked, receipt, answered_at);
        let secret = match &revoked.successor {
            Some(_) if revoked.created => minted,
            // The change is committed, so a failure here must allow the caller to repeat the call.
            Some(successor) if requests_successor && is_revealer => {
                let retry = ServiceError::Unconfirmed {
                    replacement: created,
                    unsettled: None,
                };
                self.reveal(&keyring, successor, actor)
                    .await
                    .map_err(|error| match error {
                        limited @ ServiceError::TooManyReveals { .. } => limited,
                        _ => retry,
                    })?
            }
            _ => None,
        };
        Ok(RevokeReply {
            revoked,
            secret,
            receipt,
            uses: uses.end().await,
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
            RevokeTarget::Account(account) => {
                let selection = Selection::Account(account);
                return Ok(Revocation::Selection { selection, reason });
            }
            RevokeTarget::Key(id) => KeyTarget::Id(id),
            RevokeTarget::Text(text) => {
                let digests = self
                    .recognise(text.expose())
                    .map_err(|_| ServiceError::KeyNotFound)?;
                KeyTarget::Digests(digests)
            }
        };
        Ok(Revocation::Key {
            target,
            successor,
            grace,
            reason,
        })
    }

    /// Prepares a successor and its secret. The account and the recoverability of a key never change,
    /// so this can read them before the transaction.
    async fn successor_of(
        &self,
        keyring: &Keyring,
        id: KeyId,
    ) -> Result<(Successor, SecretText), ServiceError> {
        let found = self.store.get_key(&KeyTarget::Id(id)).await?;
        let predecessor: KeyRecord = found.ok_or(ServiceError::KeyNotFound)?.record;
        let (id, minted) = self.mint(keyring)?;
        let sealed = (predecessor.recoverable && !self.forbid_recoverable)
            .then(|| self.seal(keyring, id, &predecessor.account, &minted.text))
            .transpose()?;
        let successor = Successor {
            id,
            digest: minted.digest,
            generation: minted.generation,
            hint: minted.hint,
            sealed,
            lifetime: self.lifetime_of_successor(&predecessor),
        };
        Ok((successor, minted.text))
    }
}

/// `replace` and `grace` require a `key_id`: the finder of a key may revoke it immediately, but must
/// not receive its successor.
fn check(revoke: &Revoke) -> Result<(), FieldError> {
    let by_id = matches!(revoke.target, RevokeTarget::Key(_));
    if revoke.replace && !by_id {
        return Err(FieldError::new("replace", "requires the target key_id"));
    }
    if !revoke.grace.is_zero() && !by_id {
        return Err(FieldError::new("grace", "requires the target key_id"));
    }
    if revoke.grace > MAX_GRACE {
        return Err(FieldError::new("grace", "must be 0 to 30 days"));
    }
    Ok(())
}
