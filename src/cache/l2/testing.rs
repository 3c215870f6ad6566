//! Helpers for the tests of L2.

use std::sync::Arc;

use keyward_crypto::{Active, CacheKey, GenerationKeys, Keyring, KeyringMaterial, SecretKey};

/// A cache key that depends on `byte` alone.
pub(crate) fn cache_key(byte: u8) -> Arc<CacheKey> {
    let secret = |part: u8| SecretKey::new(&[byte.wrapping_mul(16).wrapping_add(part); 32]);
    let generation = GenerationKeys {
        tag_key: secret(1),
        pepper: secret(2),
    };
    let material = KeyringMaterial {
        generations: [(1, generation)].into(),
        seals: [(1, secret(3))].into(),
        caches: [(1, secret(4))].into(),
        ..KeyringMaterial::default()
    };
    Keyring::new(&material, Active::default())
        .map(|keyring| keyring.cache_key())
        .unwrap()
        .unwrap()
}
