//! What is asked of a store and what it answers, in domain types.

use std::time::Duration;

use keyward_core::fence::{CommittedChange, Epoch, RegistrationId, Stamp};
use keyward_core::key::{
    AccountId, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Roles, Scopes, SlotName,
    Timestamp, TokenRecord,
};
use keyward_crypto::{Digest, Sealed};

/// On whose behalf a change is made; kept in the log and in the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The caller's token; `None` for the service itself.
    pub token: Option<KeyId>,
    /// The caller's name.
    pub name: String,
}

/// A key to be created: its public parts and what a store keeps of its secret.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its public name.
    pub id: KeyId,
    /// The digest of its text.
    pub digest: Digest,
    /// The keyring generation of tag and digest.
    pub generation: u32,
    /// How people name it.
    pub hint: Hint,
    /// The sealed copy, for a recoverable key.
    pub sealed: Option<Sealed>,
    /// Whose key it is.
    pub account: AccountId,
    /// The slot it takes.
    pub name: SlotName,
    /// What it may do.
    pub scopes: Scopes,
    /// The owner's notes.
    pub metadata: Metadata,
    /// From where it may be used.
    pub networks: Networks,
    /// When it expires.
    pub expiry: Expiry,
}

/// When a new key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// At a time.
    At(Timestamp),
    /// So long after its creation, by the store's time.
    After(Duration),
}

/// What Issue found or made.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The key that holds the slot now.
    pub key: StoredKey,
    /// Whether it was made by this call.
    pub created: bool,
}

/// A record and the sealed copy beside it.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The record.
    pub record: KeyRecord,
    /// The sealed copy; only a recoverable key without revoke time has one.
    pub sealed: Option<Sealed>,
}

/// Which key is meant.
#[derive(Clone, Debug)]
pub enum KeyTarget {
    /// By its public name.
    Id(KeyId),
    /// By its text, of which a store knows the digest.
    Digest(Digest),
}

/// What makes the key that replaces another; the rest it takes from its predecessor.
#[derive(Clone, Debug)]
pub struct Successor {
    /// Its public name.
    pub id: KeyId,
    /// The digest of its text.
    pub digest: Digest,
    /// The keyring generation of tag and digest.
    pub generation: u32,
    /// How people name it.
    pub hint: Hint,
    /// The sealed copy, if it is recoverable as its predecessor.
    pub sealed: Option<Sealed>,
}

/// What is to be revoked, and how.
#[derive(Clone, Debug)]
pub enum Revocation {
    /// One key.
    Key {
        /// Which one.
        target: KeyTarget,
        /// The key to put in its slot, if it had no revoke time so far.
        successor: Option<Successor>,
        /// How long it may live on. A key with a revoke time can only get an earlier one.
        grace: Duration,
        /// Kept with the first revocation.
        reason: Option<Reason>,
    },
    /// Every key of an account, at once.
    Account {
        /// Whose keys.
        account: AccountId,
        /// Kept with each that had no revoke time.
        reason: Option<Reason>,
    },
}

/// What Revoke found.
#[derive(Clone, Debug)]
pub enum RevokeAnswer {
    /// There is no such key.
    NotFound,
    /// A successor was asked for, but the key has expired; nothing was changed.
    Expired,
    /// It is done, now or before.
    Done(Box<Revoked>),
}

/// What Revoke did.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// For a single target the key, for an account the keys this call changed; at most
    /// [`Revoked::LISTED`].
    pub keys: Vec<KeyRecord>,
    /// The digests of `keys`, in any order: under them a shared cache may hold them.
    pub digests: Vec<Digest>,
    /// How many there are in all.
    pub count: u64,
    /// The successor, made by this call or an earlier one.
    pub successor: Option<StoredKey>,
    /// Whether this call made the successor.
    pub created: bool,
    /// From when on all of `keys` are dead; `None` when there are none.
    pub revoke_time: Option<Timestamp>,
    /// The highest change on the targeted rows, those that were revoked before included.
    pub committed: CommittedChange,
}

impl Revoked {
    /// How many records are listed at most.
    pub const LISTED: usize = 100;
}

/// The fields to change; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct KeyChanges {
    /// What it may do.
    pub scopes: Option<Scopes>,
    /// The owner's notes.
    pub metadata: Option<Metadata>,
    /// From where it may be used.
    pub networks: Option<Networks>,
    /// When it expires; `Some(None)` is never.
    pub expire_time: Option<Option<Timestamp>>,
    /// Whether it is switched off.
    pub disabled: Option<bool>,
}

/// What Update found.
#[derive(Clone, Debug)]
pub enum UpdateAnswer {
    /// There is no such key.
    NotFound,
    /// The key has a revoke time; nothing was changed.
    Revoked,
    /// The key has expired, by the store's time; nothing was changed.
    Expired,
    /// It is changed, or was as asked for.
    Done(Box<Updated>),
}

/// What Update did.
#[derive(Clone, Debug)]
pub struct Updated {
    /// The key as it is now.
    pub record: KeyRecord,
    /// Under what a shared cache may hold it.
    pub digest: Digest,
    /// Its last change.
    pub committed: CommittedChange,
}

/// What a store holds under a digest, with the head of the same snapshot (I2).
#[derive(Clone, Debug)]
pub struct Found<R> {
    /// The record, if there is one.
    pub record: Option<R>,
    /// How recent that answer is.
    pub stamp: Stamp,
}

/// A page of an account's keys.
#[derive(Clone, Debug)]
pub struct ListKeys {
    /// Whose keys.
    pub account: AccountId,
    /// Whether those whose revoke time has passed are wanted too.
    pub include_revoked: bool,
    /// Only keys after this one.
    pub after: Option<KeyId>,
    /// At most so many.
    pub limit: u32,
}

/// A token to be created.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its public name.
    pub id: KeyId,
    /// The digest of its text.
    pub digest: Digest,
    /// The keyring generation of tag and digest.
    pub generation: u32,
    /// The caller's name.
    pub name: SlotName,
    /// What it may call.
    pub roles: Roles,
}

/// What RevokeToken did.
#[derive(Clone, Debug)]
pub struct TokenRevoked {
    /// The token as it is now.
    pub record: TokenRecord,
    /// Its last change.
    pub committed: CommittedChange,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditAction {
    /// A key was created.
    Issue,
    /// A secret was shown again.
    Reveal,
    /// A key was revoked and succeeded.
    Replace,
    /// A key was revoked.
    Revoke,
    /// A key was changed.
    Update,
    /// A token was created.
    TokenCreate,
    /// A token was revoked.
    TokenRevoke,
}

impl AuditAction {
    /// The name as it stands in the store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Reveal => "reveal",
            Self::Replace => "replace",
            Self::Revoke => "revoke",
            Self::Update => "update",
            Self::TokenCreate => "token_create",
            Self::TokenRevoke => "token_revoke",
        }
    }
}

/// One line of the audit.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// What was done.
    pub action: AuditAction,
    /// To which key or token; `None` for a whole account.
    pub id: Option<KeyId>,
    /// Of which account.
    pub account: Option<AccountId>,
    /// What else is worth keeping; never key material.
    pub detail: Option<String>,
}

/// An instance that registers.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// Its name for this registration.
    pub registration: RegistrationId,
    /// For people: host and address.
    pub name: String,
    /// How long it may answer without news.
    pub max_staleness: Duration,
    /// Generations of the keyring that it has loaded.
    pub generations: Vec<u32>,
}

/// Whether changes still stand, asked by a statement that also committed a write of this
/// instance's row.
#[derive(Clone, Debug)]
pub struct Confirmed {
    /// The epoch in which it was asked.
    pub epoch: Epoch,
    /// Whether the instance has a row.
    pub registered: bool,
    /// For each change in order, whether its revision and mark stand on the row or in the log.
    pub stands: Vec<bool>,
}

/// Tells by another way that something has changed.
pub type OnCommit = Box<dyn Fn() + Send + Sync>;

/// What came of waiting for a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeNotice {
    /// Some instance has changed something.
    Changed,
    /// Hints may have been lost: look.
    Lost,
}
