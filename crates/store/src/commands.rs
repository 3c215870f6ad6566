//! The arguments and results of store calls, in domain types.

use std::time::Duration;

use super::audit::Origin;
use keyward_core::fence::{CommittedChange, Epoch, Membership, RegistrationId, Stamp};
use keyward_core::key::{
    AccountId, BatchId, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Roles, San, Scopes,
    SlotName, Timestamp, TokenRecord,
};
use keyward_crypto::{Digest, KeyName, Sealed};

/// On whose behalf a change is made. Kept in the log and in the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The caller's token; `None` for the service itself.
    pub token: Option<KeyId>,
    /// The caller's name.
    pub name: String,
    /// From where the caller asked for the change.
    pub origin: Origin,
}

impl Actor {
    /// The service itself.
    pub fn service() -> Self {
        Self {
            token: None,
            name: "keyward".to_owned(),
            origin: Origin::default(),
        }
    }
}

/// A key to create: its public fields, and what a store keeps of its secret.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The public name.
    pub id: KeyId,
    /// The digest of the key text.
    pub digest: Digest,
    /// The keyring generation of tag and digest.
    pub generation: u32,
    /// See [`Hint`].
    pub hint: Hint,
    /// The sealed copy, for a recoverable key.
    pub sealed: Option<Sealed>,
    /// The account that owns the key.
    pub account: AccountId,
    /// The slot that the key takes.
    pub name: SlotName,
    /// What the key may do.
    pub scopes: Scopes,
    /// The owner's notes.
    pub metadata: Metadata,
    /// The networks from which the key may be used.
    pub networks: Networks,
    /// When the key expires.
    pub expiry: Expiry,
}

/// When a new key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// At a time.
    At(Timestamp),
    /// This long after the creation, by the store's time.
    After(Duration),
}

impl Expiry {
    /// The time of the expiry of what is created at `now`.
    pub fn end(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::At(end) => Some(end),
            Self::After(ttl) => Some(now.plus(ttl)),
        }
    }
}

/// The result of Issue.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The key in the slot.
    pub key: StoredKey,
    /// Whether this call created it.
    pub created: bool,
    /// The epoch of the read that found the key; `None` if this call created it, and on an embedded
    /// store. See [`CommittedChange::read_in`].
    pub read_in: Option<Epoch>,
}

/// A record and its sealed copy.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The record.
    pub record: KeyRecord,
    /// The sealed copy. Only a recoverable key without revoke time has one.
    pub sealed: Option<Sealed>,
}

/// How a call names a key.
#[derive(Clone, Debug)]
pub enum KeyTarget {
    /// By its public name.
    Id(KeyId),
    /// By the digests that its text may be stored under. If several keys have one, the one with the lowest
    /// id is meant: a call that is repeated names the same key.
    Digests(Vec<Digest>),
}

/// The successor of a key. All other fields come from its predecessor, and so does the expiry of a
/// successor without `lifetime`.
#[derive(Clone, Debug)]
pub struct Successor {
    /// The public name.
    pub id: KeyId,
    /// The digest of the key text.
    pub digest: Digest,
    /// The keyring generation of tag and digest.
    pub generation: u32,
    /// See [`Hint`].
    pub hint: Hint,
    /// The sealed copy, if the predecessor is recoverable.
    pub sealed: Option<Sealed>,
    /// How long the successor lives, if it does not expire with its predecessor.
    pub lifetime: Option<Duration>,
}

/// What to revoke, and how.
#[derive(Clone, Debug)]
pub enum Revocation {
    /// One key.
    Key {
        /// The key.
        target: KeyTarget,
        /// The successor to create, if the key has no revoke time yet.
        successor: Option<Successor>,
        /// How long the key stays alive. A key with a revoke time can only get an earlier one.
        grace: Duration,
        /// Kept if this is the first revocation of the key.
        reason: Option<Reason>,
    },
    /// Every key of a selection, without grace.
    Selection {
        /// The keys.
        selection: Selection,
        /// Kept on each key that has no revoke time yet.
        reason: Option<Reason>,
    },
}

/// Many keys with something in common.
#[derive(Clone, Debug)]
pub enum Selection {
    /// Those of an account.
    Account(AccountId),
    /// Those that an import brought.
    Batch(BatchId),
}

/// The result of Revoke.
#[derive(Clone, Debug)]
pub enum RevokeAnswer {
    /// There is no such key.
    NotFound {
        /// The epoch of the read that found no key; `None` on an embedded store.
        read_in: Option<Epoch>,
    },
    /// The call wants a successor, but the key has expired. Nothing changed.
    Expired,
    /// The key is revoked, by this call or an earlier one.
    Done(Box<Revoked>),
}

/// The state after a revocation.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// The one key, or for a selection the keys that this call changed: at most
    /// [`Revoked::LISTED`] of them.
    pub keys: Vec<KeyRecord>,
    /// The digests of `keys`, in any order. A shared cache may hold entries under them.
    pub digests: Vec<Digest>,
    /// The number of keys, including those that are not in `keys`.
    pub count: u64,
    /// The successor, created by this call or an earlier one.
    pub successor: Option<StoredKey>,
    /// Whether this call created the successor.
    pub created: bool,
    /// From this time on all of `keys` are dead. `None` if `keys` is empty.
    pub revoke_time: Option<Timestamp>,
    /// The latest change of the targeted keys, including keys that were revoked before. For an import:
    /// of all keys.
    pub committed: CommittedChange,
}

impl Revoked {
    /// The most records in `keys`.
    pub const LISTED: usize = 100;

    /// The answer about one key.
    pub fn one(key: Updated, successor: Option<StoredKey>, created: bool) -> RevokeAnswer {
        RevokeAnswer::Done(Box::new(Self {
            revoke_time: key.record.revoke_time,
            keys: vec![key.record],
            digests: vec![key.digest],
            count: 1,
            successor,
            created,
            committed: key.committed,
        }))
    }
}

/// The fields to change. `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct KeyChanges {
    /// What the key may do.
    pub scopes: Option<Scopes>,
    /// The owner's notes.
    pub metadata: Option<Metadata>,
    /// The networks from which the key may be used.
    pub networks: Option<Networks>,
    /// When the key expires; `Some(None)` means never.
    pub expire_time: Option<Option<Timestamp>>,
    /// Whether the key is switched off.
    pub disabled: Option<bool>,
}

/// The result of Update.
#[derive(Clone, Debug)]
pub enum UpdateAnswer {
    /// There is no such key.
    NotFound,
    /// The key has a revoke time. Nothing changed.
    Revoked,
    /// The key has expired by the store's time. Nothing changed.
    Expired,
    /// The key has the requested values, by this call or before it.
    Done(Box<Updated>),
}

/// The state after an update.
#[derive(Clone, Debug)]
pub struct Updated {
    /// The current record.
    pub record: KeyRecord,
    /// The digest under which a shared cache may hold an entry.
    pub digest: Digest,
    /// The last change of the row.
    pub committed: CommittedChange,
}

/// The state after the erasure of an account.
#[derive(Clone, Debug)]
pub struct Erasure {
    /// What replaced the account and the names; `None` if the account has no keys.
    pub pseudonym: Option<AccountId>,
    /// The number of keys that this call has changed.
    pub count: u64,
    /// Whether the account has no key any more. Otherwise it has keys that are not revoked.
    pub is_complete: bool,
    /// The latest change of the erased keys.
    pub committed: CommittedChange,
}

/// The record under a digest, with the head of the log in the same snapshot (I2).
#[derive(Clone, Debug)]
pub struct Found<R> {
    /// The record, if there is one.
    pub record: Option<R>,
    /// How recent the answer is, also when there is no record.
    pub stamp: Stamp,
}

/// A token to create.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The public name.
    pub id: KeyId,
    /// The digest of the token's text, or of `san`.
    pub digest: Digest,
    /// The keyring generation of tag and digest; `None` with `san`.
    pub generation: Option<u32>,
    /// The name in the caller's certificate, instead of a secret.
    pub san: Option<San>,
    /// The caller's name.
    pub name: SlotName,
    /// What the caller may call.
    pub roles: Roles,
    /// When it expires.
    pub expiry: Expiry,
}

/// The result of RevokeToken.
#[derive(Clone, Debug)]
pub struct TokenRevoked {
    /// The current record.
    pub record: TokenRecord,
    /// The last change of the row.
    pub committed: CommittedChange,
}

keyward_core::named! {
    /// The action of an audit entry. Stores use its name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum AuditAction {
        /// A key was created.
        Issue = "issue",
        /// The secret of a recoverable key was shown again.
        Reveal = "reveal",
        /// A key was revoked and got a successor.
        Replace = "replace",
        /// A key was revoked.
        Revoke = "revoke",
        /// A key was changed.
        Update = "update",
        /// A token was created.
        TokenCreate = "token_create",
        /// A token was revoked.
        TokenRevoke = "token_revoke",
        /// Keys of another system were imported.
        Import = "import",
        /// A key of the keyring became active.
        KeyringActivate = "keyring_activate",
        /// A key of the keyring was retired.
        KeyringRetire = "keyring_retire",
        /// An account was erased, or its erasure has begun.
        AccountErase = "account_erase",
        /// Events are sent to a webhook again.
        WebhookReplay = "webhook_replay",
        /// Old events of the audit were deleted.
        AuditTrim = "audit_trim",
        /// A call was refused, because its caller lacks the role.
        Deny = "deny",
        /// The epoch was advanced.
        EpochAdvance = "epoch_advance",
        /// The store's time was lowered.
        ClockLower = "clock_lower",
    }
}

impl AuditAction {
    /// An entry of the audit about no single key or token.
    pub fn entry(self, detail: String) -> AuditEntry {
        AuditEntry {
            action: self,
            id: None,
            account: None,
            detail: Some(detail),
        }
    }
}

/// One entry of the audit.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// The action.
    pub action: AuditAction,
    /// The key or token.
    pub id: Option<KeyId>,
    /// The account that owns the key.
    pub account: Option<AccountId>,
    /// Further facts; never key material.
    pub detail: Option<String>,
}

/// An instance that registers.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// The id of the new row.
    pub registration: RegistrationId,
    /// Host and address, for people.
    pub name: String,
    /// The longest time for which the instance answers without news.
    pub max_staleness: Duration,
    /// The keys of the keyring that the instance has loaded. The first of each kind is the one that it
    /// uses.
    pub loaded: Vec<KeyName>,
}

/// The result of confirming changes.
#[derive(Clone, Debug)]
pub struct Confirmed {
    /// All instances, read before the write.
    pub membership: Membership,
    /// For each change in order, whether the row or the log still has its revision and mark. `None` if the
    /// statement wrote nothing.
    pub stands: Option<Vec<bool>>,
}

/// A function that runs after each commit that changes something.
pub type OnCommit = Box<dyn Fn() + Send + Sync>;

/// What an instance learns while it waits for a change notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeNotice {
    /// Some instance has changed something.
    Changed,
    /// Notices may have been lost: read the log.
    Lost,
}
