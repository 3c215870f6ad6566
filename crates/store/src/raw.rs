//! Records as a backend or a shared cache holds them. The only checked conversion from raw fields
//! to records is here; a backend only fills in the fields.

use std::collections::BTreeMap;

use super::{KnownKey, KnownState, Result};
use keyward_core::fence::{CommittedChange, Mark};
use keyward_core::key::{
    AccountId, FieldError, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Roles, San, Scopes,
    SlotName, Timestamp, TokenRecord,
};
use keyward_crypto::{CheckValue, Digest, KeyKind};

/// The fields of a key, unchecked.
#[derive(Clone, Debug)]
pub struct RawKey {
    /// 16 bytes.
    pub id: Vec<u8>,
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
    pub fn check(self) -> std::result::Result<KeyRecord, FieldError> {
        Ok(KeyRecord {
            id: id(&self.id)?,
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

/// The fields of a token, unchecked.
#[derive(Clone, Debug)]
pub struct RawToken {
    /// 16 bytes.
    pub id: Vec<u8>,
    /// See [`SlotName`].
    pub name: String,
    /// See [`Roles::to_text`].
    pub roles: String,
    /// See [`San`].
    pub san: Option<String>,
    /// When the token was created.
    pub create_time: Timestamp,
    /// From when on the token is expired.
    pub expire_time: Option<Timestamp>,
    /// From when on the token is revoked.
    pub revoke_time: Option<Timestamp>,
    /// Whether the token is revoked, at any time.
    pub revoked: bool,
    /// The revision of the last change.
    pub revision: i64,
}

impl RawToken {
    /// Checks each field.
    pub fn check(self) -> std::result::Result<TokenRecord, FieldError> {
        Ok(TokenRecord {
            id: id(&self.id)?,
            name: SlotName::new("name", self.name)?,
            roles: Roles::parse(&self.roles)
                .ok_or_else(|| FieldError::new("roles", "contains an unknown role"))?,
            san: self.san.map(|san| San::new("san", &san)).transpose()?,
            create_time: self.create_time,
            expire_time: self.expire_time,
            revoked: revoked(self.revoked, self.revoke_time)?,
            revoke_time: self.revoke_time,
            revision: revision(self.revision)?,
        })
    }
}

fn revoked(revoked: bool, revoke_time: Option<Timestamp>) -> std::result::Result<bool, FieldError> {
    match revoked && revoke_time.is_none() {
        true => Err(FieldError::new("revoked", "is set without a revoke_time")),
        false => Ok(revoked),
    }
}

/// The last change of a row: `revision` and `mark` are columns of the row of `id`.
pub fn last_change(id: KeyId, revision: u64, mark: Option<&[u8]>) -> Result<CommittedChange> {
    if revision == 0 {
        return Ok(CommittedChange::NOTHING);
    }
    Ok(CommittedChange {
        revision,
        mark: Some(self::mark(mark.unwrap_or_default())?),
        id: Some(id),
        read_in: None,
    })
}

/// The id of a key or of a token.
pub fn id(bytes: &[u8]) -> std::result::Result<KeyId, FieldError> {
    Ok(KeyId::from_bytes(array("id", bytes)?))
}

/// A digest.
pub fn digest(bytes: &[u8]) -> std::result::Result<Digest, FieldError> {
    Ok(Digest::from_bytes(array("digest", bytes)?))
}

/// The mark of a log row.
pub fn mark(bytes: &[u8]) -> std::result::Result<Mark, FieldError> {
    array("mark", bytes)
}

/// A revision, or another number that is never negative.
pub fn revision(value: i64) -> std::result::Result<u64, FieldError> {
    u64::try_from(value).map_err(|_| FieldError::new("revision", "is negative"))
}

/// The number of a generation or of another key of the keyring.
pub fn number(value: i64) -> std::result::Result<u32, FieldError> {
    u32::try_from(value).map_err(|_| FieldError::new("number", "is not a number of 32 bits"))
}

/// A row of `keyring_checks`.
pub fn known_key(
    kind: &str,
    number: i64,
    value: &[u8],
    state: &str,
    active: bool,
) -> std::result::Result<KnownKey, FieldError> {
    let mut kinds = KeyKind::ALL.into_iter();
    let kind = kinds.find(|known| known.name() == kind);
    let check = CheckValue {
        kind: kind.ok_or_else(|| FieldError::new("kind", "is unknown"))?,
        number: self::number(number)?,
        value: array("check_value", value)?,
    };
    let state = KnownState::of_columns(state, active);
    Ok(KnownKey {
        check,
        state: state.ok_or_else(|| FieldError::new("state", "is unknown"))?,
    })
}

/// The version of a sealing key, as the first bytes of a sealed copy.
pub fn seal_version(prefix: &[u8]) -> std::result::Result<u32, FieldError> {
    Ok(u32::from_be_bytes(array("sealed", prefix)?))
}

/// A revision, or another number, as a parameter of a statement.
pub fn parameter(revision: u64) -> std::result::Result<i64, FieldError> {
    i64::try_from(revision).map_err(|_| FieldError::new("revision", "is over 2^63"))
}

fn array<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> std::result::Result<[u8; N], FieldError> {
    bytes.try_into().map_err(|_| {
        let found = bytes.len();
        FieldError::new(field, format!("has {found} bytes instead of {N}"))
    })
}
