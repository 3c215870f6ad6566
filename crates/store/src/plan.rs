//! What a change comes to, before any backend writes it: the same for every store.

use super::{AuditAction, AuditEntry, KeyChanges, Successor};
use keyward_core::fence::state_at;
use keyward_core::key::{KeyId, KeyRecord, KeyState, Reason, Timestamp};

/// A record with `changes` made.
pub fn changed(record: &KeyRecord, changes: KeyChanges) -> KeyRecord {
    let mut record = record.clone();
    if let Some(scopes) = changes.scopes {
        record.scopes = scopes;
    }
    if let Some(metadata) = changes.metadata {
        record.metadata = metadata;
    }
    if let Some(networks) = changes.networks {
        record.networks = networks;
    }
    if let Some(expire_time) = changes.expire_time {
        record.expire_time = expire_time;
    }
    if let Some(disabled) = changes.disabled {
        record.disabled = disabled;
    }
    record
}

/// What revoking one key comes to.
#[derive(Debug)]
pub enum RevocationPlan {
    /// A successor was asked for, but the key has expired.
    Expired,
    /// Nothing changes: the key is dead already, or has an end that is no later.
    Stands,
    /// The key gets this end.
    Ends(End),
}

/// The end that a key gets.
#[derive(Debug)]
pub struct End {
    /// When the key is dead.
    pub at: Timestamp,
    /// The first reason stays.
    pub reason: Option<Reason>,
    /// The key that is made in its stead, by this call; one made before stays the one.
    pub successor: Option<Successor>,
}

impl End {
    /// The key that stands in its stead once this is written.
    pub fn replaced_by(&self, record: &KeyRecord) -> Option<KeyId> {
        let made = self.successor.as_ref().map(|successor| successor.id);
        record.replaced_by.or(made)
    }

    /// The lines of the audit: of the end, and of the birth of a successor.
    pub fn audit(&self, record: &KeyRecord) -> Vec<AuditEntry> {
        let Some(successor) = &self.successor else {
            return vec![entry(AuditAction::Revoke, record, None)];
        };
        let replaced = format!("replaced_by={}", successor.id);
        let birth = AuditEntry {
            action: AuditAction::Issue,
            id: Some(successor.id),
            account: Some(record.account.clone()),
            detail: Some(format!("replaces={}", record.id)),
        };
        vec![entry(AuditAction::Replace, record, Some(replaced)), birth]
    }
}

/// What revoking `record` at `now`, with an end at `ends`, comes to. Nothing is changed on a key
/// that is dead already, nor a grace lengthened; a key with a revoke time gets no successor.
pub fn ending(
    record: &KeyRecord,
    successor: Option<Successor>,
    now: Timestamp,
    ends: Timestamp,
    reason: Option<Reason>,
) -> RevocationPlan {
    let first = record.revoke_time.is_none();
    let state = state_at(record, now);
    if successor.is_some() && first && state == KeyState::Expired {
        return RevocationPlan::Expired;
    }
    let sooner = record.revoke_time.is_none_or(|before| ends < before);
    if !sooner || state == KeyState::Revoked {
        return RevocationPlan::Stands;
    }
    RevocationPlan::Ends(End {
        at: ends,
        reason: record.revoke_reason.clone().or(reason),
        successor: successor.filter(|_| first),
    })
}

/// A line of the audit about one key.
pub fn entry(action: AuditAction, record: &KeyRecord, detail: Option<String>) -> AuditEntry {
    AuditEntry {
        action,
        id: Some(record.id),
        account: Some(record.account.clone()),
        detail,
    }
}

/// A line of the audit about one token.
pub fn token_entry(action: AuditAction, id: KeyId, detail: Option<String>) -> AuditEntry {
    AuditEntry {
        action,
        id: Some(id),
        account: None,
        detail,
    }
}
