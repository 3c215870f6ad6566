//! The fields of records as a backend or a shared cache holds them, and their checks.

use std::collections::BTreeMap;
use std::time::Duration;

use keyward_core::fence::Mark;
use keyward_core::key::{
    AccountId, FieldError, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Scopes, SlotName,
    Timestamp,
};
use keyward_crypto::Digest;

/// The fields of a key, unchecked.
#[derive(Clone, Debug)]
pub struct RawKey {
    /// The public name.
    pub id: KeyId,
    /// See [`AccountId`].
    pub account: String,
    /// See [`SlotName`].
    pub name: String,
    /// See [`Hint`].
    pub hint: String,
    /// See [`Scopes`].
    pub scopes: Vec<String>,
    /// See [`Metadata`].
    pub metadata: BTreeMap<String, String>,
    /// See [`Networks`].
    pub networks: Vec<String>,
    /// Whether a sealed copy was kept at creation.
    pub recoverable: bool,
    /// Whether the key is switched off.
    pub disabled: bool,
    /// When the key was created.
    pub create_time: Timestamp,
    /// When the key expires.
    pub expire_time: Option<Timestamp>,
    /// From when on the key is revoked.
    pub revoke_time: Option<Timestamp>,
    /// Whether the key is revoked, at any time.
    pub revoked: bool,
    /// See [`Reason`].
    pub revoke_reason: Option<String>,
    /// The successor's id: 16 bytes.
    pub replaced_by: Option<Vec<u8>>,
    /// The revision of the last change.
    pub revision: i64,
}

impl RawKey {
    /// Checks each field.
    pub fn check(self) -> Result<KeyRecord, FieldError> {
        Ok(KeyRecord {
            id: self.id,
            account: AccountId::new("account_id", self.account)?,
            name: SlotName::new("name", self.name)?,
            hint: Hint(self.hint),
            scopes: Scopes::new("scopes", self.scopes)?,
            metadata: Metadata::new("metadata", self.metadata)?,
            networks: Networks::new("allowed_cidrs", &self.networks)?,
            recoverable: self.recoverable,
            disabled: self.disabled,
            create_time: self.create_time,
            expire_time: self.expire_time,
            revoked: revoked(self.revoked, self.revoke_time)?,
            revoke_time: self.revoke_time,
            // A field that is present but invalid refuses the record, instead of being dropped.
            revoke_reason: self
                .revoke_reason
                .map(|reason| Reason::new("revoke_reason", reason))
                .transpose()?,
            replaced_by: self.replaced_by.as_deref().map(id).transpose()?,
            revision: revision(self.revision)?,
        })
    }
}

/// Whether a key or token is revoked.
pub(super) fn revoked(revoked: bool, revoke_time: Option<Timestamp>) -> Result<bool, FieldError> {
    match revoked && revoke_time.is_none() {
        true => Err(FieldError::new("revoked", "is set without a revoke_time")),
        false => Ok(revoked),
    }
}

/// The id of a key or of a token.
pub fn id(bytes: &[u8]) -> Result<KeyId, FieldError> {
    Ok(KeyId::from_bytes(array("id", bytes)?))
}

/// A digest.
pub fn digest(bytes: &[u8]) -> Result<Digest, FieldError> {
    Ok(Digest::from_bytes(array("digest", bytes)?))
}

/// The mark of a log row.
pub fn mark(bytes: &[u8]) -> Result<Mark, FieldError> {
    array("mark", bytes)
}

/// A revision, or another number that is never negative.
pub fn revision(value: i64) -> Result<u64, FieldError> {
    u64::try_from(value).map_err(|_| FieldError::new("revision", "is negative"))
}

/// The number of a generation or of another key of the keyring.
pub fn number(value: i64) -> Result<u32, FieldError> {
    u32::try_from(value).map_err(|_| FieldError::new("number", "is not a number of 32 bits"))
}

/// The version of a sealing key, as the first bytes of a sealed copy.
pub fn seal_version(prefix: &[u8]) -> Result<u32, FieldError> {
    Ok(u32::from_be_bytes(array("sealed", prefix)?))
}

/// A revision, or another number, as a parameter of a statement.
pub fn parameter(revision: u64) -> Result<i64, FieldError> {
    i64::try_from(revision).map_err(|_| FieldError::new("revision", "is over 2^63"))
}

/// A number of rows as a parameter of a statement.
pub fn limit(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A duration in microseconds as a parameter of a statement.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// So many bytes.
pub(super) fn array<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], FieldError> {
    bytes.try_into().map_err(|_| {
        let found = bytes.len();
        FieldError::new(field, format!("has {found} bytes instead of {N}"))
    })
}
