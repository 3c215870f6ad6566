//! The protection of the shared cache, which other programs may read and write. A reader learns no
//! key, digest or account; a writer cannot invent a record or move one to another name. Only one
//! version of the cache key is in use: a new version starts with an empty cache.

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

/// The format of the entries. Raise it when the fields of an entry or their meaning change: two
/// versions of the service that run side by side then never read each other's entries.
const FORMAT: u8 = 2;
const NAME_LEN: usize = 16;
const NONCE_LEN: usize = 24;
const MAC_LEN: usize = 16;
const SENDER_LEN: usize = 8;
const ID_LEN: usize = SENDER_LEN + size_of::<u64>();
/// The length of a change notice, in bytes.
const NOTICE_LEN: usize = ID_LEN + MAC_LEN;
/// The bytes that sealing adds to an entry.
pub const CACHE_SEAL_LEN: usize = NONCE_LEN + MAC_LEN;

/// One version of the cache key. Its secrets are wiped on drop.
pub struct CacheKey {
    version: u32,
    names: Hmac<Sha256>,
    notices: Hmac<Sha256>,
    channel: String,
    cipher: XChaCha20Poly1305,
}

impl CacheKey {
    pub(super) fn new(version: u32, key: &SecretKey) -> Self {
        let derived = |purpose: &str| {
            let mut mac = key.hmac();
            mac.update(b"keyward cache ");
            mac.update(&[FORMAT]);
            mac.update(purpose.as_bytes());
            let mut bytes = Zeroizing::new([0; 32]);
            bytes.copy_from_slice(&mac.finalize().into_bytes());
            SecretKey::new(&bytes)
        };
        let channel = truncated(&derived("channel").hmac());
        Self {
            version,
            names: derived("names").hmac(),
            // Released versions derive this key under the name "hints".
            notices: derived("hints").hmac(),
            channel: URL_SAFE_NO_PAD.encode(channel),
            cipher: XChaCha20Poly1305::new(derived("entries").expose().into()),
        }
    }

    /// The number in the name of the key's file.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The name of the entry for `digest`. It does not disclose the digest.
    pub fn name(&self, digest: &Digest) -> String {
        let mut mac = self.names.clone();
        mac.update(digest.as_bytes());
        URL_SAFE_NO_PAD.encode(truncated(&mac))
    }

    /// The channel of the change notices. Each cache key has its own, so that deployments that share
    /// a server do not receive each other's notices.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Seals the entry for `digest`: a nonce of 24 bytes, the ciphertext, and a MAC of 16 bytes, which
    /// covers the digest. `None` only above the cipher's limit of 256 GiB.
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

    /// Opens an entry that was sealed for the same digest under the same key; otherwise `None`.
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

    /// Signs a change notice. Only a holder of the cache key can do so.
    pub fn sign_notice(&self, id: NoticeId) -> [u8; NOTICE_LEN] {
        let mut notice = [0; NOTICE_LEN];
        let id = id.to_bytes();
        notice[..ID_LEN].copy_from_slice(&id);
        notice[ID_LEN..].copy_from_slice(&self.mac_of(&id));
        notice
    }

    /// Verifies a change notice; `None` if no holder of the cache key signed it.
    pub fn verify_notice(&self, notice: &[u8]) -> Option<NoticeId> {
        let notice: &[u8; NOTICE_LEN] = notice.try_into().ok()?;
        let (id, mac) = notice.split_first_chunk::<ID_LEN>()?;
        let (sender, number) = id.split_first_chunk::<SENDER_LEN>()?;
        bool::from(self.mac_of(id).ct_eq(mac)).then_some(NoticeId {
            sender: u64::from_be_bytes(*sender),
            number: u64::from_be_bytes(number.try_into().ok()?),
        })
    }

    fn mac_of(&self, id: &[u8; ID_LEN]) -> [u8; MAC_LEN] {
        let mut mac = self.notices.clone();
        mac.update(id);
        truncated(&mac)
    }
}

/// The identity of a change notice, by which a receiver recognises a repeated one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoticeId {
    /// The sender. Each start of an instance draws a new number.
    pub sender: u64,
    /// The number of the notice, counted by its sender from 1.
    pub number: u64,
}

impl NoticeId {
    fn to_bytes(self) -> [u8; ID_LEN] {
        let mut bytes = [0; ID_LEN];
        bytes[..SENDER_LEN].copy_from_slice(&self.sender.to_be_bytes());
        bytes[SENDER_LEN..].copy_from_slice(&self.number.to_be_bytes());
        bytes
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
    fn an_entry_opens_only_with_its_own_digest_and_key() {
        let sealed = key(1).seal(&digest(1), b"a record", &Counting::default());
        let sealed = sealed.unwrap();
        assert_eq!(sealed.len(), b"a record".len() + CACHE_SEAL_LEN);
        assert_eq!(key(1).open(&digest(1), &sealed).unwrap(), b"a record");
        assert_eq!(key(1).open(&digest(2), &sealed), None);
        assert_eq!(key(2).open(&digest(1), &sealed), None);
        assert!(!sealed.windows(8).any(|window| window == b"a record"));
    }

    #[test]
    fn names_differ_by_digest_and_key() {
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
        fn an_altered_or_cut_entry_does_not_open(at in 0..48_usize, flip in 1..=255_u8, cut in 0..48_usize) {
            let sealed = key(1).seal(&digest(1), b"a record", &Counting::default()).unwrap();
            let mut altered = sealed.clone();
            altered[at] ^= flip;
            prop_assert_eq!(key(1).open(&digest(1), &altered), None);
            prop_assert_eq!(key(1).open(&digest(1), &sealed[..cut]), None);
        }

        #[test]
        fn a_notice_is_verified_by_holders_of_the_key_only(
            sender: u64,
            number: u64,
            at in 0..NOTICE_LEN,
            flip in 1..=255_u8,
        ) {
            let id = NoticeId { sender, number };
            let mut notice = key(1).sign_notice(id);
            prop_assert_eq!(key(1).verify_notice(&notice), Some(id));
            prop_assert_eq!(key(2).verify_notice(&notice), None);
            prop_assert_eq!(key(1).verify_notice(&notice[1..]), None);
            notice[at] ^= flip;
            prop_assert_eq!(key(1).verify_notice(&notice), None);
        }
    }
}
