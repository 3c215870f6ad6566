//! The keyring as a store knows it: the state of each key, what needs it, and which instances have
//! loaded it. The decisions are here, so every store decides alike.

use std::collections::BTreeMap;

use keyward_core::key::KeyId;
use keyward_crypto::{Active, CheckValue, KeyKind, KeyName, Sealed};

/// A key of the keyring that the store knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// What identifies the key.
    pub check: CheckValue,
    /// Its state.
    pub state: KnownState,
}

/// The state of a key of the keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownState {
    /// An instance has loaded the key, and nothing needs it.
    Loaded,
    /// The key makes all new keys or sealed copies. Every instance needs it.
    Active,
    /// Every instance needs the key.
    Required,
    /// Nothing is made with the key any more, and nothing needs it.
    Retired,
}

impl KnownState {
    /// The state in the columns `state` and `active`; `None` for an unknown text.
    pub fn of_columns(state: &str, active: bool) -> Option<Self> {
        match (state, active) {
            ("loaded", false) => Some(Self::Loaded),
            ("required", true) => Some(Self::Active),
            ("required", false) => Some(Self::Required),
            ("retired", false) => Some(Self::Retired),
            _ => None,
        }
    }

    /// The state of an activated key. A foreign pepper and import secrets make nothing new, and all of them
    /// stay in use.
    pub fn activated(kind: KeyKind) -> Self {
        match is_exclusive(kind) {
            true => Self::Active,
            false => Self::Required,
        }
    }

    /// Whether every instance needs the key.
    pub fn is_required(self) -> bool {
        matches!(self, Self::Active | Self::Required)
    }
}

/// Whether one key of this kind at a time is active, and earlier ones can be retired.
fn is_exclusive(kind: KeyKind) -> bool {
    matches!(kind, KeyKind::Generation | KeyKind::Seal | KeyKind::Audit)
}

/// The state of the key `name`; `None` if the store does not know it.
pub fn state_of(known: &[KnownKey], name: KeyName) -> Option<KnownState> {
    let found = known.iter().find(|key| key.check.name() == name);
    found.map(|key| key.state)
}

/// The active keys.
pub fn active(known: &[KnownKey]) -> Active {
    let of = |kind| {
        let mut keys = known.iter().filter(|key| key.check.kind == kind);
        let active = keys.find(|key| key.state == KnownState::Active);
        active.map(|key| key.check.number)
    };
    Active {
        generation: of(KeyKind::Generation),
        seal: of(KeyKind::Seal),
        audit: of(KeyKind::Audit),
    }
}

/// The keys that an instance has loaded. The first of each kind makes its new keys or sealed copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceKeys {
    /// The name of the instance, for people.
    pub name: String,
    /// The names of the keys.
    pub loaded: Vec<KeyName>,
}

impl InstanceKeys {
    /// Whether the instance has loaded `name`.
    pub fn has(&self, name: KeyName) -> bool {
        self.loaded.contains(&name)
    }

    /// Whether the instance makes new keys or sealed copies with `name`.
    pub fn uses(&self, name: KeyName) -> bool {
        let mut of_kind = self.loaded.iter().filter(|key| key.kind == name.kind);
        of_kind.next() == Some(&name)
    }
}

/// The names of the instances for which `is_one` holds.
fn names(instances: &[InstanceKeys], is_one: impl Fn(&InstanceKeys) -> bool) -> Vec<String> {
    let found = instances.iter().filter(|instance| is_one(instance));
    found.map(|instance| instance.name.clone()).collect()
}

/// The result of an activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The key is active, by this call or before it.
    Done,
    /// No instance has loaded such a key.
    Unknown,
    /// The key is retired.
    Retired,
    /// These instances have not loaded the key.
    NotLoaded(Vec<String>),
}

/// The answer to an activation that changes nothing; `None` if the key becomes active.
pub fn unchanged_by_activation(
    state: Option<KnownState>,
    name: KeyName,
    instances: &[InstanceKeys],
) -> Option<Activation> {
    match state {
        None => return Some(Activation::Unknown),
        Some(KnownState::Retired) => return Some(Activation::Retired),
        Some(state) if state == KnownState::activated(name.kind) => return Some(Activation::Done),
        Some(_) => {}
    }
    let lacking = names(instances, |instance| !instance.has(name));
    (!lacking.is_empty()).then_some(Activation::NotLoaded(lacking))
}

/// The result of a retirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// The key is retired, by this call or before it.
    Done,
    /// The store does not know such a key.
    Unknown,
    /// The key is active, or its kind is never retired.
    Active,
    /// These instances do not know yet that another key is active.
    UsedBy(Vec<String>),
    /// The key is needed.
    Needed(Needs),
}

/// What needs a key of the keyring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The keys that are neither revoked nor expired.
    pub keys: u64,
    /// The tokens that are not revoked.
    pub tokens: u64,
    /// The sealed copies.
    pub copies: u64,
    /// The seals of the audit.
    pub seals: u64,
}

/// The answer to a retirement that does not depend on what needs the key; `None` if that decides.
pub fn answer_to_retirement(
    state: Option<KnownState>,
    name: KeyName,
    instances: &[InstanceKeys],
) -> Option<Retirement> {
    match state {
        None => return Some(Retirement::Unknown),
        Some(KnownState::Retired) => return Some(Retirement::Done),
        Some(state) if state == KnownState::activated(name.kind) => {
            return Some(Retirement::Active);
        }
        Some(_) => {}
    }
    let using = names(instances, |instance| instance.uses(name));
    (!using.is_empty()).then_some(Retirement::UsedBy(using))
}

/// What uses the keyring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyringUse {
    /// The registered instances; empty on an embedded store.
    pub instances: Vec<InstanceKeys>,
    /// What needs each key. A key that nothing needs may be absent.
    pub needs: BTreeMap<KeyName, Needs>,
}

impl KeyringUse {
    /// Adds the numbers of a query: `count` things need the key `number`.
    pub fn add(&mut self, kind: KeyKind, number: u32, add: impl FnOnce(&mut Needs)) {
        add(self.needs.entry(KeyName { kind, number }).or_default());
    }
}

/// The move of a sealed copy to another sealing key.
#[derive(Clone, Debug)]
pub struct SealMove {
    /// The key.
    pub id: KeyId,
    /// The copy that was read. If the key has another one now, it stays.
    pub old: Sealed,
    /// The copy under the other sealing key.
    pub new: Sealed,
}
