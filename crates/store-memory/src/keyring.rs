//! The keyring: the state of each key, what needs it, and the moves of sealed copies.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use super::database::refused;
use super::server::{Transaction, Transport};
use keyward_core::fence::token_lives;
use keyward_core::key::{KeyId, KeyRecord};
use keyward_crypto::{CheckValue, KeyKind, KeyName, Sealed};
use keyward_store::keyring::{
    InstanceKeys, Needs, answer_to_retirement, state_of, unchanged_by_activation,
};
use keyward_store::{
    Activation, Actor, AuditAction, KeyringChecks, KeyringUse, KnownKey, KnownState, Result,
    Retirement, SealMove, StoreError, StoredKey,
};

#[async_trait]
impl<T: Transport> KeyringChecks for MemoryStore<T> {
    async fn known_keys(&self) -> Result<Vec<KnownKey>> {
        self.read("known_keys", |tx| Ok(tx.database.checks.clone()))
            .await
    }

    async fn add_check_values(&self, values: &[CheckValue]) -> Result<()> {
        let values = values.to_vec();
        let work = move |tx: &mut Transaction<'_>| {
            let known = &mut tx.database.checks;
            if values
                .iter()
                .any(|new| state_of(known, new.name()).is_some())
            {
                return refused("the store has a check value of this key");
            }
            let state = KnownState::Required;
            known.extend(values.into_iter().map(|check| KnownKey { check, state }));
            Ok(())
        };
        self.write("add_check_values", work).await
    }

    async fn note_loaded(&self, values: &[CheckValue]) -> Result<()> {
        let values = values.to_vec();
        let work = move |tx: &mut Transaction<'_>| {
            let known = &mut tx.database.checks;
            for check in values {
                if state_of(known, check.name()).is_none() {
                    let state = KnownState::Loaded;
                    known.push(KnownKey { check, state });
                }
            }
            Ok(())
        };
        self.write("note_loaded", work).await
    }

    async fn activate(&self, name: KeyName, actor: &Actor) -> Result<Activation> {
        let actor = actor.clone();
        let work = move |tx: &mut Transaction<'_>| Ok(tx.activate(name, &actor));
        self.write("activate", work).await
    }

    async fn retire(&self, name: KeyName, actor: &Actor) -> Result<Retirement> {
        let actor = actor.clone();
        let work = move |tx: &mut Transaction<'_>| Ok(tx.retire(name, &actor));
        self.write("retire", work).await
    }

    async fn keyring_use(&self) -> Result<KeyringUse> {
        let read = |tx: &mut Transaction<'_>| {
            Ok(KeyringUse {
                instances: tx.instance_keys(),
                needs: tx.needs(),
            })
        };
        self.read("keyring_use", read).await
    }

    async fn sealed_under(
        &self,
        seal: u32,
        after: Option<KeyId>,
        limit: u32,
    ) -> Result<Vec<StoredKey>> {
        let read = move |tx: &mut Transaction<'_>| {
            let keys = tx.database.keys.values().filter(|row| {
                row.sealed.as_ref().and_then(Sealed::version) == Some(seal)
                    && Some(row.record.id) > after
            });
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Ok(keys.take(limit).map(|row| row.stored()).collect())
        };
        self.read("sealed_under", read).await
    }

    async fn move_seals(&self, moves: Vec<SealMove>) -> Result<u64> {
        let work = move |tx: &mut Transaction<'_>| {
            let mut moved = 0;
            for copy in moves {
                tx.check_usable(None, Some(&copy.new))?;
                let row = tx.database.keys.get_mut(&copy.id);
                if let Some(row) = row.filter(|row| row.sealed.as_ref() == Some(&copy.old)) {
                    row.sealed = Some(copy.new);
                    moved += 1;
                }
            }
            Ok(moved)
        };
        self.write("move_seals", work).await
    }
}

impl Transaction<'_> {
    /// Refuses what is made with a retired key of the keyring.
    pub(crate) fn check_usable(
        &self,
        generation: Option<u32>,
        sealed: Option<&Sealed>,
    ) -> Result<()> {
        let generation = generation.map(|number| (KeyKind::Generation, number));
        let seal = sealed.and_then(Sealed::version);
        let seal = seal.map(|number| (KeyKind::Seal, number));
        for (kind, number) in generation.into_iter().chain(seal) {
            let name = KeyName { kind, number };
            if state_of(&self.database.checks, name) == Some(KnownState::Retired) {
                return Err(StoreError::Unavailable(format!("{name} is retired")));
            }
        }
        Ok(())
    }

    fn instance_keys(&self) -> Vec<InstanceKeys> {
        let instances = self.database.instances.values();
        instances.map(|row| row.keys.clone()).collect()
    }

    fn set_state(&mut self, is_one: impl Fn(KnownKey) -> bool, state: KnownState) {
        for key in &mut self.database.checks {
            if is_one(*key) {
                key.state = state;
            }
        }
    }

    fn activate(&mut self, name: KeyName, actor: &Actor) -> Activation {
        let state = state_of(&self.database.checks, name);
        if let Some(answer) = unchanged_by_activation(state, name, &self.instance_keys()) {
            return answer;
        }
        let is_active =
            |key: KnownKey| key.check.kind == name.kind && key.state == KnownState::Active;
        self.set_state(is_active, KnownState::Required);
        let state = KnownState::activated(name.kind);
        self.set_state(|key| key.check.name() == name, state);
        self.audit(AuditAction::KeyringActivate.entry(name.to_string()), actor);
        Activation::Done
    }

    fn retire(&mut self, name: KeyName, actor: &Actor) -> Retirement {
        let state = state_of(&self.database.checks, name);
        if let Some(answer) = answer_to_retirement(state, name, &self.instance_keys()) {
            return answer;
        }
        if let Some(needs) = self.needs().get(&name) {
            return Retirement::Needed(*needs);
        }
        if state == Some(KnownState::Loaded) {
            self.database.checks.retain(|key| key.check.name() != name);
        }
        self.set_state(|key| key.check.name() == name, KnownState::Retired);
        self.audit(AuditAction::KeyringRetire.entry(name.to_string()), actor);
        Retirement::Done
    }

    fn needs(&self) -> BTreeMap<KeyName, Needs> {
        let mut found = KeyringUse::default();
        let is_needed =
            |key: &KeyRecord| !key.revoked && key.expire_time.is_none_or(|end| end > self.now);
        for row in self.database.keys.values() {
            if let Some(generation) = row.generation.filter(|_| is_needed(&row.record)) {
                found.add(KeyKind::Generation, generation, |needs| needs.keys += 1);
            }
            if let Some(seal) = row.sealed.as_ref().and_then(Sealed::version) {
                found.add(KeyKind::Seal, seal, |needs| needs.copies += 1);
            }
        }
        for seal in &self.database.seals {
            found.add(KeyKind::Audit, seal.key, |needs| needs.seals += 1);
        }
        for row in self.database.tokens.values() {
            if let Some(generation) = row.generation
                && token_lives(&row.record, self.now)
            {
                found.add(KeyKind::Generation, generation, |needs| needs.tokens += 1);
            }
        }
        found.needs
    }
}
