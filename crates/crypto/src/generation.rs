//! One generation of the keyring. Its tag key recognises minted keys without I/O; its pepper yields
//! the digest under which a key is stored.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::material::{CheckValue, GenerationKeys, KeyKind};
use keyward_core::key::{Prefix, San, TAG_LEN};

/// The digest under which a key is stored and looked up: HMAC-SHA256 of its text under a pepper. A
/// comparison need not take constant time: without the pepper, nobody can choose a digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a name in a client certificate. The name is no secret, so no pepper is needed; the domain
    /// keeps it apart from every other digest.
    pub fn of_san(san: &San) -> Self {
        let domain = Sha256::new_with_prefix(b"keyward caller certificate\0");
        Self(domain.chain_update(san.as_str()).finalize().into())
    }

    /// Decodes the 32 bytes from a store.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes for a store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(redacted)")
    }
}

/// One generation. The HMAC states have absorbed the keys, and each use clones a state: Verify is
/// the hot path. The states are wiped on drop.
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

    /// The tag over prefix and random part. It is unambiguous, because the random part has a fixed
    /// length.
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
    fn hmac_and_cipher_states_are_wiped_on_drop() {
        fn wipes<T: zeroize::ZeroizeOnDrop>() {}
        wipes::<sha2::block_api::Sha256VarCore>();
        wipes::<chacha20poly1305::XChaCha20Poly1305>();
    }

    #[test]
    fn a_digest_keeps_its_bytes_and_is_not_printed() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(digest.as_bytes(), &[0xab; 32]);
        assert_eq!(format!("{digest:?}"), "Digest(redacted)");
    }
}
