//! The keyring mints keys, computes their digests and seals their text. The matching tag identifies
//! the generation of a key, so a key keeps its digest when a new generation becomes active.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::audit_key::AuditKey;
use super::cache_key::CacheKey;
use super::foreign::{DigestScheme, ForeignDigests};
use super::generation::{Digest, Generation};
use super::material::{CheckValue, KeyKind, KeyName, KeyringMaterial};
use super::seal::{Binding, OpenError, SealPurpose, Sealed, SealingKey, TooLongToSeal};
use keyward_core::key::{
    AccountId, Body, Entropy, Hint, KeyId, Prefix, RANDOM_LEN, SecretText, TextForm,
};

/// A new key or caller's token.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The secret, for its owner.
    pub text: SecretText,
    /// The digest under which to store it.
    pub digest: Digest,
    /// The generation that minted it.
    pub generation: u32,
    /// The hint by which people recognise it.
    pub hint: Hint,
}

/// Why some material makes no keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeyring {
    /// The material holds no generation.
    #[error("the keyring holds no generation")]
    NoGeneration,
    /// The material holds no sealing key.
    #[error("the keyring holds no sealing key")]
    NoSeal,
    /// The material lacks an active key.
    #[error("the keyring lacks the file {0}, which is active: restore it")]
    LacksActive(KeyName),
    /// The material holds import secrets, but no foreign pepper.
    #[error("the keyring holds import secrets, but no foreign pepper: restore the file foreign-1")]
    NoForeignPepper,
}

/// The keys that make what is new. `None` means the highest number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Active {
    /// The generation of new keys and tokens.
    pub generation: Option<u32>,
    /// The sealing key of new sealed copies.
    pub seal: Option<u32>,
    /// The key that seals the audit.
    pub audit: Option<u32>,
}

/// The secrets of a deployment, ready for use. They are wiped on drop; `Debug` shows numbers only.
pub struct Keyring {
    /// The active generation first, then the newest.
    generations: Vec<Arc<Generation>>,
    /// The active sealing key first, then the newest.
    seals: Vec<Arc<SealingKey>>,
    cache: Option<Arc<CacheKey>>,
    /// The active audit key first, then the newest.
    audits: Vec<Arc<AuditKey>>,
    foreign: Option<ForeignDigests>,
}

impl Keyring {
    /// A keyring of all keys in `material`. It uses the highest version of the cache key.
    pub fn new(material: &KeyringMaterial, active: Active) -> Result<Self, NoKeyring> {
        let generations = material.generations.iter();
        let seals = material.seals.iter();
        let mut keyring = Self {
            generations: generations
                .map(|(number, keys)| Arc::new(Generation::new(*number, keys)))
                .collect(),
            seals: seals
                .map(|(version, seal)| Arc::new(SealingKey::new(*version, seal)))
                .collect(),
            cache: material
                .caches
                .last_key_value()
                .map(|(version, key)| Arc::new(CacheKey::new(*version, key))),
            audits: material
                .audits
                .iter()
                .map(|(version, key)| Arc::new(AuditKey::new(*version, key)))
                .collect(),
            foreign: ForeignDigests::new(material)?,
        };
        keyring.order(active)?;
        Ok(keyring)
    }

    /// The keys of `self` and of `newer` for which `is_kept` holds. The key of `newer` is used if both
    /// have one of the same name. Every instance has loaded the keys `in_force`.
    pub fn merged(
        &self,
        newer: &Self,
        active: Active,
        is_kept: impl Fn(KeyName) -> bool,
        in_force: HashSet<KeyName>,
    ) -> Result<Self, NoKeyring> {
        let merged = |kind, number| is_kept(KeyName { kind, number });
        let mut keyring = Self {
            generations: union(&newer.generations, &self.generations, |key| key.number),
            seals: union(&newer.seals, &self.seals, |key| key.version()),
            audits: union(&newer.audits, &self.audits, |key| key.version()),
            cache: newer.cache.clone(),
            foreign: ForeignDigests::merged(
                self.foreign.as_ref(),
                newer.foreign.as_ref(),
                in_force,
            ),
        };
        let (generations, seals) = (&mut keyring.generations, &mut keyring.seals);
        generations.retain(|key| merged(KeyKind::Generation, key.number));
        seals.retain(|key| merged(KeyKind::Seal, key.version()));
        keyring
            .audits
            .retain(|key| merged(KeyKind::Audit, key.version()));
        keyring.order(active)?;
        Ok(keyring)
    }

    fn order(&mut self, active: Active) -> Result<(), NoKeyring> {
        let lacks = |kind| move |number| NoKeyring::LacksActive(KeyName { kind, number });
        let (generation, seal) = (lacks(KeyKind::Generation), lacks(KeyKind::Seal));
        active_first(&mut self.generations, |key| key.number, active.generation)
            .map_err(|number| number.map_or(NoKeyring::NoGeneration, generation))?;
        active_first(&mut self.seals, |key| key.version(), active.seal)
            .map_err(|number| number.map_or(NoKeyring::NoSeal, seal))?;
        match active_first(&mut self.audits, |key| key.version(), active.audit) {
            Err(Some(number)) => Err(lacks(KeyKind::Audit)(number)),
            // A keyring may have no audit key.
            Err(None) | Ok(()) => Ok(()),
        }
    }

    /// Mints a new key, or a caller's token, under the active generation.
    pub fn mint(&self, prefix: &Prefix, entropy: &dyn Entropy) -> Minted {
        let mut random = Zeroizing::new([0; RANDOM_LEN]);
        entropy.fill(&mut *random);
        let tag = self.minting().tag(prefix, &*random);
        let text = TextForm::write(prefix, &Body::new(&random, &tag));
        let hint = TextForm::hint(text.expose())
            .unwrap_or(prefix.as_str())
            .to_owned();
        Minted {
            digest: self.minting().digest(text.expose()),
            generation: self.active(),
            hint: Hint(hint),
            text,
        }
    }

    /// The digest and the generation of a text that `TextForm::read` split into `prefix` and `body`.
    /// `None` if no generation's tag matches: this keyring did not mint the key. No I/O.
    pub fn digest_of(&self, prefix: &Prefix, body: &Body, text: &str) -> Option<(Digest, u32)> {
        let generation = self.generations.iter().find(|generation| {
            let tag = generation.tag(prefix, body.random());
            bool::from(tag.ct_eq(body.tag()))
        })?;
        Some((generation.digest(text), generation.number))
    }

    /// The digests that a text may be stored under: one for each generation, the active one first.
    pub fn digests(&self, text: &str) -> impl Iterator<Item = Digest> {
        self.generations
            .iter()
            .map(|generation| generation.digest(text))
    }

    /// The digests that the text of a foreign key may be stored under: one for each scheme, SHA-256
    /// first, then the import secrets in ascending order. None without a foreign pepper.
    pub fn foreign_digests(&self, text: &str) -> impl Iterator<Item = Digest> {
        self.foreign
            .iter()
            .flat_map(move |foreign| foreign.of(text))
    }

    /// The digest under which to store a foreign key whose digest was `given` under `scheme`. `None` if
    /// this keyring, or that of another instance, may lack the foreign pepper or the import secret.
    pub fn wrap(&self, scheme: DigestScheme, given: &[u8; 32]) -> Option<Digest> {
        self.foreign.as_ref()?.wrap(scheme, given)
    }

    /// Whether the keyring has the foreign pepper, without which no foreign key has a digest.
    pub const fn has_foreign_pepper(&self) -> bool {
        self.foreign.is_some()
    }

    /// The numbers of the import secrets, in ascending order.
    pub fn import_secrets(&self) -> impl Iterator<Item = u32> {
        self.foreign.iter().flat_map(ForeignDigests::numbers)
    }

    /// Seals the text of the key `id` of `account` under the active sealing key.
    pub fn seal(
        &self,
        purpose: SealPurpose,
        id: &KeyId,
        account: &AccountId,
        text: &SecretText,
        entropy: &dyn Entropy,
    ) -> Result<Sealed, TooLongToSeal> {
        self.seals[0].seal(&Binding::new(purpose, id, account), text, entropy)
    }

    /// Opens a text that was sealed for the same purpose, key and account, under any version of the
    /// sealing key in this keyring.
    pub fn open(
        &self,
        purpose: SealPurpose,
        id: &KeyId,
        account: &AccountId,
        sealed: &Sealed,
    ) -> Result<SecretText, OpenError> {
        let version = sealed.version().ok_or(OpenError::DoesNotOpen)?;
        self.seals
            .iter()
            .find(|key| key.version() == version)
            .ok_or(OpenError::UnknownVersion(version))?
            .open(&Binding::new(purpose, id, account), sealed)
    }

    /// One check value for each key but those of the cache. A store keeps
    /// them to detect another deployment's keyring. They disclose nothing.
    pub fn check_values(&self) -> Vec<CheckValue> {
        let generations = self.generations.iter().map(|key| key.check());
        generations
            .chain(self.seals.iter().map(|key| key.check))
            .chain(self.foreign.iter().flat_map(ForeignDigests::checks))
            .chain(self.audits.iter().map(|key| key.check))
            .collect()
    }

    /// The newest cache key; `None` if the keyring has none.
    pub fn cache_key(&self) -> Option<Arc<CacheKey>> {
        self.cache.clone()
    }

    /// The active audit key; `None` if the keyring has none.
    pub fn audit_key(&self) -> Option<Arc<AuditKey>> {
        self.audits.first().cloned()
    }

    /// The audit key with this version.
    pub fn audit_key_of(&self, version: u32) -> Option<Arc<AuditKey>> {
        let mut keys = self.audits.iter();
        keys.find(|key| key.version() == version).cloned()
    }

    /// The number of the active generation.
    pub fn active(&self) -> u32 {
        self.minting().number
    }

    /// The numbers of all generations, the active one first.
    pub fn generations(&self) -> impl Iterator<Item = u32> {
        self.generations.iter().map(|generation| generation.number)
    }

    /// The version of the active sealing key.
    pub fn active_seal(&self) -> u32 {
        self.seals[0].version()
    }

    /// The names of all keys but those of the cache. The active one of each kind comes before others of
    /// its kind.
    pub fn names(&self) -> Vec<KeyName> {
        self.check_values().iter().map(CheckValue::name).collect()
    }

    /// `order` leaves no keyring without a generation.
    fn minting(&self) -> &Generation {
        &self.generations[0]
    }
}

/// The keys of `first`, and those of `second` that have other numbers.
fn union<K>(first: &[Arc<K>], second: &[Arc<K>], number: impl Fn(&K) -> u32) -> Vec<Arc<K>> {
    let is_new = |key: &&Arc<K>| first.iter().all(|other| number(other) != number(key));
    first
        .iter()
        .chain(second.iter().filter(is_new))
        .cloned()
        .collect()
}

/// Sorts `keys`: the active one first, then the newest. `Err` has the active number if the keys lack it,
/// and nothing if there are no keys.
fn active_first<K>(
    keys: &mut [Arc<K>],
    number: impl Fn(&K) -> u32,
    active: Option<u32>,
) -> Result<(), Option<u32>> {
    keys.sort_unstable_by_key(|key| Reverse((Some(number(key)) == active, number(key))));
    match (keys.first(), active) {
        (None, _) => Err(None),
        (Some(first), Some(active)) if number(first) != active => Err(Some(active)),
        _ => Ok(()),
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seals: Vec<_> = self.seals.iter().map(|key| key.version()).collect();
        f.debug_struct("Keyring")
            .field("generations", &self.generations().collect::<Vec<_>>())
            .field("seals", &seals)
            .finish()
    }
}

#[cfg(test)]
mod tests;
