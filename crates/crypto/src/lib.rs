//! What only the holder of the keyring can do: make keys, recognise them, name their digests and
//! seal their text. No secret of the keyring leaves this module.

mod cache_key;
mod generation;
mod keyring;
pub mod keyring_files;
mod material;
pub mod private_file;
mod seal;
#[cfg(test)]
mod testing;

pub use cache_key::{CACHE_SEAL_LEN, CacheKey, Hint};
pub use generation::Digest;
pub use keyring::{Keyring, Minted, NoKeyring};
pub use keyring_files::KeyringError;
pub use material::{CheckValue, GenerationKeys, KeyKind, KeyringMaterial, SecretKey};
pub use seal::{MAX_SEALED_TEXT, OpenError, SealPurpose, Sealed, TooLongToSeal};
