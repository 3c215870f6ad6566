//! The operations of the keyring: mint and recognise keys, compute their digests, seal their text,
//! protect the shared cache, and make the audit tamper-evident. No secret of the keyring leaves this crate.

mod audit_key;
mod cache_key;
mod current;
mod foreign;
mod generation;
mod keyring;
pub mod keyring_files;
mod material;
pub mod private_file;
mod seal;
#[cfg(test)]
mod testing;

pub use audit_key::{AuditKey, AuditPurpose};
pub use cache_key::{CACHE_SEAL_LEN, CacheKey, NoticeId};
pub use current::CurrentKeyring;
pub use foreign::DigestScheme;
pub use generation::Digest;
pub use keyring::{Active, Keyring, Minted, NoKeyring};
pub use keyring_files::KeyringError;
pub use material::{
    CheckValue, GenerationKeys, ImportSecret, KeyKind, KeyName, KeyringMaterial, SecretKey,
};
pub use seal::{MAX_SEALED_TEXT, OpenError, SealPurpose, Sealed, TooLongToSeal};
