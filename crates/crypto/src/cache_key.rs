//! What protects a cache that others can read and write: nobody who reads it learns a key, a digest
//! or an account, nobody who writes it can put a record under another key's name or make one up.
//! What is kept there can be made again, so one version is in use at a time, and a new one begins
//! with an empty cache.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::generation::Digest;
use super::material::SecretKey;
use keyward_core::key::Entropy;

/// The form of what is kept. Whoever changes what an entry holds, or what it means, raises it: two
/// versions of the service that run side by side then never read each other's entries.
const FORM: u8 = 1;
const NAME_LEN: usize = 16;
const NONCE_LEN: usize = 24;
const MAC_LEN: usize = 16;
const SENDER_LEN: usize = 8;
const SAID_LEN: usize = SENDER_LEN + size_of::<u64>();
/// The length of a sealed hint, in bytes.
const HINT_LEN: usize = SAID_LEN + MAC_LEN;
/// What sealing adds to an entry, in bytes.
pub const CACHE_SEAL_LEN: usize = NONCE_LEN + MAC_LEN;

/// One version of the cache key. The states wipe themselves when they go.
pub struct CacheKey {
    version: u32,
    names: Hmac<Sha256>,
    hints: Hmac<Sha256>,
    channel: String,
    cipher: XChaCha20Poly1305,
}

impl CacheKey {
    pub(super) fn new(version: u32, key: &SecretKey) -> Self {
        let derived = |purpose: &str| {
            let mut mac = key.hmac();
            mac.update(b"keyward cache ");
            mac.update(&[FORM]);
            mac.update(purpose.as_bytes());
            let mut bytes = Zeroizing::new([0; 32]);
            bytes.copy_from_slice(&mac.finalize().into_bytes());
            SecretKey::new(&bytes)
        };
        let channel = truncated(&derived("channel").hmac());
        Self {
            version,
            names: derived("names").hmac(),
            hints: derived("hints").hmac(),
            channel: URL_SAFE_NO_PAD.encode(channel),
            cipher: XChaCha20Poly1305::new(derived("entries").expose().into()),
        }
    }

    /// The number in the name of its file.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Under what name the record behind `digest` is kept: says nothing of the digest.
    pub fn name(&self, digest: &Digest) -> String {
        let mut mac = self.names.clone();
        mac.update(digest.as_bytes());
        URL_SAFE_NO_PAD.encode(truncated(&mac))
    }

    /// Where hints are published: another one for each cache key, so that deployments that share a
    /// server do not hear each other.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Seals what is kept under the name of `digest`: a nonce of 24 bytes, the ciphertext and its
    /// 16 bytes of authentication, which cover the digest. `None` only for more than the cipher
    /// takes, 256 GiB.
    pub fn seal(&self, digest: &Digest, plain: &[u8], entropy: &dyn Entropy) -> Option<Vec<u8>> {
        let mut nonce = XNonce::default();
        entropy.fill(&mut nonce);
        let mut sealed = Vec::with_capacity(plain.len() + CACHE_SEAL_LEN);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let buffer = InOutBuf::from(&mut sealed[NONCE_LEN..]);
        let mac = self
            .cipher
            .encrypt_inout_detached(&nonce, digest.as_bytes(), buffer)
            .ok()?;
        sealed.extend_from_slice(&mac);
        Some(sealed)
    }

    /// Opens what was sealed for the same digest under the same key; `None` for anything else.
    pub fn open(&self, digest: &Digest, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (cipher_text, mac) = rest.split_last_chunk::<MAC_LEN>()?;
        let mut plain = cipher_text.to_vec();
        let buffer = InOutBuf::from(&mut plain[..]);
        self.cipher
            .decrypt_inout_detached(nonce.into(), digest.as_bytes(), buffer, mac.into())
            .ok()?;
        Some(plain)
    }

    /// A hint that only a holder of the key can make.
    pub fn seal_hint(&self, hint: Hint) -> [u8; HINT_LEN] {
        let mut sealed = [0; HINT_LEN];
        let said = hint.said();
        sealed[..SAID_LEN].copy_from_slice(&said);
        sealed[SAID_LEN..].copy_from_slice(&self.mac_of(&said));
        sealed
    }

    /// What a hint says; `None` when no holder of the key made it.
    pub fn read_hint(&self, sealed: &[u8]) -> Option<Hint> {
        let sealed: &[u8; HINT_LEN] = sealed.try_into().ok()?;
        let (said, mac) = sealed.split_first_chunk::<SAID_LEN>()?;
        let (sender, number) = said.split_first_chunk::<SENDER_LEN>()?;
        bool::from(self.mac_of(said).ct_eq(mac)).then_some(Hint {
            sender: u64::from_be_bytes(*sender),
            number: u64::from_be_bytes(number.try_into().ok()?),
        })
    }

    fn mac_of(&self, said: &[u8; SAID_LEN]) -> [u8; MAC_LEN] {
        let mut mac = self.hints.clone();
        mac.update(said);
        truncated(&mac)
    }
}

/// A hint that something has changed. It says who gives it, and which of that one's it is, so that one
/// that is repeated is known for what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Drawn anew by each start of an instance.
    pub sender: u64,
    /// Its hints are numbered, from 1.
    pub number: u64,
}

impl Hint {
    fn said(self) -> [u8; SAID_LEN] {
        let mut said = [0; SAID_LEN];
        said[..SENDER_LEN].copy_from_slice(&self.sender.to_be_bytes());
        said[SENDER_LEN..].copy_from_slice(&self.number.to_be_bytes());
        said
    }
}

fn truncated(mac: &Hmac<Sha256>) -> [u8; NAME_LEN] {
    let mut short = [0; NAME_LEN];
    short.copy_from_slice(&mac.clone().finalize().into_bytes()[..NAME_LEN]);
    short
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheKey({})", self.version)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::Counting;
    use super::*;

    fn key(byte: u8) -> CacheKey {
        CacheKey::new(1, &SecretKey::new(&[byte; 32]))
    }

    fn digest(byte: u8) -> Digest {
        Digest::from_bytes([byte; 32])
    }

    #[test]
    fn what_is_sealed_opens_for_its_own_digest_and_key_only() {
        let sealed = key(1).seal(&digest(1), b"a record", &Counting::default());
        let sealed = sealed.unwrap();
        assert_eq!(sealed.len(), b"a record".len() + CACHE_SEAL_LEN);
        assert_eq!(key(1).open(&digest(1), &sealed).unwrap(), b"a record");
        assert_eq!(key(1).open(&digest(2), &sealed), None);
        assert_eq!(key(2).open(&digest(1), &sealed), None);
        assert!(!sealed.windows(8).any(|window| window == b"a record"));
    }

    #[test]
    fn names_say_nothing_and_differ() {
        let names = [
            key(1).name(&digest(1)),
            key(1).name(&digest(2)),
            key(2).name(&digest(1)),
            key(1).channel().to_owned(),
            key(2).channel().to_owned(),
        ];
        for (n, name) in names.iter().enumerate() {
            assert_eq!(name.len(), 22);
            assert!(!names[..n].contains(name));
        }
        assert_eq!(names[0], key(1).name(&digest(1)));
    }

    proptest! {
        #[test]
        fn whatever_is_altered_does_not_open(at in 0..48_usize, flip in 1..=255_u8, cut in 0..48_usize) {
            let sealed = key(1).seal(&digest(1), b"a record", &Counting::default()).unwrap();
            let mut altered = sealed.clone();
            altered[at] ^= flip;
            prop_assert_eq!(key(1).open(&digest(1), &altered), None);
            prop_assert_eq!(key(1).open(&digest(1), &sealed[..cut]), None);
        }

        #[test]
        fn a_hint_is_read_by_who_shares_the_key(
            sender: u64,
            number: u64,
            at in 0..HINT_LEN,
            flip in 1..=255_u8,
        ) {
            let hint = Hint { sender, number };
            let mut sealed = key(1).seal_hint(hint);
            prop_assert_eq!(key(1).read_hint(&sealed), Some(hint));
            prop_assert_eq!(key(2).read_hint(&sealed), None);
            prop_assert_eq!(key(1).read_hint(&sealed[1..]), None);
            sealed[at] ^= flip;
            prop_assert_eq!(key(1).read_hint(&sealed), None);
        }
    }
}
