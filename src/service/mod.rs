//! The use cases, in domain types: what Issue, Revoke, Verify, Update, Get, List and the callers'
//! tokens do. Each that touches the store runs on the control runtime, to its end.

mod errors;
mod issue;
mod query;
mod revoke;
mod tokens;
mod update;
mod verify;

use std::future::Future;
use std::sync::Arc;

pub use errors::ServiceError;
pub use issue::{Issue, IssueReply};
pub use query::{Page, PageQuery};
pub use revoke::{Revoke, RevokeReply, RevokeTarget};
pub use tokens::{TokenReply, TokenRevokeReply};
pub use update::UpdateReply;
pub use verify::{Verified, Verify};

use crate::cache::Lookup;
use crate::replication::Barrier;
use keyward_core::fence::{Fence, state_at};
use keyward_core::key::{
    AccountId, Clock, Entropy, KeyId, KeyRecord, KeyState, Prefix, SecretText, TextForm, Timestamp,
};
use keyward_crypto::{Digest, Keyring, Minted, SealPurpose, Sealed};
use keyward_ops::Metrics;
use keyward_store::{Actor, AuditAction, AuditEntry, Control, Store, StoredKey};

/// What the use cases stand on.
pub struct Service {
    /// Where keys and tokens are kept.
    pub store: Arc<dyn Store>,
    /// Whether a key lives.
    pub fence: Arc<Fence>,
    /// Finds the records of keys.
    pub keys: Lookup<KeyRecord>,
    /// Mints, recognises and seals.
    pub keyring: Arc<Keyring>,
    /// The first writes, all read.
    pub prefixes: Vec<Prefix>,
    /// The prefix of callers' tokens.
    pub token_prefix: Prefix,
    /// Lets a change wait until it holds everywhere.
    pub barrier: Barrier,
    /// Runs what must come to its end.
    pub control: Control,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Whether this deployment refuses to keep sealed copies.
    pub forbid_recoverable: bool,
}

impl Service {
    /// Runs a change to its end on the control runtime; a caller that goes away stops waiting for
    /// it, and nothing else. If its end is not seen, nobody knows what was committed.
    async fn change<T: Send + 'static, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        let unknown = ServiceError::OutcomeUnknown { replacement: None };
        self.complete(unknown, work).await
    }

    /// The same for work that changes nothing.
    async fn read<T: Send + 'static, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        self.complete(ServiceError::StoreUnavailable, work).await
    }

    async fn complete<T: Send + 'static, F>(
        self: &Arc<Self>,
        lost: ServiceError,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        let work = work(Arc::clone(self));
        self.control.run(work).await.unwrap_or(Err(lost))
    }

    /// The store's time as this instance knows it: never behind the store.
    fn store_time(&self) -> Timestamp {
        self.fence.snapshot().database_time(self.clock.boot())
    }

    /// A new key's secret under the first prefix.
    fn mint(&self) -> Result<(KeyId, Minted), ServiceError> {
        // Configuration refuses an empty list of prefixes.
        let prefix = self.prefixes.first().ok_or(ServiceError::Internal)?;
        let minted = self.keyring.mint(prefix, &*self.entropy);
        Ok((KeyId::draw(self.store_time(), &*self.entropy), minted))
    }

    /// The sealed copy of a key that can be shown again.
    fn seal(
        &self,
        id: KeyId,
        account: &AccountId,
        text: &SecretText,
    ) -> Result<Sealed, ServiceError> {
        self.keyring
            .seal(
                SealPurpose::RECOVERABLE_KEY,
                &id,
                account,
                text,
                &*self.entropy,
            )
            .map_err(|_| ServiceError::Internal)
    }

    /// The digest of a key's text, or why it is none. No I/O.
    fn recognise(&self, text: &str) -> Result<Digest, NotOurs> {
        let (prefix, body) =
            TextForm::read(text, &self.prefixes).map_err(|_| NotOurs::Malformed)?;
        self.keyring
            .digest_of(prefix, &body, text)
            .map(|(digest, _)| digest)
            .ok_or(NotOurs::Tag)
    }

    /// Shows a recoverable key again: the audit says so before the secret leaves. `None` when
    /// there is no sealed copy or the key does not live.
    async fn reveal(
        &self,
        key: &StoredKey,
        actor: &Actor,
    ) -> Result<Option<SecretText>, ServiceError> {
        let ended = matches!(
            state_at(&key.record, self.store_time()),
            KeyState::Revoked | KeyState::Expired
        );
        let Some(sealed) = key.sealed.as_ref().filter(|_| !ended) else {
            return Ok(None);
        };
        let opened = self.keyring.open(
            SealPurpose::RECOVERABLE_KEY,
            &key.record.id,
            &key.record.account,
            sealed,
        );
        let text = opened.map_err(|error| {
            tracing::error!(key_id = %key.record.id, %error, "a sealed copy does not open");
            ServiceError::Internal
        })?;
        let entry = AuditEntry {
            action: AuditAction::Reveal,
            id: Some(key.record.id),
            account: Some(key.record.account.clone()),
            detail: None,
        };
        self.store.record(entry, actor).await?;
        Ok(Some(text))
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

/// Why a text is refused without any I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotOurs {
    /// Not the text form of a key.
    Malformed,
    /// The form is right, the tag is not: invented.
    Tag,
}
