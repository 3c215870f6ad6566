//! One generation of the keyring: its tag tells a key that was minted here from an invented one
//! without I/O, its pepper names the digest under which the key is stored.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::material::{CheckValue, GenerationKeys, KeyKind};
use keyward_core::key::{Prefix, TAG_LEN};

/// Under what a key is stored and looked up: HMAC-SHA256 of its text under a pepper. Comparing
/// two need not take constant time: whoever lacks the pepper cannot choose one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// From the 32 bytes that a store holds.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes that a store holds.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(redacted)")
    }
}

/// One generation, its keys absorbed once: each use clones the state instead (verify is the hot
/// path). The states wipe themselves when they go.
pub(super) struct Generation {
    pub(super) number: u32,
    tag: Hmac<Sha256>,
    pepper: Hmac<Sha256>,
}

impl Generation {
    pub(super) fn new(number: u32, keys: &GenerationKeys) -> Self {
        Self {
            number,
            tag: keys.tag_key.hmac(),
            pepper: keys.pepper.hmac(),
        }
    }

    /// The keyed tag over prefix and random part, which is of fixed length: unambiguous.
    pub(super) fn tag(&self, prefix: &Prefix, random: &[u8]) -> Zeroizing<[u8; TAG_LEN]> {
        let mut mac = self.tag.clone();
        mac.update(prefix.as_str().as_bytes());
        mac.update(b"_");
        mac.update(random);
        let full = mac.finalize();
        let mut tag = Zeroizing::new([0; TAG_LEN]);
        tag.copy_from_slice(&full.as_bytes()[..TAG_LEN]);
        tag
    }

    pub(super) fn digest(&self, text: &str) -> Digest {
        let mut mac = self.pepper.clone();
        mac.update(text.as_bytes());
        Digest(mac.finalize().into_bytes().into())
    }

    pub(super) fn check(&self) -> CheckValue {
        CheckValue::over(KeyKind::Generation, self.number, [&self.tag, &self.pepper])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_wipe_themselves() {
        fn wipes<T: zeroize::ZeroizeOnDrop>() {}
        wipes::<sha2::block_api::Sha256VarCore>();
        wipes::<chacha20poly1305::XChaCha20Poly1305>();
    }

    #[test]
    fn digests_are_what_was_stored() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(digest.as_bytes(), &[0xab; 32]);
        assert_eq!(format!("{digest:?}"), "Digest(redacted)");
    }
}
