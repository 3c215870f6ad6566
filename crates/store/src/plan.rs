//! What a change does to a record. Each backend asks here and then writes the answer, so every
//! store decides alike.

use std::time::Duration;

use super::{AuditAction, AuditEntry, Expiry, KeyChanges, NewKey, Successor};
use keyward_core::fence::state_at;
use keyward_core::key::{KeyId, KeyRecord, KeyState, Reason, Timestamp, TokenRecord};

/// What an update does to one key.
#[derive(Debug)]
pub enum UpdatePlan {
    /// Nothing: the key has a revoke time.
    Revoked,
    /// Nothing: the key has expired.
    Expired,
    /// Nothing: the fields already have these values.
    Unchanged,
    /// The record becomes this one.
    Update(Box<KeyRecord>),
}

/// Plans the update of `record` at `now`.
pub fn plan_update(record: &KeyRecord, changes: KeyChanges, now: Timestamp) -> UpdatePlan {
    if record.revoke_time.is_some() {
        return UpdatePlan::Revoked;
    }
    if state_at(record, now) == KeyState::Expired {
        return UpdatePlan::Expired;
    }
    let changed = apply(record, changes);
    if changed == *record {
        return UpdatePlan::Unchanged;
    }
    UpdatePlan::Update(Box::new(changed))
}

fn apply(record: &KeyRecord, changes: KeyChanges) -> KeyRecord {
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

/// What a revocation does to one key.
#[derive(Debug)]
pub enum RevocationPlan {
    /// Nothing: the caller wants a successor, but the key has expired.
    Expired,
    /// Nothing: the key is revoked already, or its grace is no longer than the new one.
    Unchanged,
    /// The key gets a revoke time.
    Revoke(PlannedRevocation),
}

/// The new end of a key.
#[derive(Debug)]
pub struct PlannedRevocation {
    /// From this time on the key is dead.
    pub revoke_time: Timestamp,
    /// Whether the key is dead at once, for any later time of the store.
    pub revoked: bool,
    /// The reason of the first revocation.
    pub reason: Option<Reason>,
    /// The successor to create. A key that already has a revoke time gets none.
    pub successor: Option<Successor>,
}

impl PlannedRevocation {
    /// The successor of `record` after this revocation.
    pub fn replaced_by(&self, record: &KeyRecord) -> Option<KeyId> {
        let created = self.successor.as_ref().map(|successor| successor.id);
        record.replaced_by.or(created)
    }

    /// The audit entries of the revocation and of a successor's creation.
    pub fn audit(&self, record: &KeyRecord) -> Vec<AuditEntry> {
        let Some(successor) = &self.successor else {
            return vec![key_entry(AuditAction::Revoke, record, None)];
        };
        let replaced_by = format!("replaced_by={}", successor.id);
        let issue = AuditEntry {
            action: AuditAction::Issue,
            id: Some(successor.id),
            account: Some(record.account.clone()),
            detail: Some(format!("replaces={}", record.id)),
        };
        let replace = key_entry(AuditAction::Replace, record, Some(replaced_by));
        vec![replace, issue]
    }
}

/// Plans the revocation of `record` at `now`. A revoked key does not change, a grace never becomes
/// longer, and a key with a revoke time gets no successor. Without a grace the key is revoked at
/// once, also if only the time says that an earlier grace has ended.
pub fn plan_revocation(
    record: &KeyRecord,
    successor: Option<Successor>,
    now: Timestamp,
    grace: Duration,
    reason: Option<Reason>,
) -> RevocationPlan {
    let is_first = record.revoke_time.is_none();
    if successor.is_some() && is_first && state_at(record, now) == KeyState::Expired {
        return RevocationPlan::Expired;
    }
    let (end, revoked) = (now.plus(grace), grace.is_zero());
    let is_earlier = record.revoke_time.is_none_or(|before| end < before);
    if record.revoked || !(is_earlier || revoked) {
        return RevocationPlan::Unchanged;
    }
    RevocationPlan::Revoke(PlannedRevocation {
        revoke_time: record.revoke_time.map_or(end, |before| end.min(before)),
        revoked,
        reason: record.revoke_reason.clone().or(reason),
        successor: successor.filter(|_| is_first),
    })
}

/// An audit entry about one key.
pub fn key_entry(action: AuditAction, record: &KeyRecord, detail: Option<String>) -> AuditEntry {
    AuditEntry {
        action,
        id: Some(record.id),
        account: Some(record.account.clone()),
        detail,
    }
}

/// The audit entry of a new token.
pub fn token_created(record: &TokenRecord) -> AuditEntry {
    let mut detail = format!("name={} roles={}", record.name, record.roles.to_text());
    if let Some(san) = &record.san {
        detail.push_str(&format!(" san={san}"));
    }
    token_entry(AuditAction::TokenCreate, record.id, Some(detail))
}

/// An audit entry about one token.
pub fn token_entry(action: AuditAction, id: KeyId, detail: Option<String>) -> AuditEntry {
    AuditEntry {
        action,
        id: Some(id),
        account: None,
        detail,
    }
}

impl Successor {
    /// The key to create in the slot of `predecessor`.
    pub fn key(self, predecessor: &KeyRecord) -> NewKey {
        NewKey {
            expiry: match (self.lifetime, predecessor.expire_time) {
                (Some(lifetime), _) => Expiry::After(lifetime),
                (None, Some(end)) => Expiry::At(end),
                (None, None) => Expiry::Never,
            },
            id: self.id,
            digest: self.digest,
            generation: self.generation,
            hint: self.hint,
            sealed: self.sealed,
            account: predecessor.account.clone(),
            name: predecessor.name.clone(),
            scopes: predecessor.scopes.clone(),
            metadata: predecessor.metadata.clone(),
            networks: predecessor.networks.clone(),
        }
    }
}
