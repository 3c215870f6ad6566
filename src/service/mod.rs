//! The use cases, in domain types: Issue, Revoke, Verify, Update, Get, List, import and export, the callers'
//! tokens, and the audit.
//! A use case that accesses the store runs on the control runtime, to its end.

mod audit;
mod erase;
mod errors;
mod expiry;
mod import;
mod issue;
mod keyring;
mod near;
mod query;
mod recent;
mod reveals;
mod revoke;
mod tokens;
mod update;
mod uses;
mod verify;
mod webhooks;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use audit::{Denials, Head};
pub use erase::EraseReply;
pub use errors::ServiceError;
pub use import::{ForeignKey, Given, GivenScheme, ImportKeys, ImportReply, ImportResult};
pub use issue::{Issue, IssueReply};
pub use keyring::{KeyringKey, KeyringRefusal};
pub use near::require_roles;
pub use query::{GetReply, Page, PageQuery};
pub use recent::{RecentRevoke, RecentRevokes};
pub use reveals::Reveals;
pub use revoke::{Revoke, RevokeReply, RevokeTarget};
pub use tokens::{NewCaller, TokenReply};
pub use update::UpdateReply;
pub use uses::KeyUses;
pub use verify::{Missed, ValidKey, Verified, Verify};
pub use webhooks::KnownWebhook;

use tokio::sync::Mutex;

use crate::cache::{ForeignKeys, Lookup, Uses};
use crate::replication::{Barrier, NearCaches};
pub use crate::replication::{NearRefusal, NearStream, Unsettled};
use crate::webhooks::Webhooks;
use keyward_core::fence::{Fence, state_at};
use keyward_core::key::{
    AccountId, Clock, Entropy, ForeignFormat, KeyId, KeyRecord, KeyState, Prefix, SecretText,
    TextForm, Timestamp,
};
use keyward_crypto::{CurrentKeyring, Digest, Keyring, Minted, SealPurpose, Sealed};
use keyward_guard::LogLimit;
use keyward_ops::Metrics;
use keyward_store::plan::key_entry;
use keyward_store::{Actor, AuditAction, Control, Store, StoredKey};

/// The use cases and their dependencies.
pub struct Service {
    /// Stores keys and tokens.
    pub store: Arc<dyn Store>,
    /// Decides whether a record may be used.
    pub fence: Arc<Fence>,
    /// Finds the records of keys.
    pub keys: Lookup<KeyRecord>,
    /// Finds the records of foreign keys.
    pub foreign_keys: Lookup<ForeignKeys>,
    /// Collects the use of keys.
    pub uses: Arc<Uses>,
    /// The formats of foreign keys.
    pub foreign_formats: Vec<ForeignFormat>,
    /// Limits the warnings about texts that name several keys.
    pub ambiguous: LogLimit,
    /// Mints, recognises and seals keys.
    pub keyring: Arc<CurrentKeyring>,
    /// The prefixes of valid keys. New keys use the first one.
    pub prefixes: Vec<Prefix>,
    /// The prefix of callers' tokens.
    pub token_prefix: Prefix,
    /// Makes a change wait until it holds everywhere.
    pub barrier: Barrier,
    /// Keeps the near-caches of callers fresh.
    pub near: Arc<NearCaches>,
    /// Held during the transaction of an import.
    pub imports: Mutex<()>,
    /// Runs work to its end.
    pub control: Control,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The source of randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The last revocations.
    pub recent: Arc<RecentRevokes>,
    /// The last refused calls.
    pub denials: Denials,
    /// How often each caller may see secrets again.
    pub reveals: Reveals,
    /// The webhooks of this instance.
    pub webhooks: Arc<Webhooks>,
    /// Whether this deployment forbids recoverable keys.
    pub forbid_recoverable: bool,
    /// The longest life of a key.
    pub max_key_age: Option<Duration>,
}

impl Service {
    /// Runs a change to its end on the control runtime, even if the caller disconnects. If the task
    /// is lost, the change may have been committed.
    async fn change<T: Send + 'static, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        let lost = ServiceError::OutcomeUnknown { replacement: None };
        let work = work(Arc::clone(self));
        self.control.run(work).await.unwrap_or(Err(lost))
    }

    /// Like `change`, for work that changes nothing.
    async fn read<T: Send + 'static, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        let lost = ServiceError::StoreUnavailable;
        let work = work(Arc::clone(self));
        self.control.run(work).await.unwrap_or(Err(lost))
    }

    /// This instance's estimate of the store's time. It is never behind the store.
    fn store_time(&self) -> Timestamp {
        self.fence.snapshot().database_time(self.clock.boot())
    }

    /// Mints a key with the first prefix.
    fn mint(&self, keyring: &Keyring) -> Result<(KeyId, Minted), ServiceError> {
        // The configuration refuses an empty list of prefixes.
        let prefix = self.prefixes.first().ok_or(ServiceError::Internal)?;
        let minted = keyring.mint(prefix, &*self.entropy);
        Ok((KeyId::draw(self.store_time(), &*self.entropy), minted))
    }

    /// Seals a copy of a recoverable key.
    fn seal(
        &self,
        keyring: &Keyring,
        id: KeyId,
        account: &AccountId,
        text: &SecretText,
    ) -> Result<Sealed, ServiceError> {
        keyring
            .seal(
                SealPurpose::RECOVERABLE_KEY,
                &id,
                account,
                text,
                &*self.entropy,
            )
            .map_err(|_| ServiceError::Internal)
    }

    /// The digests that a key's text may be stored under, or why the text is not a key. No I/O.
    fn recognise(&self, text: &str) -> Result<Vec<Digest>, Unrecognised> {
        let Ok((prefix, body)) = TextForm::read(text, &self.prefixes) else {
            return self.foreign_digests(text);
        };
        self.keyring
            .load()
            .digest_of(prefix, &body, text)
            .map(|(digest, _)| vec![digest])
            .ok_or(Unrecognised::Tag)
    }

    /// The digests that the text of a foreign key may be stored under.
    fn foreign_digests(&self, text: &str) -> Result<Vec<Digest>, Unrecognised> {
        let mut formats = self.foreign_formats.iter();
        match formats.any(|format| format.matches(text)) {
            true => Ok(self.keyring.load().foreign_digests(text).collect()),
            false => Err(Unrecognised::Malformed),
        }
    }

    /// Opens the sealed copy of a recoverable key, which was read after `keyring` was loaded. The audit
    /// entry is written before the secret is returned. `None` if the key has no sealed copy, or is revoked
    /// or expired.
    async fn reveal(
        &self,
        keyring: &Keyring,
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
        let metrics = &self.metrics.reveals;
        if let Err(retry_after) = self.reveals.take(&actor.name, self.clock.boot()) {
            metrics.refused.inc();
            self.note_refusal(actor.clone(), "reveal", || {
                "reveal exceeds max_reveals_per_minute".to_owned()
            });
            return Err(ServiceError::TooManyReveals { retry_after });
        }
        metrics.shown.inc();
        let open = |keyring: &Keyring| {
            keyring.open(
                SealPurpose::RECOVERABLE_KEY,
                &key.record.id,
                &key.record.account,
                sealed,
            )
        };
        // Another instance may have sealed it by a key that this one has loaded since.
        let opened = open(keyring).or_else(|_| open(&self.keyring.load()));
        let text = opened.map_err(|error| {
            tracing::error!(key_id = %key.record.id, %error, "cannot open the sealed copy of a key");
            ServiceError::Internal
        })?;
        let entry = key_entry(AuditAction::Reveal, &key.record, None);
        self.store.record(entry, actor).await?;
        Ok(Some(text))
    }
}

/// Why a text is refused without I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unrecognised {
    /// The text has neither the form of a key nor the format of a foreign one.
    Malformed,
    /// The form is correct, but the tag is wrong: an invented key.
    Tag,
}
