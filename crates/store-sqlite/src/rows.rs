//! Rows to records and back.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::store_error;
use keyward_core::key::{
    AccountId, FieldError, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Roles, Scopes,
    SlotName, Timestamp, TokenRecord,
};
use keyward_crypto::{Digest, Sealed};
use keyward_store::{CommittedChange, StoreError, StoredKey};

type Result<T> = keyward_store::Result<T>;

/// The columns of a key's record, in a query's text.
macro_rules! key_columns {
    () => {
        "key_id, account_id, name, hint, scopes, metadata, allowed_cidrs, recoverable, disabled, \
         create_time, expire_time, revoke_time, revoke_reason, replaced_by, revision, mark, sealed, digest"
    };
}

/// The columns of a token's record, in a query's text.
macro_rules! token_columns {
    () => {
        "token_id, name, roles, create_time, revoke_time, revision, mark"
    };
}

pub(super) use {key_columns, token_columns};

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(what.to_string())
}

/// A column of a row.
pub(super) fn column<'r, T>(row: &'r SqliteRow, name: &str) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(store_error)
}

/// A revision as the log counts it.
pub(super) fn revision(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| damaged("a negative revision"))
}

/// A revision as a statement takes it.
pub(super) fn bindable(revision: u64) -> Result<i64> {
    i64::try_from(revision).map_err(|_| damaged("a revision over 2^63"))
}

pub(super) fn id(bytes: &[u8]) -> Result<KeyId> {
    bytes
        .try_into()
        .map(KeyId::from_bytes)
        .map_err(|_| damaged("an id that is not 16 bytes"))
}

fn time(row: &SqliteRow, name: &str) -> Result<Option<Timestamp>> {
    Ok(column::<Option<i64>>(row, name)?.map(Timestamp::from_micros))
}

fn json<T: DeserializeOwned>(row: &SqliteRow, name: &str) -> Result<T> {
    serde_json::from_str(column(row, name)?).map_err(|_| damaged(format!("{name} is not readable")))
}

/// A list or a map as a column holds it.
pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(damaged)
}

/// The record in a row of `key_columns`.
pub(super) fn key(row: &SqliteRow) -> Result<KeyRecord> {
    let broken = |error: FieldError| damaged(error);
    Ok(KeyRecord {
        id: id(column(row, "key_id")?)?,
        account: AccountId::new("account_id", column(row, "account_id")?).map_err(broken)?,
        name: SlotName::new("name", column(row, "name")?).map_err(broken)?,
        hint: Hint(column(row, "hint")?),
        scopes: Scopes::new("scopes", json(row, "scopes")?).map_err(broken)?,
        metadata: Metadata::new("metadata", json::<BTreeMap<_, _>>(row, "metadata")?)
            .map_err(broken)?,
        networks: Networks::new("allowed_cidrs", &json::<Vec<_>>(row, "allowed_cidrs")?)
            .map_err(broken)?,
        recoverable: column(row, "recoverable")?,
        disabled: column(row, "disabled")?,
        create_time: Timestamp::from_micros(column(row, "create_time")?),
        expire_time: time(row, "expire_time")?,
        revoke_time: time(row, "revoke_time")?,
        revoke_reason: column::<Option<String>>(row, "revoke_reason")?
            .map(|reason| Reason::new("reason", reason).map_err(broken))
            .transpose()?,
        replaced_by: column::<Option<&[u8]>>(row, "replaced_by")?
            .map(id)
            .transpose()?,
        revision: revision(column(row, "revision")?)?,
    })
}

/// The record in a row of `key_columns`, and the sealed copy.
pub(super) fn secrets(row: &SqliteRow) -> Result<StoredKey> {
    let sealed = column::<Option<Vec<u8>>>(row, "sealed")?.map(Sealed::from_bytes);
    Ok(StoredKey {
        record: key(row)?,
        sealed,
    })
}

/// The column `digest`.
pub(super) fn digest(row: &SqliteRow) -> Result<Digest> {
    column::<&[u8]>(row, "digest")?
        .try_into()
        .map(Digest::from_bytes)
        .map_err(|_| damaged("a digest that is not 32 bytes"))
}

/// The record in a row of `token_columns`.
pub(super) fn token(row: &SqliteRow) -> Result<TokenRecord> {
    Ok(TokenRecord {
        id: id(column(row, "token_id")?)?,
        name: SlotName::new("name", column(row, "name")?).map_err(damaged)?,
        roles: Roles::parse(column(row, "roles")?).ok_or_else(|| damaged("an unknown role"))?,
        create_time: Timestamp::from_micros(column(row, "create_time")?),
        revoke_time: time(row, "revoke_time")?,
        revision: revision(column(row, "revision")?)?,
    })
}

/// The last change of a row of `key_columns`.
pub(super) fn committed(row: &SqliteRow) -> Result<CommittedChange> {
    last_change(row, "key_id")
}

/// The last change of a row of `token_columns`.
pub(super) fn token_committed(row: &SqliteRow) -> Result<CommittedChange> {
    last_change(row, "token_id")
}

fn last_change(row: &SqliteRow, id_column: &str) -> Result<CommittedChange> {
    let revision = revision(column(row, "revision")?)?;
    if revision == 0 {
        return Ok(CommittedChange::NOTHING);
    }
    Ok(CommittedChange {
        revision,
        mark: Some(mark(column(row, "mark")?)?),
        id: Some(id(column(row, id_column)?)?),
    })
}

pub(super) fn mark(bytes: &[u8]) -> Result<keyward_core::fence::Mark> {
    bytes
        .try_into()
        .map_err(|_| damaged("a mark that is not 8 bytes"))
}
