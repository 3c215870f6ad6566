//! Converts rows to records. The checks are in `keyward_store::raw`.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::store_error;
use keyward_core::key::{KeyId, KeyRecord, Timestamp, TokenRecord};
use keyward_crypto::{Digest, Sealed};
use keyward_store::raw::{self, RawKey, RawToken};
use keyward_store::{CommittedChange, Result, StoreError, StoredKey};

/// The columns of a key's record, as the text of a query.
macro_rules! key_columns {
    () => {
        "key_id, account_id, name, hint, scopes, metadata, allowed_cidrs, recoverable, disabled, \
         create_time, expire_time, revoke_time, revoked, revoke_reason, replaced_by, revision, mark, sealed, digest"
    };
}

/// The columns of a token's record, as the text of a query.
macro_rules! token_columns {
    () => {
        "token_id, name, roles, san, create_time, expire_time, revoke_time, revoked, revision, mark"
    };
}

pub(super) use {key_columns, token_columns};

/// A column of a row.
pub(super) fn column<'r, T>(row: &'r SqliteRow, name: &str) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(store_error)
}

/// A column with a time.
pub(super) fn time(row: &SqliteRow, name: &str) -> Result<Option<Timestamp>> {
    Ok(column::<Option<i64>>(row, name)?.map(Timestamp::from_micros))
}

/// A column with JSON.
pub(super) fn json<T: DeserializeOwned>(row: &SqliteRow, name: &str) -> Result<T> {
    serde_json::from_str(column(row, name)?)
        .map_err(|_| StoreError::Damaged(format!("the column {name} is not the expected JSON")))
}

/// A list or a map as the value of a column.
pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// An id as a parameter of a statement.
pub(super) fn id(id: KeyId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// The record in a row of `key_columns`.
pub(super) fn key(row: &SqliteRow) -> Result<KeyRecord> {
    let raw = RawKey {
        id: column(row, "key_id")?,
        account: column(row, "account_id")?,
        name: column(row, "name")?,
        hint: column(row, "hint")?,
        scopes: json(row, "scopes")?,
        metadata: json(row, "metadata")?,
        networks: json(row, "allowed_cidrs")?,
        recoverable: column(row, "recoverable")?,
        disabled: column(row, "disabled")?,
        create_time: Timestamp::from_micros(column(row, "create_time")?),
        expire_time: time(row, "expire_time")?,
        revoke_time: time(row, "revoke_time")?,
        revoked: column(row, "revoked")?,
        revoke_reason: column(row, "revoke_reason")?,
        replaced_by: column(row, "replaced_by")?,
        revision: column(row, "revision")?,
    };
    Ok(raw.check()?)
}

/// The record and the sealed copy in a row of `key_columns`.
pub(super) fn stored_key(row: &SqliteRow) -> Result<StoredKey> {
    Ok(StoredKey {
        record: key(row)?,
        sealed: column::<Option<Vec<u8>>>(row, "sealed")?.map(Sealed::from_bytes),
    })
}

/// The column `digest`.
pub(super) fn digest(row: &SqliteRow) -> Result<Digest> {
    Ok(raw::digest(column(row, "digest")?)?)
}

/// The record in a row of `token_columns`.
pub(super) fn token(row: &SqliteRow) -> Result<TokenRecord> {
    let raw = RawToken {
        id: column(row, "token_id")?,
        name: column(row, "name")?,
        roles: column(row, "roles")?,
        san: column(row, "san")?,
        create_time: Timestamp::from_micros(column(row, "create_time")?),
        expire_time: time(row, "expire_time")?,
        revoke_time: time(row, "revoke_time")?,
        revoked: column(row, "revoked")?,
        revision: column(row, "revision")?,
    };
    Ok(raw.check()?)
}

/// The last change of a row whose id is in the column `id_column`.
pub(super) fn last_change(row: &SqliteRow, id_column: &str) -> Result<CommittedChange> {
    let id = raw::id(column(row, id_column)?)?;
    let revision = raw::revision(column(row, "revision")?)?;
    raw::last_change(id, revision, column(row, "mark")?)
}
