//! Keys: issue, revoke, update, reads. `keyward_store::plan` decides what a change does.

use std::time::Duration;

use async_trait::async_trait;

use super::MemoryStore;
use super::database::{KeyRow, refused};
use super::server::{Transaction, Transport};
use keyward_core::fence::state_at;
use keyward_core::key::{
    AccountId, KeyId, KeyRecord, KeyState, Prefix, Reason, Timestamp, TokenRecord,
};
use keyward_crypto::Digest;
use keyward_store::plan::{
    PlannedRevocation, RevocationPlan, UpdatePlan, key_entry, plan_revocation, plan_update,
};
use keyward_store::selection::SelectionProgress;
use keyward_store::{
    Actor, AuditAction, CommittedChange, Erasure, EventKind, Found, Import, Imported, Issued,
    KeyChanges, KeyPage, KeyTarget, Keys, ListKeys, NewKey, Result, Revocation, RevokeAnswer,
    Revoked, Selection, StoredKey, Successor, UpdateAnswer,
};

#[async_trait]
impl<T: Transport> Keys for MemoryStore<T> {
    async fn issue(&self, new: NewKey, actor: &Actor) -> Result<Issued> {
        let actor = actor.clone();
        self.write("issue", move |tx| tx.issue(new, &actor)).await
    }

    async fn import(&self, import: Import, actor: &Actor) -> Result<Imported> {
        let actor = actor.clone();
        self.write("import", move |tx| tx.import(&import, &actor))
            .await
    }

    async fn revoke(&self, revocation: Revocation, actor: &Actor) -> Result<RevokeAnswer> {
        let actor = actor.clone();
        let work = move |tx: &mut Transaction<'_>| match revocation {
            Revocation::Key {
                target,
                successor,
                grace,
                reason,
            } => tx.revoke(&target, successor, grace, reason, &actor),
            Revocation::Selection { selection, reason } => {
                Ok(tx.revoke_selection(&selection, reason.as_ref(), &actor))
            }
        };
        self.write("revoke", work).await
    }

    async fn update(&self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer> {
        let actor = actor.clone();
        let work = move |tx: &mut Transaction<'_>| tx.update(id, changes, &actor);
        self.write("update", work).await
    }

    async fn find_keys(&self, digests: &[Digest]) -> Result<Vec<Found<KeyRecord>>> {
        let digests = digests.to_vec();
        let read = move |tx: &mut Transaction<'_>| {
            let found = digests.iter().map(|digest| Found {
                record: tx.database.key_of(digest).map(|row| row.record.clone()),
                stamp: tx.database.stamp(),
            });
            Ok(found.collect())
        };
        self.read("find_key", read).await
    }

    async fn get_key(&self, target: &KeyTarget) -> Result<Option<StoredKey>> {
        let target = target.clone();
        let read = move |tx: &mut Transaction<'_>| Ok(tx.target(&target).map(KeyRow::stored));
        self.read("get_key", read).await
    }

    async fn list_keys(&self, query: ListKeys) -> Result<KeyPage> {
        self.read("list_keys", move |tx| Ok(tx.list(&query))).await
    }

    async fn predecessor(&self, id: KeyId) -> Result<Option<KeyRecord>> {
        let read = move |tx: &mut Transaction<'_>| {
            let mut newest_first = tx.database.keys.values().rev();
            let found = newest_first.find(|row| row.record.replaced_by == Some(id));
            Ok(found.map(|row| row.record.clone()))
        };
        self.read("predecessor", read).await
    }

    async fn end_graces(&self) -> Result<u64> {
        self.write("end_graces", |tx| Ok(tx.end_graces())).await
    }

    async fn erase_account(
        &self,
        account: &AccountId,
        pseudonym: &AccountId,
        actor: &Actor,
    ) -> Result<Erasure> {
        let (account, pseudonym) = (account.clone(), pseudonym.clone());
        let actor = actor.clone();
        let work = move |tx: &mut Transaction<'_>| tx.erase_account(&account, &pseudonym, &actor);
        self.write("erase_account", work).await
    }

    async fn note_prefixes(&self, accepted: &[Prefix]) -> Result<Vec<(String, u64)>> {
        let names: Vec<String> = accepted.iter().map(|p| p.as_str().to_owned()).collect();
        let work = move |tx: &mut Transaction<'_>| {
            let prefixes = &mut tx.database.prefixes;
            prefixes.extend(names.first().cloned());
            let missing = prefixes.iter().filter(|prefix| !names.contains(prefix));
            let keys = tx.database.keys.values().map(|row| &row.record);
            let live: Vec<_> = keys.filter(|key| key.revoke_time.is_none()).collect();
            let count = |prefix: &String| {
                // A hint is the prefix, an underscore and four characters.
                let of = |key: &&&KeyRecord| {
                    let rest = key.hint.0.strip_prefix(prefix.as_str());
                    rest.is_some_and(|rest| rest.starts_with('_') && rest.len() == 5)
                };
                u64::try_from(live.iter().filter(of).count()).unwrap_or(u64::MAX)
            };
            Ok(missing
                .map(|prefix| (prefix.clone(), count(prefix)))
                .collect())
        };
        self.write("note_prefixes", work).await
    }
}

/// Whether a key or token is dead: it is revoked, or its grace has ended.
pub(crate) fn is_dead(revoked: bool, revoke_time: Option<Timestamp>, now: Timestamp) -> bool {
    revoked || revoke_time.is_some_and(|end| end <= now)
}

impl Transaction<'_> {
    fn target(&self, target: &KeyTarget) -> Option<&KeyRow> {
        match target {
            KeyTarget::Id(id) => self.database.keys.get(id),
            KeyTarget::Digests(digests) => {
                let found = digests
                    .iter()
                    .filter_map(|digest| self.database.key_of(digest));
                found.min_by_key(|row| row.record.id)
            }
        }
    }

    fn row(&self, id: KeyId) -> Result<&KeyRow> {
        match self.database.keys.get(&id) {
            Some(row) => Ok(row),
            None => refused("a row vanished within its transaction"),
        }
    }

    fn issue(&mut self, new: NewKey, actor: &Actor) -> Result<Issued> {
        let in_slot = self.database.keys.values().find(|row| {
            let record = &row.record;
            (&record.account, &record.name) == (&new.account, &new.name)
                && record.revoke_time.is_none()
        });
        let expired = match in_slot {
            Some(row) if state_at(&row.record, self.now) != KeyState::Expired => {
                return Ok(Issued {
                    key: row.stored(),
                    created: false,
                    read_in: Some(self.database.epoch),
                });
            }
            Some(row) => Some(row.record.clone()),
            None => None,
        };
        self.check_unique(new.id, &new.digest)?;
        self.check_usable(Some(new.generation), new.sealed.as_ref())?;
        if let Some(record) = expired {
            let entry = key_entry(AuditAction::Revoke, &record, Some("expired".to_owned()));
            self.change_key(KeyRecord {
                revoke_time: Some(self.now),
                revoked: true,
                replaced_by: record.replaced_by.or(Some(new.id)),
                ..record
            });
            self.audit(entry, actor);
        }
        let id = new.id;
        self.insert(new, false);
        let key = self.row(id)?.stored();
        self.audit(key_entry(AuditAction::Issue, &key.record, None), actor);
        Ok(Issued {
            key,
            created: true,
            read_in: None,
        })
    }

    fn check_unique(&self, id: KeyId, digest: &Digest) -> Result<()> {
        if self.database.keys.contains_key(&id) || self.database.key_of(digest).is_some() {
            return refused("a key with this key_id or digest exists");
        }
        Ok(())
    }

    fn insert(&mut self, new: NewKey, disabled: bool) {
        let record = KeyRecord {
            id: new.id,
            account: new.account,
            name: new.name,
            hint: new.hint,
            scopes: new.scopes,
            metadata: new.metadata,
            networks: new.networks,
            recoverable: new.sealed.is_some(),
            disabled,
            create_time: self.now,
            expire_time: new.expiry.end(self.now),
            revoke_time: None,
            revoked: false,
            revoke_reason: None,
            replaced_by: None,
            revision: 0,
        };
        let row = KeyRow {
            record,
            digest: new.digest,
            generation: Some(new.generation),
            sealed: new.sealed,
            batch: None,
            mark: None,
        };
        self.tell(EventKind::Issued, row.record.id, row.record.expire_time);
        self.database.keys.insert(row.record.id, row);
    }

    fn revoke(
        &mut self,
        target: &KeyTarget,
        successor: Option<Successor>,
        grace: Duration,
        reason: Option<Reason>,
        actor: &Actor,
    ) -> Result<RevokeAnswer> {
        let Some(row) = self.target(target) else {
            let read_in = Some(self.database.epoch);
            return Ok(RevokeAnswer::NotFound { read_in });
        };
        let record = row.record.clone();
        let mut read_in = None;
        let created = match plan_revocation(&record, successor, self.now, grace, reason) {
            RevocationPlan::Expired => return Ok(RevokeAnswer::Expired),
            RevocationPlan::Unchanged => {
                read_in = Some(self.database.epoch);
                false
            }
            RevocationPlan::Revoke(planned) => {
                let created = planned.successor.is_some();
                self.write_revocation(&record, planned, actor)?;
                created
            }
        };
        let row = self.row(record.id)?;
        let successor = row.record.replaced_by.map(|id| self.row(id));
        let successor = successor.transpose()?.map(KeyRow::stored);
        Ok(Revoked::one(row.updated(read_in), successor, created))
    }

    fn write_revocation(
        &mut self,
        record: &KeyRecord,
        planned: PlannedRevocation,
        actor: &Actor,
    ) -> Result<()> {
        if let Some(successor) = &planned.successor {
            self.check_unique(successor.id, &successor.digest)?;
            self.check_usable(Some(successor.generation), successor.sealed.as_ref())?;
        }
        for entry in planned.audit(record) {
            self.audit(entry, actor);
        }
        self.change_key(KeyRecord {
            revoke_time: Some(planned.revoke_time),
            revoked: planned.revoked,
            revoke_reason: planned.reason.clone(),
            replaced_by: planned.replaced_by(record),
            ..record.clone()
        });
        if let Some(successor) = planned.successor {
            // The successor inherits `disabled`: a replacement must not switch a key on again.
            self.insert(successor.key(record), record.disabled);
        }
        Ok(())
    }

    fn revoke_selection(
        &mut self,
        selection: &Selection,
        reason: Option<&Reason>,
        actor: &Actor,
    ) -> RevokeAnswer {
        let now = self.now;
        let is_selected = |row: &KeyRow| match selection {
            Selection::Account(account) => row.record.account == *account,
            Selection::Batch(batch) => row.batch == Some(*batch),
        };
        let live: Vec<KeyRecord> = self
            .database
            .keys
            .values()
            .filter(|row| is_selected(row) && !row.record.revoked)
            .map(|row| row.record.clone())
            .collect();
        for record in &live {
            self.change_key(KeyRecord {
                revoke_time: Some(record.revoke_time.map_or(now, |end| end.min(now))),
                revoked: true,
                revoke_reason: record.revoke_reason.as_ref().or(reason).cloned(),
                ..record.clone()
            });
            let detail = Some(selection.audit_detail().to_owned());
            self.audit(key_entry(AuditAction::Revoke, record, detail), actor);
        }
        let latest = match selection {
            Selection::Account(_) => {
                let selected = self.database.keys.values().filter(|row| is_selected(row));
                let latest = selected.max_by_key(|row| row.record.revision);
                latest.map_or(CommittedChange::NOTHING, KeyRow::last_change)
            }
            Selection::Batch(_) => self.database.last_change(),
        };
        let mut progress = SelectionProgress::default();
        progress.add(&live.iter().map(|record| record.id).collect::<Vec<_>>());
        let rows = progress.listed.iter();
        let listed: Vec<&KeyRow> = rows.filter_map(|id| self.database.keys.get(id)).collect();
        let keys = listed.iter().map(|row| row.record.clone()).collect();
        let digests = listed.iter().map(|row| row.digest).collect();
        // In another epoch the selection may have other keys.
        let committed = latest.read_in(Some(self.database.epoch));
        progress.done(keys, digests, committed)
    }

    fn end_graces(&mut self) -> u64 {
        let now = self.now;
        let (keys, tokens) = (self.database.keys.values(), self.database.tokens.values());
        let keys: Vec<KeyRecord> = keys
            .map(|row| row.record.clone())
            .filter(|key| !key.revoked && is_dead(false, key.revoke_time, now))
            .collect();
        let tokens: Vec<TokenRecord> = tokens
            .map(|row| row.record.clone())
            .filter(|token| !token.revoked && is_dead(false, token.revoke_time, now))
            .collect();
        let ended = keys.len() + tokens.len();
        for key in keys {
            self.change_key(KeyRecord {
                revoked: true,
                ..key
            });
        }
        for token in tokens {
            self.change_token(TokenRecord {
                revoked: true,
                ..token
            });
        }
        u64::try_from(ended).unwrap_or(u64::MAX)
    }

    fn update(&mut self, id: KeyId, changes: KeyChanges, actor: &Actor) -> Result<UpdateAnswer> {
        let Some(row) = self.database.keys.get(&id) else {
            return Ok(UpdateAnswer::NotFound);
        };
        let mut read_in = None;
        match plan_update(&row.record, changes, self.now) {
            UpdatePlan::Revoked => return Ok(UpdateAnswer::Revoked),
            UpdatePlan::Expired => return Ok(UpdateAnswer::Expired),
            UpdatePlan::Unchanged => read_in = Some(self.database.epoch),
            UpdatePlan::Update(record) => {
                self.audit(key_entry(AuditAction::Update, &record, None), actor);
                self.change_key(*record);
            }
        }
        let updated = self.row(id)?.updated(read_in);
        Ok(UpdateAnswer::Done(Box::new(updated)))
    }
}
