//! The erasure of an account: revokes its keys, then removes its personal data.

use std::sync::Arc;
use std::time::Duration;

use super::{Revoke, RevokeTarget, Service, ServiceError};
use crate::auth::Caller;
use crate::replication::Receipt;
use keyward_core::key::{AccountId, FieldError, KeyId};
use keyward_store::Actor;

/// How often the account is revoked and erased, if other calls issue keys meanwhile.
const ROUNDS: usize = 10;
/// What every pseudonym begins with.
const PSEUDONYM: &str = "erased-";

/// What was erased, and how it was confirmed.
#[derive(Debug)]
pub struct EraseReply {
    /// What replaces the account; `None` if it has no keys.
    pub pseudonym: Option<AccountId>,
    /// The number of revoked keys.
    pub revoked: u64,
    /// The number of erased keys.
    pub erased: u64,
    /// The last revision, which is confirmed.
    pub revision: u64,
    /// How it was confirmed.
    pub receipt: Receipt,
}

impl Service {
    /// Revokes all keys of an account and removes its personal data. A call that was interrupted is
    /// completed by the next one.
    pub async fn erase_account(
        self: &Arc<Self>,
        caller: &Caller,
        account: AccountId,
    ) -> Result<EraseReply, ServiceError> {
        let actor = caller.actor();
        self.change(|service| async move { service.erase_now(account, &actor).await })
            .await
    }

    async fn erase_now(
        &self,
        account: AccountId,
        actor: &Actor,
    ) -> Result<EraseReply, ServiceError> {
        let proposed = self.pseudonym()?;
        let (mut revoked, mut erased) = (0, 0);
        for _ in 0..ROUNDS {
            // P2: the keys are dead everywhere before anything is removed.
            let revoke = Revoke {
                target: RevokeTarget::Account(account.clone()),
                replace: false,
                grace: Duration::ZERO,
                reason: None,
            };
            let reply = self.revoke_now(revoke, actor, false).await?;
            revoked += reply.revoked.count;
            let erasure = self.store.erase_account(&account, &proposed, actor).await;
            // I7: the wait counts from the answer of the commit, which is later than the commit.
            let answered_at = self.clock.boot();
            let erasure = erasure?;
            erased += erasure.count;
            // A key that was issued since the revocation is not revoked yet.
            if erasure.is_complete {
                let confirmation = self.barrier.wait(erasure.committed, &[], answered_at);
                return Ok(EraseReply {
                    receipt: confirmation.await?,
                    pseudonym: erasure.pseudonym,
                    revoked,
                    erased,
                    revision: erasure.committed.revision,
                });
            }
        }
        // Other calls keep issuing keys of this account.
        Err(ServiceError::OutcomeUnknown { replacement: None })
    }

    fn pseudonym(&self) -> Result<AccountId, FieldError> {
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        let random = KeyId::from_bytes(random);
        AccountId::new("account_id", format!("{PSEUDONYM}{random}"))
    }
}
