//! Sealed copies of recoverable keys: XChaCha20-Poly1305 under a versioned sealing key. A sealed copy
//! is bound to its key id, account and purpose, so a copy in another row cannot be opened.

use std::fmt;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::material::{CheckValue, KeyKind, SecretKey};
use keyward_core::key::{AccountId, Entropy, KeyId, SecretText};

/// The longest text that can be sealed, in bytes.
pub const MAX_SEALED_TEXT: usize = 1_024;

const VERSION_LEN: usize = 4;
const NONCE_LEN: usize = 24;
const MAC_LEN: usize = 16;

/// The purpose of a sealed text. The text is bound to it, so that it cannot be used for another
/// purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealPurpose(&'static str);

impl SealPurpose {
    /// The text of a recoverable key, which its owner may see again.
    pub const RECOVERABLE_KEY: Self = Self("recoverable-key");
}

/// A sealed text as in a store: the version of the sealing key (4 bytes, big-endian), a nonce of 24
/// bytes, the ciphertext, and a MAC of 16 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Wraps the bytes from a store without a check; `Keyring::open` checks them.
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes for a store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The version of the sealing key; `None` if the text is cut short.
    pub fn version(&self) -> Option<u32> {
        self.0.first_chunk().copied().map(u32::from_be_bytes)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// The text is longer than `MAX_SEALED_TEXT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text of more than {MAX_SEALED_TEXT} bytes cannot be sealed")]
pub struct TooLongToSeal;

/// Why a sealed text could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The keyring lacks the sealing key.
    #[error(
        "it is sealed under version {0} of the sealing key, which this keyring lacks: restore the file seal-{0}"
    )]
    UnknownVersion(u32),
    /// The text was altered or cut, or belongs to another key, account, purpose or keyring.
    #[error(
        "it cannot be decrypted: it was altered, or was sealed for another key or by another keyring"
    )]
    DoesNotOpen,
}

/// One version of the sealing key. The cipher wipes its key on drop.
pub(super) struct SealingKey {
    pub(super) check: CheckValue,
    cipher: XChaCha20Poly1305,
}

impl SealingKey {
    pub(super) fn new(version: u32, key: &SecretKey) -> Self {
        Self {
            check: CheckValue::over(KeyKind::Seal, version, [&key.hmac()]),
            cipher: XChaCha20Poly1305::new(key.expose().into()),
        }
    }

    pub(super) const fn version(&self) -> u32 {
        self.check.number
    }

    pub(super) fn seal(
        &self,
        binding: &Binding,
        text: &SecretText,
        entropy: &dyn Entropy,
    ) -> Result<Sealed, TooLongToSeal> {
        let text = text.expose().as_bytes();
        if text.len() > MAX_SEALED_TEXT {
            return Err(TooLongToSeal);
        }
        let mut nonce = XNonce::default();
        entropy.fill(&mut nonce);
        // Full capacity from the start: a buffer that grows leaves copies of the plain text behind.
        let mut sealed = Vec::with_capacity(VERSION_LEN + NONCE_LEN + text.len() + MAC_LEN);
        sealed.extend_from_slice(&self.version().to_be_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(text);
        let plain = InOutBuf::from(&mut sealed[VERSION_LEN + NONCE_LEN..]);
        let mac = self
            .cipher
            .encrypt_inout_detached(&nonce, &binding.0, plain)
            .map_err(|_| TooLongToSeal)?;
        sealed.extend_from_slice(&mac);
        Ok(Sealed(sealed))
    }

    pub(super) fn open(&self, binding: &Binding, sealed: &Sealed) -> Result<SecretText, OpenError> {
        self.try_open(binding, sealed).ok_or(OpenError::DoesNotOpen)
    }

    fn try_open(&self, binding: &Binding, sealed: &Sealed) -> Option<SecretText> {
        let (nonce, rest) = sealed
            .0
            .get(VERSION_LEN..)?
            .split_first_chunk::<NONCE_LEN>()?;
        let (cipher_text, mac) = rest.split_last_chunk::<MAC_LEN>()?;
        let mut text = Zeroizing::new(cipher_text.to_vec());
        let buffer = InOutBuf::from(&mut text[..]);
        self.cipher
            .decrypt_inout_detached(nonce.into(), &binding.0, buffer, mac.into())
            .ok()?;
        let text = std::str::from_utf8(&text).ok()?;
        Some(SecretText::new(text.to_owned()))
    }
}

/// The associated data of a sealed text. Each part follows its length, so that no two rows give the
/// same bytes.
pub(super) struct Binding(Vec<u8>);

impl Binding {
    pub(super) fn new(purpose: SealPurpose, id: &KeyId, account: &AccountId) -> Self {
        let mut bytes = Vec::new();
        for part in [
            purpose.0.as_bytes(),
            id.as_bytes(),
            account.as_str().as_bytes(),
        ] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Counting;
    use super::*;

    const PURPOSE: SealPurpose = SealPurpose::RECOVERABLE_KEY;

    fn key(version: u32, byte: u8) -> SealingKey {
        SealingKey::new(version, &SecretKey::new(&[byte; 32]))
    }

    fn row(purpose: SealPurpose, id: u8, account: &str) -> Binding {
        let account = AccountId::new("account_id", account.to_owned()).unwrap();
        Binding::new(purpose, &KeyId::from_bytes([id; 16]), &account)
    }

    fn sealed(text: &str) -> Sealed {
        let text = SecretText::new(text.to_owned());
        key(7, 1)
            .seal(&row(PURPOSE, 1, "42"), &text, &Counting::default())
            .unwrap()
    }

    #[test]
    fn a_sealed_text_opens_for_its_own_row_only() {
        let sealed = sealed("kw_secret");
        let open = |binding| key(7, 1).open(&binding, &sealed);
        assert_eq!(open(row(PURPOSE, 1, "42")).unwrap().expose(), "kw_secret");
        for foreign in [
            row(SealPurpose("other"), 1, "42"),
            row(PURPOSE, 2, "42"),
            row(PURPOSE, 1, "43"),
        ] {
            assert_eq!(open(foreign).unwrap_err(), OpenError::DoesNotOpen);
        }
        assert_eq!(
            key(7, 2).open(&row(PURPOSE, 1, "42"), &sealed).unwrap_err(),
            OpenError::DoesNotOpen
        );
    }

    #[test]
    fn different_rows_give_different_bindings() {
        let (one, other) = (
            row(SealPurpose("ab"), b'b', "c"),
            row(SealPurpose("a"), b'b', "bc"),
        );
        assert_ne!(one.0, other.0);
    }

    #[test]
    fn an_altered_or_cut_sealed_text_does_not_open() {
        let Sealed(bytes) = sealed("kw_secret");
        for at in VERSION_LEN..bytes.len() {
            for bit in 0..8 {
                let mut altered = bytes.clone();
                altered[at] ^= 1 << bit;
                assert!(
                    key(7, 1)
                        .open(&row(PURPOSE, 1, "42"), &Sealed(altered))
                        .is_err(),
                    "byte {at}"
                );
            }
        }
        for length in 0..bytes.len() {
            let cut = Sealed(bytes[..length].to_vec());
            assert!(
                key(7, 1).open(&row(PURPOSE, 1, "42"), &cut).is_err(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn the_stored_form_is_as_documented() {
        let sealed = sealed("kw_secret");
        assert_eq!(sealed.version(), Some(7));
        assert_eq!(sealed.as_bytes().len(), 4 + 24 + "kw_secret".len() + 16);
        assert_eq!(Sealed::from_bytes(sealed.as_bytes().to_vec()), sealed);
        assert_eq!(Sealed::from_bytes(vec![0; 3]).version(), None);
        assert_eq!(format!("{sealed:?}"), "Sealed(53 bytes)");
    }

    #[test]
    fn two_sealings_of_one_text_differ() {
        let (entropy, text) = (Counting::default(), SecretText::new("kw_secret".to_owned()));
        let seal = || {
            key(1, 1)
                .seal(&row(PURPOSE, 1, "42"), &text, &entropy)
                .unwrap()
        };
        assert_ne!(
            seal().as_bytes()[VERSION_LEN + NONCE_LEN..],
            seal().as_bytes()[VERSION_LEN + NONCE_LEN..]
        );
    }

    #[test]
    fn a_long_text_is_refused() {
        let seal = |length| {
            let text = SecretText::new("x".repeat(length));
            key(1, 1).seal(&row(PURPOSE, 1, "42"), &text, &Counting::default())
        };
        assert!(seal(MAX_SEALED_TEXT).is_ok());
        assert_eq!(seal(MAX_SEALED_TEXT + 1).unwrap_err(), TooLongToSeal);
    }

    proptest! {
        #[test]
        fn every_text_is_opened_again(text in "\\PC{0,200}", account in "[!-~]{1,128}") {
            let binding = row(PURPOSE, 3, &account);
            let sealed = key(1, 9).seal(&binding, &SecretText::new(text.clone()), &Counting::default()).unwrap();
            let opened = key(1, 9).open(&binding, &sealed).unwrap();
            prop_assert_eq!(opened.expose(), &text);
        }

        #[test]
        fn no_sealed_text_panics(bytes: Vec<u8>) {
            prop_assert!(key(1, 9).open(&row(PURPOSE, 1, "42"), &Sealed(bytes)).is_err());
        }
    }
}
