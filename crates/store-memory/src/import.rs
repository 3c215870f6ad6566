//! The import of keys. `keyward_store::import` decides what happens to each.

use super::database::KeyRow;
use super::server::Transaction;
use keyward_core::key::{BatchId, KeyId, KeyRecord, Timestamp};
use keyward_store::import::{HeldKey, Holdings, plan_import};
use keyward_store::{Actor, Import, Imported, ImportedKey, Result};

impl Transaction<'_> {
    pub(crate) fn import(&mut self, import: &Import, actor: &Actor) -> Result<Imported> {
        let mut held = Holdings::default();
        for row in self.database.keys.values() {
            let record = &row.record;
            let known = HeldKey {
                id: record.id,
                same_batch: row.batch == Some(import.batch),
            };
            held.add_key(row.digest, known);
            if record.revoke_time.is_none() {
                let (account, name) = (record.account.to_string(), record.name.to_string());
                held.add_slot(account, name, record.id);
            }
        }
        let outcomes = plan_import(&import.keys, held);
        let (new, entry) = import.planned(&outcomes);
        for key in &new {
            self.check_usable(None, key.sealed.as_ref())?;
        }
        let read_in = new.is_empty().then_some(self.database.epoch);
        if !new.is_empty() {
            self.audit(entry, actor);
            self.append(KeyId::IMPORTS);
        }
        for key in new {
            let row = imported_row(key, import.batch, self.now);
            self.database.keys.insert(key.id, row);
        }
        Ok(Imported {
            outcomes,
            committed: self.database.last_change().read_in(read_in),
        })
    }
}

/// The row of an imported key.
fn imported_row(key: &ImportedKey, batch: BatchId, now: Timestamp) -> KeyRow {
    let record = KeyRecord {
        id: key.id,
        account: key.account.clone(),
        name: key.name.clone(),
        hint: key.hint.clone(),
        scopes: key.scopes.clone(),
        metadata: key.metadata.clone(),
        networks: key.networks.clone(),
        recoverable: key.sealed.is_some(),
        disabled: false,
        create_time: key.create_time.unwrap_or(now),
        expire_time: key.expire_time,
        revoke_time: None,
        revoked: false,
        revoke_reason: None,
        replaced_by: None,
        revision: 0,
    };
    KeyRow {
        record,
        digest: key.digest,
        generation: None,
        sealed: key.sealed.clone(),
        batch: Some(batch),
        mark: None,
    }
}
