//! The keyring of the deployment: its status, the active keys, the retirement of keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Service, ServiceError};
use crate::auth::Caller;
use keyward_crypto::{KeyKind, KeyName};
use keyward_store::keyring::{InstanceKeys, Needs, state_of};
use keyward_store::{Activation, KnownState, Retirement};

/// The name of the one instance of an embedded store.
const THIS_INSTANCE: &str = "this instance";

/// A key of the keyring.
#[derive(Debug)]
pub struct KeyringKey {
    /// Its name.
    pub name: KeyName,
    /// Its state.
    pub state: KnownState,
    /// The instances that have loaded it.
    pub loaded_by: Vec<String>,
    /// The instances that have not.
    pub missing_at: Vec<String>,
    /// What needs it.
    pub needs: Needs,
}

/// Why a key of the keyring was not activated or retired.
#[derive(Debug, thiserror::Error)]
pub enum KeyringRefusal {
    /// There is no such key, or it is retired.
    #[error("{0} {1}; add a new file to the keyring of every instance with `keyward keyring add`")]
    NotFound(KeyName, &'static str),
    /// Not every instance has loaded the key.
    #[error(
        "{name} is not loaded by {}; copy the file {name} to the keyring there, where it is loaded within \
         about a second",
        instances.join(", ")
    )]
    NotLoaded {
        /// The key.
        name: KeyName,
        /// The instances that have not loaded it.
        instances: Vec<String>,
    },
    /// The key is in use.
    #[error("{0} {1}")]
    InUse(KeyName, String),
}

impl Service {
    /// All keys of the keyring, sorted by kind and number.
    pub async fn keyring_status(self: &Arc<Self>) -> Result<Vec<KeyringKey>, ServiceError> {
        self.read(|service| async move {
            let known = service.store.known_keys().await?;
            let mut found = service.store.keyring_use().await?;
            if service.store.cluster().is_none() {
                found.instances.push(service.own_keys());
            }
            let names: BTreeSet<_> = known.iter().map(|key| key.check.name()).collect();
            let keys = names.into_iter().filter_map(|name| {
                let state = state_of(&known, name)?;
                let (has, lacks): (Vec<_>, Vec<_>) = found
                    .instances
                    .iter()
                    .partition(|instance| instance.has(name));
                let names = |instances: Vec<&InstanceKeys>| -> Vec<String> {
                    instances.iter().map(|one| one.name.clone()).collect()
                };
                Some(KeyringKey {
                    name,
                    state,
                    loaded_by: names(has),
                    missing_at: match state {
                        KnownState::Retired => Vec::new(),
                        _ => names(lacks),
                    },
                    needs: found.needs.get(&name).copied().unwrap_or_default(),
                })
            });
            Ok(keys.collect())
        })
        .await
    }

    /// Makes a generation or a sealing key the active one.
    pub async fn activate_key(
        self: &Arc<Self>,
        caller: &Caller,
        name: KeyName,
    ) -> Result<(), ServiceError> {
        let actor = caller.actor();
        self.change(|service| async move {
            if !service.own_keys().has(name) && service.store.cluster().is_none() {
                let known = service.store.known_keys().await?;
                if state_of(&known, name).is_some_and(|state| state != KnownState::Retired) {
                    let instances = vec![THIS_INSTANCE.to_owned()];
                    return Err(KeyringRefusal::NotLoaded { name, instances }.into());
                }
            }
            match service.store.activate(name, &actor).await? {
                Activation::Done => Ok(()),
                Activation::Unknown => {
                    Err(KeyringRefusal::NotFound(name, "is loaded by no instance").into())
                }
                Activation::Retired => Err(KeyringRefusal::NotFound(name, "is retired").into()),
                Activation::NotLoaded(instances) => {
                    Err(KeyringRefusal::NotLoaded { name, instances }.into())
                }
            }
        })
        .await
    }

    /// Retires a generation or a sealing key that nothing needs.
    pub async fn retire_key(
        self: &Arc<Self>,
        caller: &Caller,
        name: KeyName,
    ) -> Result<(), ServiceError> {
        let in_use = move |why: String| Err(KeyringRefusal::InUse(name, why).into());
        if matches!(name.kind, KeyKind::Foreign | KeyKind::Import) {
            let why =
                "is never retired: without it, a revoked key that was imported would not be found";
            return in_use(why.to_owned());
        }
        let actor = caller.actor();
        self.change(|service| async move {
            if service.store.cluster().is_none() && service.own_keys().uses(name) {
                return in_use("is active; activate another one first".to_owned());
            }
            match service.store.retire(name, &actor).await? {
                Retirement::Done => Ok(()),
                Retirement::Unknown => Err(KeyringRefusal::NotFound(name, "is not known").into()),
                Retirement::Active => in_use("is active; activate another one first".to_owned()),
                Retirement::UsedBy(instances) => in_use(format!(
                    "is still used by {}; repeat the call in some seconds",
                    instances.join(", ")
                )),
                Retirement::Needed(needs) => in_use(needed(name, needs)),
            }
        })
        .await
    }

    /// What this instance has loaded.
    fn own_keys(&self) -> InstanceKeys {
        InstanceKeys {
            name: THIS_INSTANCE.to_owned(),
            loaded: self.keyring.load().names(),
        }
    }
}

/// What needs a key, and how to find it.
fn needed(name: KeyName, needs: Needs) -> String {
    let number = name.number;
    let Needs {
        keys,
        tokens,
        copies,
        seals,
    } = needs;
    match name.kind {
        KeyKind::Seal => format!(
            "is needed by {copies} sealed copies, which move to the active sealing key in the background; \
             `keyward keyring status` shows how many are left"
        ),
        KeyKind::Audit => format!(
            "is needed to check {seals} seals of the audit, which are kept as long as `audit_retention` says"
        ),
        _ => format!(
            "is needed by {keys} live keys and {tokens} tokens. Replace or revoke them; to find them, run \
             in the database: SELECT key_id, account_id, create_time FROM api_keys WHERE generation = \
             {number} AND NOT revoked; SELECT token_id, name FROM caller_tokens WHERE generation = \
             {number} AND NOT revoked"
        ),
    }
}
