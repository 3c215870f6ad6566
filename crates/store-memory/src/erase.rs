//! The erasure of an account.

use super::database::KeyRow;
use super::server::Transaction;
use keyward_core::key::{AccountId, KeyRecord, Metadata, Networks, SlotName};
use keyward_store::{Actor, AuditAction, AuditEntry, CommittedChange, Erasure, Origin, Result};

impl Transaction<'_> {
    /// All steps of an erasure in one.
    pub(crate) fn erase_account(
        &mut self,
        account: &AccountId,
        proposed: &AccountId,
        actor: &Actor,
    ) -> Result<Erasure> {
        let records = self.database.keys.values().map(|row| &row.record);
        let of_account: Vec<_> = records
            .filter(|key| key.account == *account)
            .cloned()
            .collect();
        let mut erasure = Erasure {
            pseudonym: None,
            count: 0,
            is_complete: of_account.iter().all(|key| key.revoked),
            committed: CommittedChange::NOTHING,
        };
        let begun = self.database.erasures.remove(account);
        if of_account.is_empty() && begun.is_none() {
            return Ok(erasure);
        }
        let is_begun_now = begun.is_none();
        let pseudonym = begun.unwrap_or_else(|| proposed.clone());
        for record in of_account.into_iter().filter(|key| key.revoked) {
            self.database.uses.remove(&record.id);
            self.change_key(KeyRecord {
                account: pseudonym.clone(),
                name: SlotName::new("name", pseudonym.as_str().to_owned())?,
                metadata: Metadata::default(),
                networks: Networks::default(),
                revoke_reason: None,
                ..record
            });
            erasure.count += 1;
        }
        let rows = self.database.keys.values();
        let latest = rows
            .filter(|row| row.record.account == pseudonym)
            .max_by_key(|row| row.record.revision);
        let latest = latest.map_or(CommittedChange::NOTHING, KeyRow::last_change);
        erasure.committed = latest.read_in(Some(self.database.epoch));
        for event in &mut self.database.audit {
            if event.account.as_deref() == Some(account.as_str()) {
                event.account = Some(pseudonym.as_str().to_owned());
                event.origin = Origin::default();
                if let Some(link) = &mut event.link {
                    link.salt = None;
                }
            }
        }
        if is_begun_now {
            let entry = AuditEntry {
                action: AuditAction::AccountErase,
                id: None,
                account: Some(pseudonym.clone()),
                detail: None,
            };
            self.audit(entry, actor);
        }
        if !erasure.is_complete {
            let (account, pseudonym) = (account.clone(), pseudonym.clone());
            self.database.erasures.insert(account, pseudonym);
        }
        erasure.pseudonym = Some(pseudonym);
        Ok(erasure)
    }
}
