//! The import of keys that another system issued. What it does with each key is decided here, so every
//! store decides alike.

use std::collections::{HashMap, HashSet};

use super::{AuditAction, AuditEntry, CommittedChange};
use keyward_core::key::{
    AccountId, BatchId, Hint, KeyId, Metadata, Networks, Scopes, SlotName, Timestamp,
};
use keyward_crypto::{Digest, Sealed};

/// Keys to import in one transaction.
#[derive(Clone, Debug)]
pub struct Import {
    /// The name of the import, which may have more transactions.
    pub batch: BatchId,
    /// The keys, in the caller's order.
    pub keys: Vec<ImportedKey>,
    /// Whether to change nothing.
    pub dry_run: bool,
}

/// A key to import.
#[derive(Clone, Debug)]
pub struct ImportedKey {
    /// The public name.
    pub id: KeyId,
    /// The digest under which the key is stored.
    pub digest: Digest,
    /// Other digests under which the store may have this key, as far as they can be computed.
    pub other_digests: Vec<Digest>,
    /// See [`Hint`]. Empty if the text is not known.
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
    /// When the other system created the key. `None` means now.
    pub create_time: Option<Timestamp>,
    /// When the key expires.
    pub expire_time: Option<Timestamp>,
}

impl ImportedKey {
    /// All digests under which the store may have this key.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.digest).chain(&self.other_digests)
    }
}

/// What an import does with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It stores the key.
    Imported(KeyId),
    /// Nothing: the store has this key, dead or alive.
    Known(HeldKey),
    /// Nothing: the call has this key before.
    Duplicate(KeyId),
    /// Nothing: the slot has this other key, which has no revoke time.
    SlotTaken(KeyId),
}

/// A key that the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// The public name.
    pub id: KeyId,
    /// Whether the same batch brought it.
    pub same_batch: bool,
}

/// The result of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What happened to each key, in order.
    pub outcomes: Vec<ImportOutcome>,
    /// The log row of the import. If it stored nothing: the head of the log, since earlier calls may
    /// have stored these keys.
    pub committed: CommittedChange,
}

/// What the store holds of the keys of an import.
#[derive(Debug, Default)]
pub struct Holdings {
    /// The keys under the digests, with the lowest id.
    keys: HashMap<Digest, HeldKey>,
    /// The keys without revoke time in the slots.
    slots: HashMap<(String, String), KeyId>,
}

impl Holdings {
    /// Notes a key under a digest.
    pub fn add_key(&mut self, digest: Digest, key: HeldKey) {
        self.keys.insert(digest, key);
    }

    /// Notes the key without revoke time in a slot.
    pub fn add_slot(&mut self, account: String, name: String, key: KeyId) {
        self.slots.insert((account, name), key);
    }
}

/// Plans what to do with each of `keys`.
pub fn plan_import(keys: &[ImportedKey], mut held: Holdings) -> Vec<ImportOutcome> {
    let mut new = HashSet::new();
    let plan = |key: &ImportedKey| {
        let found = key.digests().filter_map(|digest| held.keys.get(digest));
        if let Some(known) = found.min_by_key(|known| known.id) {
            return match new.contains(&known.id) {
                true => ImportOutcome::Duplicate(known.id),
                false => ImportOutcome::Known(*known),
            };
        }
        let slot = (key.account.to_string(), key.name.to_string());
        if let Some(other) = held.slots.get(&slot) {
            return ImportOutcome::SlotTaken(*other);
        }
        held.slots.insert(slot, key.id);
        let known = HeldKey {
            id: key.id,
            same_batch: true,
        };
        held.keys
            .extend(key.digests().map(|digest| (*digest, known)));
        new.insert(key.id);
        ImportOutcome::Imported(key.id)
    };
    keys.iter().map(plan).collect()
}

impl Import {
    /// The keys to store, and the audit entry of the transaction that stores them. Empty if nothing is to
    /// be stored.
    pub fn planned(&self, outcomes: &[ImportOutcome]) -> (Vec<&ImportedKey>, AuditEntry) {
        let planned = self.keys.iter().zip(outcomes);
        let planned = planned
            .filter(|(key, outcome)| !self.dry_run && **outcome == ImportOutcome::Imported(key.id));
        let keys: Vec<_> = planned.map(|(key, _)| key).collect();
        let detail = format!("batch={} imported={}", self.batch, keys.len());
        (keys, AuditAction::Import.entry(detail))
    }
}
