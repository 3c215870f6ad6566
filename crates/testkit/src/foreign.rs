//! Keys of another product, as its migration would export them, and the requests that import them.

use hmac::{Hmac, KeyInit as _, Mac as _};
use keyward::system::SystemEntropy;
use keyward_core::key::Entropy as _;
use keyward_proto::v1;
use sha2::{Digest as _, Sha256};

/// The import secrets 1 and 2.
pub const IMPORT_SECRETS: [&[u8]; 2] = [b"the first secret", b"another secret"];

/// What an import file holds of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Its text.
    Text,
    /// SHA-256 of its text.
    Sha256,
    /// HMAC-SHA256 of its text under the import secret with this number, which is 1 or 2.
    Hmac(usize),
}

impl Scheme {
    /// All that a test can import.
    pub const ALL: [Self; 4] = [Self::Text, Self::Sha256, Self::Hmac(1), Self::Hmac(2)];

    /// The key as an import takes it, in the slot `default` of an account.
    pub fn key(self, account: &str, text: &str) -> v1::ImportKey {
        let (digest_scheme, digest) = match self {
            Self::Text => {
                return v1::ImportKey {
                    account_id: account.to_owned(),
                    api_key: text.to_owned(),
                    ..Default::default()
                };
            }
            Self::Sha256 => ("sha256".to_owned(), Sha256::digest(text).to_vec()),
            Self::Hmac(number) => {
                let secret = IMPORT_SECRETS[number - 1];
                let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
                mac.update(text.as_bytes());
                let digest = mac.finalize().into_bytes().to_vec();
                (format!("hmac-sha256:{number}"), digest)
            }
        };
        v1::ImportKey {
            account_id: account.to_owned(),
            digest,
            digest_scheme,
            ..Default::default()
        }
    }
}

/// A random UUID of version 4, as text.
pub fn uuid_v4() -> String {
    let mut bytes = [0; 16];
    SystemEntropy.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// Imports keys under a new batch.
pub fn importing(keys: impl Into<Vec<v1::ImportKey>>) -> v1::ImportKeysRequest {
    v1::ImportKeysRequest {
        batch_id: uuid_v4(),
        keys: keys.into(),
        dry_run: false,
    }
}

/// Undoes an import.
pub fn undoing(batch_id: &str) -> v1::UndoImportRequest {
    v1::UndoImportRequest {
        batch_id: batch_id.to_owned(),
        reason: "wrong file".to_owned(),
    }
}
