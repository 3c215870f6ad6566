//! The secrets of a keyring, as in its files. They are never printed and are wiped on drop. They are
//! on the heap, where a move leaves no copy behind.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use keyward_core::key::Entropy;

/// Bytes of a secret that Keyward drew.
pub(super) const SECRET_LEN: usize = 32;
/// Bytes of a check value.
const CHECK_LEN: usize = 16;

/// One secret that Keyward drew: 32 random bytes.
#[derive(Clone)]
pub struct SecretKey(Box<Zeroizing<[u8; SECRET_LEN]>>);

impl SecretKey {
    /// Copies 32 bytes. The caller wipes the original.
    pub fn new(bytes: &[u8; SECRET_LEN]) -> Self {
        let mut key = Self::zero();
        key.0.copy_from_slice(bytes);
        key
    }

    /// A secret of zeros, to be filled in place.
    fn zero() -> Self {
        Self(Box::new(Zeroizing::new([0; SECRET_LEN])))
    }

    /// Draws a new secret.
    pub fn draw(entropy: &dyn Entropy) -> Self {
        let mut key = Self::zero();
        entropy.fill(&mut key.0[..]);
        key
    }

    /// Parses 64 lower-case hexadecimal digits; `None` for any other text.
    pub(super) fn from_hex(digits: &str) -> Option<Self> {
        let mut key = Self::zero();
        decode(digits, &mut key.0[..])?;
        Some(key)
    }

    pub(super) fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// An HMAC-SHA256 state that has absorbed this key. Clone it for each use.
    pub(super) fn hmac(&self) -> Hmac<Sha256> {
        // HMAC pads a key with zeros to a block of 64 bytes. With a full block, `new` cannot fail.
        let mut block = Zeroizing::new([0; 2 * SECRET_LEN]);
        block[..SECRET_LEN].copy_from_slice(self.expose());
        Hmac::new((&*block).into())
    }
}

/// Decodes lower-case hexadecimal digits that fill `bytes`.
fn decode(digits: &str, bytes: &mut [u8]) -> Option<()> {
    if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    hex::decode_to_slice(digits, bytes).ok()
}

/// The digits of a secret, one at a time, so that no copy is left behind.
pub(super) fn hex_digits(secret: &[u8]) -> impl Iterator<Item = char> {
    let halves = secret.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves.filter_map(|half| char::from_digit(u32::from(half), 16))
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&**other.0).into()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

/// The secret with which another product computed the digests of its keys by HMAC-SHA256.
#[derive(Clone)]
pub struct ImportSecret(Zeroizing<Vec<u8>>);

impl ImportSecret {
    /// The largest number of bytes of a secret.
    pub const MAX_LEN: usize = 1_024;

    /// Copies 1 to [`Self::MAX_LEN`] bytes; `None` for any other number. The caller wipes the original.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=Self::MAX_LEN)
            .contains(&bytes.len())
            .then(|| Self(Zeroizing::new(bytes.to_vec())))
    }

    /// Parses lower-case hexadecimal digits; `None` for any other text.
    pub(super) fn from_hex(digits: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new(vec![0; digits.len() / 2]);
        decode(digits, &mut bytes)?;
        Self::new(&bytes)
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }

    #[expect(clippy::expect_used, reason = "HMAC hashes a key that is too long")]
    pub(super) fn hmac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.0).expect("HMAC takes a key of any length")
    }
}

impl fmt::Debug for ImportSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImportSecret(redacted)")
    }
}

/// The two secrets of a generation.
#[derive(Clone, Debug)]
pub struct GenerationKeys {
    /// The key of the tag, which refuses an invented key without I/O.
    pub tag_key: SecretKey,
    /// The key of the digest under which a key is stored.
    pub pepper: SecretKey,
}

impl GenerationKeys {
    /// Draws a new generation.
    pub fn draw(entropy: &dyn Entropy) -> Self {
        Self {
            tag_key: SecretKey::draw(entropy),
            pepper: SecretKey::draw(entropy),
        }
    }
}

/// All secrets of a keyring. Numbers start at 1.
#[derive(Clone, Debug, Default)]
pub struct KeyringMaterial {
    /// The generations by number.
    pub generations: BTreeMap<u32, GenerationKeys>,
    /// The sealing keys by version.
    pub seals: BTreeMap<u32, SecretKey>,
    /// The cache keys by version. Only a shared cache needs one.
    pub caches: BTreeMap<u32, SecretKey>,
    /// The audit keys by version. Without one, the audit is not sealed.
    pub audits: BTreeMap<u32, SecretKey>,
    /// The foreign pepper. Only foreign keys need it. It never changes: an imported key keeps the digest
    /// that it gave.
    pub foreign: Option<SecretKey>,
    /// The import secrets by number.
    pub imports: BTreeMap<u32, ImportSecret>,
}

impl KeyringMaterial {
    /// The highest number of this kind; 0 without any.
    pub(super) fn highest(&self, kind: KeyKind) -> u32 {
        let numbers = |last: Option<&u32>| last.copied().unwrap_or(0);
        match kind {
            KeyKind::Generation => numbers(self.generations.keys().next_back()),
            KeyKind::Seal => numbers(self.seals.keys().next_back()),
            KeyKind::Cache => numbers(self.caches.keys().next_back()),
            KeyKind::Foreign => u32::from(self.foreign.is_some()),
            KeyKind::Import => numbers(self.imports.keys().next_back()),
            KeyKind::Audit => numbers(self.audits.keys().next_back()),
        }
    }

    /// Whether `secret` is one of these secrets, of any kind.
    pub(super) fn holds(&self, secret: &[u8]) -> bool {
        let generations = self.generations.values();
        let keys = generations
            .flat_map(|keys| [&keys.tag_key, &keys.pepper])
            .chain(self.seals.values())
            .chain(self.caches.values())
            .chain(self.audits.values())
            .chain(&self.foreign);
        let imports = self.imports.values().map(ImportSecret::expose);
        keys.map(|key| key.expose().as_slice())
            .chain(imports)
            .any(|known| known.ct_eq(secret).into())
    }
}

keyward_core::named! {
    /// The kind of a numbered part of a keyring. Stores and file names use its name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum KeyKind {
        /// A generation: tag key and pepper.
        Generation = "generation",
        /// A sealing key.
        Seal = "seal",
        /// A cache key. No store keeps its check value, because a shared cache can be filled again.
        Cache = "cache",
        /// The foreign pepper, number 1. It is never retired.
        Foreign = "foreign",
        /// An import secret. It is never retired: without it, a revoked key would not be found.
        Import = "import",
        /// An audit key.
        Audit = "audit",
    }
}

/// The name of one key of a keyring, which is the name of its file, such as `generation-2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName {
    /// The kind of the key.
    pub kind: KeyKind,
    /// The number of the key, at least 1.
    pub number: u32,
}

impl KeyName {
    /// Parses a name; `None` for any other text, such as a number with leading zeros.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, digits) = text.split_once('-')?;
        let name = Self {
            kind: KeyKind::parse(kind)?,
            number: digits.parse().ok().filter(|number| *number > 0)?,
        };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind.name(), self.number)
    }
}

/// A value that identifies the secrets of one number without disclosing them. A store compares it at
/// start, to detect a foreign keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckValue {
    /// The kind of the secrets.
    pub kind: KeyKind,
    /// The number in the name of the file.
    pub number: u32,
    /// A truncated HMAC under all secrets of this number.
    pub value: [u8; CHECK_LEN],
}

impl CheckValue {
    /// The name of the key.
    pub fn name(&self) -> KeyName {
        KeyName {
            kind: self.kind,
            number: self.number,
        }
    }

    /// The value over all of `keys`: each HMAC covers the one before.
    pub(super) fn over<const N: usize>(
        kind: KeyKind,
        number: u32,
        keys: [&Hmac<Sha256>; N],
    ) -> Self {
        let mut covered = [0; 32];
        for key in keys {
            let mut mac = key.clone();
            // No tagged or digested text starts with this byte.
            mac.update(b"\0keyward check value v1 ");
            mac.update(kind.name().as_bytes());
            mac.update(&number.to_be_bytes());
            mac.update(&covered);
            covered = mac.finalize().into_bytes().into();
        }
        let mut value = [0; CHECK_LEN];
        value.copy_from_slice(&covered[..CHECK_LEN]);
        Self {
            kind,
            number,
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_padded_key_gives_the_standard_hmac() {
        // RFC 4231 has no 32-byte key; HMAC defines a short key as padded with zeros.
        let key = SecretKey::new(&[0x0b; 32]);
        let mut standard = Hmac::<Sha256>::new_from_slice(key.expose()).unwrap();
        let mut ours = key.hmac();
        standard.update(b"Hi There");
        ours.update(b"Hi There");
        assert_eq!(
            ours.finalize().into_bytes(),
            standard.finalize().into_bytes()
        );
    }

    #[test]
    fn a_secret_is_parsed_from_its_digits() {
        let key = SecretKey::new(&std::array::from_fn(|i| u8::try_from(i * 8).unwrap()));
        let digits: String = hex_digits(key.expose()).collect();
        assert!(digits.starts_with("0008101820") && digits.len() == 64);
        assert!(SecretKey::from_hex(&digits).is_some_and(|again| again == key));
        for wrong in [
            "",
            &digits[1..],
            &digits[2..],
            &format!("{digits}00"),
            &digits.replace('8', "g"),
        ] {
            assert!(SecretKey::from_hex(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_import_secret_has_1_to_1024_bytes() {
        for (length, accepted) in [(0, false), (1, true), (1_024, true), (1_025, false)] {
            let secret = ImportSecret::new(&vec![0xab; length]);
            assert_eq!(secret.is_some(), accepted, "{length} bytes");
            let parsed = ImportSecret::from_hex(&"ab".repeat(length));
            assert_eq!(parsed.is_some(), accepted, "{length} bytes");
        }
        for wrong in ["a", "AB", "ag", "ab "] {
            assert!(ImportSecret::from_hex(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn debug_is_redacted() {
        let key = SecretKey::new(&[0xab; 32]);
        let material = KeyringMaterial {
            generations: [(
                1,
                GenerationKeys {
                    tag_key: key.clone(),
                    pepper: key.clone(),
                },
            )]
            .into(),
            seals: [(1, key.clone())].into(),
            caches: [(1, key.clone())].into(),
            audits: [(1, key.clone())].into(),
            foreign: Some(key),
            imports: [(1, ImportSecret::new(&[0xab; 40]).unwrap())].into(),
        };
        let shown = format!("{material:?}");
        assert!(
            shown.contains("redacted") && !shown.contains("171") && !shown.contains("ab"),
            "{shown}"
        );
    }
}
