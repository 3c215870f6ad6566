//! Helpers for the tests of this crate: deterministic randomness and keyrings.

use std::sync::atomic::{AtomicU8, Ordering};

use super::{GenerationKeys, ImportSecret, KeyringMaterial, SecretKey};
use keyward_core::key::Entropy;

/// Yields the bytes 0, 1, 2 and so on.
#[derive(Default)]
pub(super) struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed));
    }
}

/// Material whose secrets depend on their numbers only.
pub(super) fn material(generations: &[u32], seals: &[u32]) -> KeyringMaterial {
    let key = |number: u32, what: u8| {
        let mut bytes = [what; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        SecretKey::new(&bytes)
    };
    let generation = |number: &u32| {
        (
            *number,
            GenerationKeys {
                tag_key: key(*number, 1),
                pepper: key(*number, 2),
            },
        )
    };
    KeyringMaterial {
        generations: generations.iter().map(generation).collect(),
        seals: seals
            .iter()
            .map(|version| (*version, key(*version, 3)))
            .collect(),
        caches: [(1, key(1, 4))].into(),
        ..KeyringMaterial::default()
    }
}

/// Material with a foreign pepper and these import secrets.
pub(super) fn with_foreign(secrets: &[&[u8]]) -> KeyringMaterial {
    let secrets = secrets.iter().map(|secret| ImportSecret::new(secret));
    KeyringMaterial {
        foreign: Some(SecretKey::new(&[5; 32])),
        imports: (1..).zip(secrets.flatten()).collect(),
        ..material(&[1], &[1])
    }
}
