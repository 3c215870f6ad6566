//! The contract of a store. Every backend passes `tests/contract`, and no type or error of a
//! database driver appears here. Run each call through [`Control`], so that no caller can drop the
//! future of a write before the write ends.

pub mod audit;
pub mod audit_chain;
mod commands;
mod control;
pub mod import;
mod instrumentation;
mod intercept;
pub mod keyring;
mod listing;
pub mod plan;
pub mod raw;
pub mod rows;
pub mod selection;
mod time_repair;
pub mod webhooks;

pub use audit::{AuditEvent, AuditPage, AuditPart, AuditQuery, AuditSeal, Origin, Trimming};
pub use audit_chain::Sealing;
pub use commands::{
    Actor, AuditAction, AuditEntry, ChangeNotice, Confirmed, Erasure, Expiry, Found, Issued,
    KeyChanges, KeyTarget, NewInstance, NewKey, NewToken, OnCommit, Revocation, RevokeAnswer,
    Revoked, Selection, StoredKey, Successor, TokenRevoked, UpdateAnswer, Updated,
};
pub use control::{Control, Lost};
pub use import::{Import, ImportOutcome, Imported, ImportedKey};
pub use instrumentation::Instrumentation;
pub use intercept::{Intercepted, Interceptor};
pub use keyring::{Activation, KeyringUse, KnownKey, KnownState, Retirement, SealMove};
pub use keyward_core::fence::CommittedChange;
pub use listing::{EXAMINED, KeyPage, ListKeys};
pub use time_repair::{ExpiringKey, ExpiringKeys, TimeRepair, TimeSurvey};
pub use webhooks::{
    Attempt, AttemptOutcome, ClaimedEvent, EventKind, EventPlace, ExpiryPlace, ExpiryStep, Replay,
    Replayed, Webhook, WebhookStatus,
};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use keyward_core::fence::{Epoch, Membership, Page, Position, RegistrationId, Start};
use keyward_core::key::{AccountId, FieldError, KeyId, KeyRecord, KeyUse, Prefix, TokenRecord};
use keyward_crypto::{CheckValue, Digest, KeyName};

/// Why a store call failed. The text is for the operator's log; a caller gets a status.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The call changed nothing. It may succeed later.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The change may or may not be durable. Repeating the call is safe.
    #[error("the outcome of a commit is not known: {0}")]
    OutcomeUnknown(String),
    /// The store holds data that its schema forbids, or it refused a statement as invalid.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Another session of the database holds a lock that the change needs. Nothing changed, and a
    /// repetition helps once that session has ended its transaction.
    #[error("the store is locked: {0}")]
    Locked(String),
    /// The store refuses this program until an operator acts, for example because a right is
    /// missing. The call changed nothing, and a repetition does not help.
    #[error("the store refuses this program: {0}")]
    Refused(String),
}

impl From<FieldError> for StoreError {
    fn from(error: FieldError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Why a store cannot be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// Refuses a database in which sqlx keeps the migrations of another program. `known` and `applied`
/// are versions and descriptions; `place` names the database.
pub fn refuse_foreign_schema<'a>(
    place: &str,
    mut known: impl Iterator<Item = (i64, &'a str)>,
    applied: &[(i64, String)],
) -> Result<(), OpenError> {
    let ours = known.any(|(version, name)| applied.contains(&(version, name.to_owned())));
    match applied.first() {
        Some((version, name)) if !ours => Err(OpenError(format!(
            "{place} belongs to another program: its table _sqlx_migrations starts with migration \
             {version}, '{name}'. Nothing was changed. Give Keyward a database of its own"
        ))),
        _ => Ok(()),
    }
}

/// The result of a store call.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// API keys.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    /// Returns the key in the slot, or creates `new` there. A key that has expired by the store's
    /// time is revoked and replaced. Concurrent calls for one slot return the same key.
    async fn issue(&self, new: NewKey, actor: &Actor) -> Result<Issued>;

    /// Stores keys of another system, in one transaction that logs [`KeyId::IMPORTS`]. A key that the store
    /// has already, dead or alive, stays as it is.
    async fn import(&self, import: Import, actor: &Actor) -> Result<Imported>;

    /// Revokes one key, or all keys of an account or of an import. A key that already has a revoke time can only
    /// get an earlier one.
    async fn revoke(&self, revocation: Revocation, actor: &Actor) -> Result<RevokeAnswer>;

    /// Changes a key that has no revoke time and has not expired.
    async fn update(&self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer>;

    /// Finds keys by digest, and reads the head of the log in the same snapshot. The answer is in the
    /// order of `digests`, of which there is at least one.
    async fn find_keys(&self, digests: &[Digest]) -> Result<Vec<Found<KeyRecord>>>;

    /// Reads a key and its sealed copy, if there is one. Never answered from a cache.
    async fn get_key(&self, target: &KeyTarget) -> Result<Option<StoredKey>>;

    /// Revokes keys and tokens whose grace has ended by the store's time: what the time says becomes
    /// a fact. Each is a logged change. Takes one step of at most 500 of each, and returns their
    /// number.
    async fn end_graces(&self) -> Result<u64>;

    /// Lists keys in order of creation. Examines a limited number of them.
    async fn list_keys(&self, query: ListKeys) -> Result<KeyPage>;

    /// Reads the key whose successor is `id`.
    async fn predecessor(&self, id: KeyId) -> Result<Option<KeyRecord>>;

    /// Removes the personal data of an account from its revoked keys and from their audit entries, in
    /// steps. `pseudonym` replaces the account and the names, unless an earlier call that was interrupted
    /// has begun with another one. Each changed key is a logged change.
    async fn erase_account(
        &self,
        account: &AccountId,
        pseudonym: &AccountId,
        actor: &Actor,
    ) -> Result<Erasure>;

    /// Notes that new keys get the first of `accepted`. Returns each other prefix that keys were
    /// given and that is not in `accepted`, with the number of its keys without revoke time.
    async fn note_prefixes(&self, accepted: &[Prefix]) -> Result<Vec<(String, u64)>>;
}

/// The use of keys. Noting it is no change of a key: it writes no row of the log, waits for no change, and
/// no change waits for it.
#[async_trait]
pub trait Usage: Send + Sync + 'static {
    /// Adds to the stored use of keys, of which each is named once. The store cuts times to its own time
    /// and ignores a key that it does not have. What this writes need not survive a crash of the server.
    async fn note_uses(&self, uses: &[(KeyId, KeyUse)]) -> Result<()>;

    /// Reads the use of keys, of which each is named once, in any order, without those that have none.
    async fn uses_of(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, KeyUse)>>;
}

/// The events for webhooks. A change writes its events in its own commit. Noting what became of them changes no
/// key, and need not survive a crash of the server: an event is delivered at least once.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Names webhooks: from now on changes write events for them. Webhooks that no call has named for
    /// [`webhooks::FORGOTTEN_AFTER`] are forgotten.
    async fn name_webhooks(&self, webhooks: &[Webhook]) -> Result<()>;

    /// Claims at most `limit` events for `webhook` that are due. Of the events about one key only the first is
    /// claimed. Others may claim the events after `lease`.
    async fn claim_events(
        &self,
        webhook: &str,
        limit: u32,
        lease: Duration,
    ) -> Result<Vec<ClaimedEvent>>;

    /// Notes the ends of attempts. No event of a webhook whose receiver is gone is claimed until a replay.
    async fn note_attempts(&self, attempts: &[Attempt]) -> Result<()>;

    /// Reads what waits for each webhook.
    async fn webhook_status(&self) -> Result<Vec<WebhookStatus>>;

    /// Makes events of a webhook due again, in one step of at most [`webhooks::REPLAY_STEP`], and returns
    /// their places. Failures of attempts that began before no longer count.
    async fn replay_events(&self, replay: &Replay) -> Result<Vec<EventPlace>>;

    /// Writes an event for live keys that expire within `notice`, unless one was written for this expiry or no
    /// webhook gets such events. A step begins at `place`, looks at no more than
    /// [`webhooks::EXPIRING_LOOKED_AT`] keys, and notes at most [`webhooks::EXPIRING_STEP`] of them.
    async fn note_expiring(&self, notice: Duration, place: ExpiryPlace) -> Result<ExpiryStep>;

    /// Gives up events that have waited for [`webhooks::KEPT`], and deletes what is older than that, in short
    /// steps. Returns the number of rows.
    async fn trim_outbox(&self) -> Result<u64>;
}

/// The log of changes.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Reads the position at which a new instance starts.
    async fn start(&self) -> Result<Start>;

    /// Reads the head, the mark at `applied` and the first rows after it, in one snapshot.
    async fn tail(&self, applied: u64) -> Result<Page>;

    /// Deletes log rows older than a day, in one step of at most 10,000, and returns their number.
    /// The last row and the row at `pruned_to` always stay.
    async fn trim(&self) -> Result<u64>;

    /// For how long near-caches of an earlier process may have been fresh after its end, if there were any.
    /// Only an embedded store keeps it. On a shared store the row of that process stays until they are not.
    async fn near_bound(&self) -> Result<Option<Duration>>;

    /// Notes for how long near-caches may be fresh after the end of this process; `None`: there are none.
    async fn set_near_bound(&self, bound: Option<Duration>) -> Result<()>;
}

/// Callers' tokens.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// Stores a new token. `None` if another one has its digest. (A revoked name of a certificate is free
    /// again.)
    async fn create_token(&self, new: NewToken, actor: &Actor) -> Result<Option<TokenRecord>>;

    /// Finds tokens as [`Keys::find_keys`] finds keys. A revoked name of a certificate is not found.
    async fn find_tokens(&self, digests: &[Digest]) -> Result<Vec<Found<TokenRecord>>>;

    /// Lists at most `limit` tokens after `after`, in order of creation, without those that expired longer ago
    /// than `expired_within`.
    async fn list_tokens(
        &self,
        include_revoked: bool,
        expired_within: Option<Duration>,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<TokenRecord>>;

    /// Revokes a token; a revoked token does not change. `None` if there is no such token.
    async fn revoke_token(&self, id: KeyId, actor: &Actor) -> Result<Option<TokenRevoked>>;

    /// Whether a token was ever created. If not, no key was ever created either.
    async fn has_tokens(&self) -> Result<bool>;

    /// Whether a live token has the role `admin`. If not, no caller can create another token.
    async fn has_admin(&self) -> Result<bool>;
}

/// The record of who did what.
#[async_trait]
pub trait Audit: Send + Sync + 'static {
    /// Writes one entry, durable when this returns. (A change writes its entry in its own commit.)
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()>;

    /// Lists events, in the order of their times.
    async fn list_events(&self, query: &AuditQuery) -> Result<AuditPage>;

    /// Seals the events that no seal covers, at most [`Sealing::LIMIT`]. Returns the seal and the number of
    /// its events; `None` if no seal is due, or another instance seals now.
    async fn seal_events(&self, sealing: &Sealing) -> Result<Option<(AuditSeal, usize)>>;

    /// Reads the chain from the seal `known` on, or from its beginning if there is no such seal: at most
    /// about `limit` events, but at least one more seal if there is one.
    async fn audit_part(&self, known: i64, limit: usize) -> Result<AuditPart>;

    /// Deletes old events, by whole seals, in one step of about [`audit::Trimming::STEP`], and records that.
    /// The last seal of the deleted events stays. Returns the number of events.
    async fn trim_events(&self, trimming: &Trimming) -> Result<u64>;
}

/// The keyring that belongs to the store.
#[async_trait]
pub trait KeyringChecks: Send + Sync + 'static {
    /// Reads the keys of the keyring.
    async fn known_keys(&self) -> Result<Vec<KnownKey>>;

    /// Adds check values of required keys that the store does not hold yet.
    async fn add_check_values(&self, values: &[CheckValue]) -> Result<()>;

    /// Adds check values of keys that an instance has loaded and that nothing needs yet. The store's own
    /// values stay.
    async fn note_loaded(&self, values: &[CheckValue]) -> Result<()>;

    /// Makes a key the active one of its kind, if every registered instance has loaded it.
    /// An instance that registers later needs it.
    async fn activate(&self, name: KeyName, actor: &Actor) -> Result<Activation>;

    /// Retires a key that nothing needs. From then on the store refuses keys,
    /// tokens and sealed copies that are made with it, also by a call that has begun before.
    async fn retire(&self, name: KeyName, actor: &Actor) -> Result<Retirement>;

    /// Reads what uses the keyring. Takes seconds in a large store.
    async fn keyring_use(&self) -> Result<KeyringUse>;

    /// Reads keys with a copy under the sealing key `seal`, after `after` in the order of their ids.
    async fn sealed_under(
        &self,
        seal: u32,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<StoredKey>>;

    /// Replaces sealed copies that have not changed since they were read, and returns their number. This
    /// is no change of a record. A revoked key gets no copy.
    async fn move_seals(&self, moves: Vec<SealMove>) -> Result<u64>;
}

/// The instances that share a store. Only a shared store has a cluster: an embedded store serves
/// one process, and its lock proves that there is no other.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Adds the row of an instance in a commit of its own. Refuses an instance that lacks a required key
    /// of the keyring.
    async fn register(&self, instance: &NewInstance) -> Result<()>;

    /// Writes `heartbeat + 1` and `acked` to the instance's row, and reads the log like
    /// [`Log::tail`], in one statement. `None` if the instance has no row. Returns
    /// [`StoreError::OutcomeUnknown`] after a timeout: the statement may still lock the row.
    async fn heartbeat(
        &self,
        registration: RegistrationId,
        acked: Position,
        applied: u64,
    ) -> Result<Option<Page>>;

    /// Writes to the instance's row that it has applied the log up to `acked`. The write need not
    /// survive a crash, because it only describes that instance's memory.
    async fn acknowledge(&self, registration: RegistrationId, acked: Position) -> Result<()>;

    /// Writes to the instance's row which keys of the keyring it has loaded, as in
    /// [`NewInstance::loaded`].
    async fn report_keyring(&self, registration: RegistrationId, loaded: &[KeyName]) -> Result<()>;

    /// Deletes the instance's own row. The instance must have ended its freshness before. Returns
    /// [`StoreError::Locked`] at once while another session has locked the row.
    async fn leave(&self, registration: RegistrationId) -> Result<()>;

    /// Reads all rows in a new snapshot. An acknowledgement counts only if its mark stands in the log
    /// of this snapshot.
    async fn membership(&self) -> Result<Membership>;

    /// Names `epoch` as settled if it is still the store's epoch.
    async fn settle(&self, epoch: Epoch) -> Result<()>;

    /// Deletes the row of an unresponsive instance if its heartbeat is still `beat` and no other session
    /// has locked it. Returns whether it did.
    async fn reap(&self, registration: RegistrationId, beat: u64) -> Result<bool>;

    /// Raises the floor of the store's time to the server's clock, unless another call does so now.
    /// Returns by how much the floor is ahead of that clock.
    async fn raise_time_floor(&self) -> Result<Duration>;

    /// Reads all rows like [`Self::membership`]. If all other instances have acknowledged `once_acked` there,
    /// the same statement commits a write to the row of `registration`, if it exists, and checks that
    /// `changes` still stand. [`CommittedChange::NOTHING`] always stands.
    async fn confirm(
        &self,
        registration: RegistrationId,
        changes: &[CommittedChange],
        once_acked: u64,
    ) -> Result<Confirmed>;

    /// Waits for the next change notice. An instance sends one after each commit that changes
    /// something; a notice may be lost.
    async fn next_change_notice(&self) -> ChangeNotice;

    /// Calls `on_commit` after each commit that changes something, in addition to the change
    /// notice. `on_commit` must not block. Only the first call of this method has an effect.
    fn set_on_commit(&self, on_commit: OnCommit);
}

/// A backend: everything above.
#[async_trait]
pub trait Store: Keys + Usage + Outbox + Log + Tokens + Audit + KeyringChecks {
    /// The instances that share this store; `None` for an embedded store.
    fn cluster(&self) -> Option<Arc<dyn Cluster>>;

    /// Closes all connections. Everything committed is on disk.
    async fn close(&self);
}
