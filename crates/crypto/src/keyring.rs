//! The keyring mints keys, computes their digests and seals their text. The matching tag identifies
//! the generation of a key, so a key keeps its digest when a new generation becomes active.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::cache_key::CacheKey;
use super::foreign::{DigestScheme, ForeignDigests};
use super::generation::{Digest, Generation};
use super::material::{CheckValue, KeyringMaterial};
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
    /// The material lacks the active generation.
    #[error("the keyring lacks the active generation {0}: restore the file generation-{0}")]
    NotThere(u32),
    /// The material holds import secrets, but no foreign pepper.
    #[error("the keyring holds import secrets, but no foreign pepper: restore the file foreign-1")]
    NoForeignPepper,
}

/// The secrets of a deployment, ready for use. They are wiped on drop; `Debug` shows numbers only.
pub struct Keyring {
    active: Generation,
    /// The other generations, the newest first.
    others: Vec<Generation>,
    writing: SealingKey,
    older: Vec<SealingKey>,
    cache: Option<Arc<CacheKey>>,
    foreign: Option<ForeignDigests>,
}

impl Keyring {
    /// A keyring that mints under generation `active`, or under the highest generation for `None`. It
    /// uses the highest version of the sealing key and of the cache key.
    pub fn new(material: &KeyringMaterial, active: Option<u32>) -> Result<Self, NoKeyring> {
        let highest = *material
            .generations
            .keys()
            .next_back()
            .ok_or(NoKeyring::NoGeneration)?;
        let active = active.unwrap_or(highest);
        let keys = material
            .generations
            .get(&active)
            .ok_or(NoKeyring::NotThere(active))?;
        let others = material
            .generations
            .iter()
            .rev()
            .filter(|(number, _)| **number != active);
        let mut seals = material.seals.iter().rev();
        let (version, seal) = seals.next().ok_or(NoKeyring::NoSeal)?;
        Ok(Self {
            active: Generation::new(active, keys),
            others: others
                .map(|(number, keys)| Generation::new(*number, keys))
                .collect(),
            writing: SealingKey::new(*version, seal),
            older: seals
                .map(|(version, seal)| SealingKey::new(*version, seal))
                .collect(),
            cache: material
                .caches
                .last_key_value()
                .map(|(version, key)| Arc::new(CacheKey::new(*version, key))),
            foreign: ForeignDigests::new(material)?,
        })
    }

    /// Mints a new key, or a caller's token, under the active generation.
    pub fn mint(&self, prefix: &Prefix, entropy: &dyn Entropy) -> Minted {
        let mut random = Zeroizing::new([0; RANDOM_LEN]);
        entropy.fill(&mut *random);
        let tag = self.active.tag(prefix, &*random);
        let text = TextForm::write(prefix, &Body::new(&random, &tag));
        let hint = TextForm::hint(text.expose())
            .unwrap_or(prefix.as_str())
            .to_owned();
        Minted {
            digest: self.active.digest(text.expose()),
            generation: self.active.number,
            hint: Hint(hint),
            text,
        }
    }

    /// The digest and the generation of a text that `TextForm::read` split into `prefix` and `body`.
    /// `None` if no generation's tag matches: this keyring did not mint the key. No I/O.
    pub fn digest_of(&self, prefix: &Prefix, body: &Body, text: &str) -> Option<(Digest, u32)> {
        let generation = self.all_generations().find(|generation| {
            let tag = generation.tag(prefix, body.random());
            bool::from(tag.ct_eq(body.tag()))
        })?;
        Some((generation.digest(text), generation.number))
    }

    /// The digests that a text may be stored under: one for each generation, the active one first.
    pub fn digests(&self, text: &str) -> impl Iterator<Item = Digest> {
        self.all_generations()
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
    /// the keyring lacks the foreign pepper or the import secret.
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

    /// Seals the text of the key `id` of `account` under the highest version of the sealing key.
    pub fn seal(
        &self,
        purpose: SealPurpose,
        id: &KeyId,
        account: &AccountId,
        text: &SecretText,
        entropy: &dyn Entropy,
    ) -> Result<Sealed, TooLongToSeal> {
        self.writing
            .seal(&Binding::new(purpose, id, account), text, entropy)
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
        self.all_seals()
            .find(|key| key.version() == version)
            .ok_or(OpenError::UnknownVersion(version))?
            .open(&Binding::new(purpose, id, account), sealed)
    }

    /// One check value for each generation, sealing key, foreign pepper and import secret. A store keeps
    /// them to detect another deployment's keyring. They disclose nothing.
    pub fn check_values(&self) -> Vec<CheckValue> {
        let generations = self.all_generations().map(Generation::check);
        generations
            .chain(self.all_seals().map(|key| key.check))
            .chain(self.foreign.iter().flat_map(ForeignDigests::checks))
            .collect()
    }

    /// The newest cache key; `None` if the keyring has none.
    pub fn cache_key(&self) -> Option<Arc<CacheKey>> {
        self.cache.clone()
    }

    /// The number of the active generation.
    pub const fn active(&self) -> u32 {
        self.active.number
    }

    /// The numbers of all generations, the active one first.
    pub fn generations(&self) -> impl Iterator<Item = u32> {
        self.all_generations().map(|generation| generation.number)
    }

    fn all_generations(&self) -> impl Iterator<Item = &Generation> {
        std::iter::once(&self.active).chain(&self.others)
    }

    fn all_seals(&self) -> impl Iterator<Item = &SealingKey> {
        std::iter::once(&self.writing).chain(&self.older)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seals: Vec<_> = self.all_seals().map(SealingKey::version).collect();
        f.debug_struct("Keyring")
            .field("generations", &self.generations().collect::<Vec<_>>())
            .field("seals", &seals)
            .field("imports", &self.import_secrets().collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Counting, material};
    use super::*;
    use crate::SecretKey;

    fn keyring(generations: &[u32], seals: &[u32]) -> Keyring {
        Keyring::new(&material(generations, seals), None).unwrap()
    }

    fn prefixes() -> Vec<Prefix> {
        ["kw", "kwt"].map(|text| Prefix::new(text).unwrap()).into()
    }

    fn judge(keyring: &Keyring, text: &str) -> Option<(Digest, u32)> {
        let prefixes = prefixes();
        let (prefix, body) = TextForm::read(text, &prefixes).unwrap();
        keyring.digest_of(prefix, &body, text)
    }

    struct Fixed([u8; RANDOM_LEN]);

    impl Entropy for Fixed {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.copy_from_slice(&self.0);
        }
    }

    proptest! {
        #[test]
        fn a_minted_key_is_recognised(random: [u8; RANDOM_LEN], which in 0..2_usize) {
            let keyring = keyring(&[1, 2], &[1]);
            let minted = keyring.mint(&prefixes()[which], &Fixed(random));
            prop_assert_eq!(judge(&keyring, minted.text.expose()), Some((minted.digest, 2)));
            prop_assert_eq!(minted.generation, 2);
            prop_assert!(minted.text.expose().starts_with(&minted.hint.0));
            prop_assert_eq!(minted.hint.0.len(), prefixes()[which].as_str().len() + 5);
        }

        #[test]
        fn an_invented_key_is_not_recognised(random: [u8; RANDOM_LEN], at in 0..32_usize, flip in 1..=255_u8) {
            let (keyring, prefixes) = (keyring(&[1, 2], &[1]), prefixes());
            let minted = keyring.mint(&prefixes[0], &Fixed(random));
            let (_, body) = TextForm::read(minted.text.expose(), &prefixes).unwrap();
            let mut bytes: Vec<u8> = [body.random(), body.tag()].concat();
            bytes[at] ^= flip;
            let (random, tag) = bytes.split_at(RANDOM_LEN);
            let altered = Body::new(random.try_into().unwrap(), tag.try_into().unwrap());
            // `write` computes a new checksum, so only the tag is wrong.
            prop_assert_eq!(judge(&keyring, TextForm::write(&prefixes[0], &altered).expose()), None);
            prop_assert_eq!(judge(&keyring, TextForm::write(&prefixes[1], &body).expose()), None);
        }
    }

    #[test]
    fn another_keyring_does_not_recognise_a_key() {
        let minted = keyring(&[1], &[1]).mint(&prefixes()[0], &Counting::default());
        assert_eq!(judge(&keyring(&[2, 3], &[1]), minted.text.expose()), None);
    }

    #[test]
    fn a_key_of_an_older_generation_is_recognised() {
        let prefix = &prefixes()[0];
        let old = keyring(&[1], &[1]).mint(prefix, &Counting::default());
        let both = keyring(&[1, 2], &[1]);
        assert_eq!(judge(&both, old.text.expose()), Some((old.digest, 1)));
        assert_eq!(both.mint(prefix, &Counting::default()).generation, 2);
    }

    #[test]
    fn the_active_generation_mints() {
        let material = material(&[1, 2, 5], &[1]);
        let keyring = Keyring::new(&material, Some(2)).unwrap();
        assert_eq!(
            keyring
                .mint(&prefixes()[0], &Counting::default())
                .generation,
            2
        );
        assert_eq!(
            (keyring.active(), keyring.generations().collect()),
            (2, vec![2, 5, 1])
        );
        assert_eq!(
            Keyring::new(&material, Some(3)).unwrap_err(),
            NoKeyring::NotThere(3)
        );
    }

    #[test]
    fn an_incomplete_keyring_is_refused() {
        assert_eq!(
            Keyring::new(&material(&[], &[1]), None).unwrap_err(),
            NoKeyring::NoGeneration
        );
        assert_eq!(
            Keyring::new(&material(&[1], &[]), None).unwrap_err(),
            NoKeyring::NoSeal
        );
    }

    #[test]
    fn the_highest_version_seals_and_every_version_opens() {
        let (id, account) = (
            KeyId::from_bytes([1; 16]),
            AccountId::new("account_id", "42".to_owned()).unwrap(),
        );
        let text = SecretText::new("kw_secret".to_owned());
        let purpose = SealPurpose::RECOVERABLE_KEY;
        let seal = |keyring: &Keyring| {
            keyring
                .seal(purpose, &id, &account, &text, &Counting::default())
                .unwrap()
        };
        let (old, both) = (keyring(&[1], &[1]), keyring(&[1], &[1, 2]));
        assert_eq!(
            (seal(&old).version(), seal(&both).version()),
            (Some(1), Some(2))
        );
        for sealed in [seal(&old), seal(&both)] {
            assert_eq!(both.open(purpose, &id, &account, &sealed).unwrap(), text);
        }
        let error = old.open(purpose, &id, &account, &seal(&both)).unwrap_err();
        assert_eq!(error, OpenError::UnknownVersion(2));
        let empty = Sealed::from_bytes(Vec::new());
        assert_eq!(
            both.open(purpose, &id, &account, &empty).unwrap_err(),
            OpenError::DoesNotOpen
        );
    }

    #[test]
    fn check_values_distinguish_keyrings() {
        let ours = keyring(&[1, 2], &[1]).check_values();
        let names: Vec<_> = ours
            .iter()
            .map(|check| (check.kind.name(), check.number))
            .collect();
        assert_eq!(names, [("generation", 2), ("generation", 1), ("seal", 1)]);
        assert_eq!(keyring(&[1], &[1]).check_values(), ours[1..]);
        let other = SecretKey::new(&[0xee; 32]);
        let with = |change: &dyn Fn(&mut KeyringMaterial)| {
            let mut material = material(&[1, 2], &[1]);
            change(&mut material);
            Keyring::new(&material, None).unwrap().check_values()
        };
        // Each secret and each number changes the value.
        let tag = with(&|m| m.generations.get_mut(&1).unwrap().tag_key = other.clone());
        let pepper = with(&|m| m.generations.get_mut(&1).unwrap().pepper = other.clone());
        let seal = with(&|m| m.seals = [(1, other.clone())].into());
        let moved = with(&|m| m.seals = [(2, m.seals[&1].clone())].into());
        let changed = |theirs: Vec<CheckValue>| {
            let differ = ours.iter().zip(&theirs).map(|(a, b)| a.value != b.value);
            differ.collect::<Vec<_>>()
        };
        assert_eq!(changed(tag), [false, true, false]);
        assert_eq!(changed(pepper), [false, true, false]);
        assert_eq!(changed(seal), [false, false, true]);
        assert_eq!(changed(moved), [false, false, true]);
    }

    #[test]
    fn debug_shows_numbers_only() {
        let keyring = keyring(&[1, 2], &[3]);
        assert_eq!(
            format!("{keyring:?}"),
            "Keyring { generations: [2, 1], seals: [3], imports: [] }"
        );
        let minted = keyring.mint(&prefixes()[0], &Counting::default());
        let shown = format!("{minted:?}");
        assert!(
            shown.contains("SecretText(redacted)") && shown.contains("Digest(redacted)"),
            "{shown}"
        );
        assert!(!shown.contains(&minted.text.expose()[7..15]), "{shown}");
    }
}
