//! What a store must do: the contract that every backend passes (`tests/contract`). No
//! driver's type or error passes this line. A call must not run in a future that a caller can
//! drop ([`Control`] runs them): a write that was begun is always brought to its end.

mod commands;
mod control;
mod instrumented;
pub mod plan;

pub use commands::{
    Actor, AuditAction, AuditEntry, ChangeNotice, Confirmed, Expiry, Found, Issued, KeyChanges,
    KeyTarget, ListKeys, NewInstance, NewKey, NewToken, OnCommit, Revocation, RevokeAnswer,
    Revoked, StoredKey, Successor, TokenRevoked, UpdateAnswer, Updated,
};
pub use control::{Control, Lost};
pub use instrumented::Instrumented;
pub use keyward_core::fence::CommittedChange;

use async_trait::async_trait;

use keyward_core::fence::{Membership, Page, RegistrationId, Start};
use keyward_core::key::{KeyId, KeyRecord, TokenRecord};
use keyward_crypto::{CheckValue, Digest};

/// Why a store call failed. The texts are for operators' logs; callers get a status.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing was changed; the same call may succeed later.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The change may or may not be durable; the same call again is safe.
    #[error("the outcome of a commit is not known: {0}")]
    OutcomeUnknown(String),
    /// The store holds what it should not be able to hold.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// Why a store cannot be opened: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// The result of a store call.
pub type Result<T> = std::result::Result<T, StoreError>;

/// API keys.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    /// Gives the key that holds the slot, or puts `new` there. One that is expired by the
    /// store's time is revoked and succeeded. Concurrent calls for one slot give one key.
    async fn issue(&self, new: NewKey, actor: &Actor) -> Result<Issued>;

    /// Revokes all that is named, in one commit. A key that has a revoke time already stays as it
    /// is, but for a shorter grace.
    async fn revoke(&self, revocation: Revocation, actor: &Actor) -> Result<RevokeAnswer>;

    /// Changes a key that has neither a revoke time nor expired.
    async fn update(&self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer>;

    /// The record behind a digest, and the head of the log in the same snapshot.
    async fn find_key(&self, digest: &Digest) -> Result<Found<KeyRecord>>;

    /// The record of a key and its sealed copy, if it keeps one; never from a cache.
    async fn get_key(&self, target: &KeyTarget) -> Result<Option<StoredKey>>;

    /// Keys of an account in order of creation.
    async fn list_keys(&self, query: ListKeys) -> Result<Vec<KeyRecord>>;
}

/// The log of changes.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Where a new instance begins.
    async fn start(&self) -> Result<Start>;

    /// The head, the mark at `applied` and the rows after it, in one snapshot.
    async fn tail(&self, applied: u64) -> Result<Page>;

    /// Drops log rows older than a day, never the last nor the row at `pruned_to`; answers how
    /// many went.
    async fn trim(&self) -> Result<u64>;
}

/// The instances that share a store. What is given here is for a store that serves one process,
/// which needs no row to prove that it is the only one; a shared store does all of it itself.
#[async_trait]
pub trait Members: Log {
    /// Whether other processes may serve from this store at the same time.
    fn shared(&self) -> bool {
        false
    }

    /// Adds an instance's row, in a commit of its own, which is answered when this returns.
    async fn register(&self, _instance: &NewInstance) -> Result<()> {
        Ok(())
    }

    /// One statement that writes the instance's row, `heartbeat + 1` and `applied`, and reads the log
    /// like [`Log::tail`]. `None` when there is no such row. [`StoreError::OutcomeUnknown`] when
    /// it hung and was given up: it may still hold the row.
    async fn heartbeat(&self, _boot: RegistrationId, applied: u64) -> Result<Option<Page>> {
        self.tail(applied).await.map(Some)
    }

    /// Writes to the instance's row that it has applied the log up to `applied`. It need not
    /// survive a crash: it only states what that instance's memory holds.
    async fn acknowledge(&self, _boot: RegistrationId, _applied: u64) -> Result<()> {
        Ok(())
    }

    /// Deletes the instance's own row; its freshness is off.
    async fn leave(&self, _boot: RegistrationId) -> Result<()> {
        Ok(())
    }

    /// All rows, in a new snapshot; `None` when the store is not shared.
    async fn membership(&self) -> Result<Option<Membership>> {
        Ok(None)
    }

    /// Deletes the row of a silent instance if its heartbeat is still this one; whether it did.
    async fn reap(&self, _boot: RegistrationId, _beat: u64) -> Result<bool> {
        Ok(false)
    }

    /// Whether `changes` stand, asked by a statement that also commits a write of `boot`'s row;
    /// `None` when the store is not shared.
    async fn confirm(
        &self,
        _boot: RegistrationId,
        _changes: &[CommittedChange],
    ) -> Result<Option<Confirmed>> {
        Ok(None)
    }

    /// Waits for a hint that some instance has changed something; whoever changes gives one, after
    /// its commit. It may be lost.
    async fn hint(&self) -> ChangeNotice {
        std::future::pending().await
    }

    /// Has `on_commit` called right after each commit that changes something, beside the store's own hint.
    /// It must not block; only the first one counts.
    fn set_on_commit(&self, _herald: OnCommit) {}
}

/// Callers' tokens.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// Stores a new token.
    async fn create_token(&self, new: NewToken, actor: &Actor) -> Result<TokenRecord>;

    /// The record behind a digest, and the head of the log in the same snapshot.
    async fn find_token(&self, digest: &Digest) -> Result<Found<TokenRecord>>;

    /// Tokens in order of creation, after `after`, at most `limit`.
    async fn list_tokens(
        &self,
        include_revoked: bool,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<TokenRecord>>;

    /// Revokes a token; one that is revoked already stays as it is. `None` when there is none.
    async fn revoke_token(&self, id: KeyId, actor: &Actor) -> Result<Option<TokenRevoked>>;

    /// Whether there has ever been a token: if not, there has never been a key either.
    async fn has_tokens(&self) -> Result<bool>;

    /// Whether a token with the role `admin` lives: if not, nobody can make another one.
    async fn has_admin(&self) -> Result<bool>;
}

/// The record of who did what.
#[async_trait]
pub trait Audit: Send + Sync + 'static {
    /// Writes one entry, durable when this returns. (Changes write theirs in their own commit.)
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()>;
}

/// The check values of the keyring that a store was made with.
#[async_trait]
pub trait KeyringChecks: Send + Sync + 'static {
    /// All check values.
    async fn check_values(&self) -> Result<Vec<CheckValue>>;

    /// Adds check values that are new to the store.
    async fn add_check_values(&self, values: &[CheckValue]) -> Result<()>;

    /// The generation that new keys are born in; `None` before the first was activated.
    async fn active_generation(&self) -> Result<Option<u32>>;

    /// Lets new keys be born in this generation, whose check value the store must hold.
    async fn activate_generation(&self, number: u32) -> Result<()>;
}

/// All of it: what a backend implements.
#[async_trait]
pub trait Store: Keys + Log + Members + Tokens + Audit + KeyringChecks {
    /// Ends all connections; what was committed is on disk.
    async fn close(&self);
}
