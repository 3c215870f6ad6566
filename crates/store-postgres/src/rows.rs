//! Converts rows to records and back. The checks are in `keyward_store::raw`.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::failure::Failure;
use keyward_core::fence::{Mark, RegistrationId};
use keyward_core::key::{KeyId, KeyRecord, Timestamp, TokenRecord};
use keyward_crypto::{Digest, Sealed};
use keyward_store::Expiry;
use keyward_store::raw::{self, RawKey, RawToken};
use keyward_store::{CommittedChange, Result, StoreError, StoredKey};

/// Columns as the text of a query; `$t` is a prefix such as `t.`.
macro_rules! columns {
    ($t:literal, $($column:literal),*; $last:literal) => {
        concat!($($t, $column, ", ",)* $t, $last)
    };
}

/// The columns of a key's record.
macro_rules! key_columns {
    () => {
        $crate::rows::key_columns!("")
    };
    ($t:literal) => {
        $crate::rows::columns!($t, "key_id", "account_id", "name", "hint", "scopes",
            "metadata", "allowed_cidrs", "recoverable", "disabled", "create_time", "expire_time",
            "revoke_time", "revoked", "revoke_reason", "replaced_by", "revision"; "mark")
    };
}

/// The columns of a token's record.
macro_rules! token_columns {
    () => {
        $crate::rows::token_columns!("")
    };
    ($t:literal) => {
        $crate::rows::columns!($t, "token_id", "name", "roles", "san", "create_time", "expire_time",
            "revoke_time", "revoked", "revision"; "mark")
    };
}

pub(super) use {columns, key_columns, token_columns};

pub(super) fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(what.to_string())
}

/// The first row of a statement that reads `log_state`, which has one row.
pub(super) fn first(rows: &[PgRow]) -> Result<&PgRow> {
    rows.first()
        .ok_or_else(|| damaged("log_state or key_changes is empty"))
}

/// A column of a row.
pub(super) fn column<'r, T>(row: &'r PgRow, name: &str) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name)
        .map_err(|error| Failure::from(error).error)
}

/// A column with a revision, or with another number that is never negative.
pub(super) fn revision(row: &PgRow, name: &str) -> Result<u64> {
    Ok(raw::revision(column(row, name)?)?)
}

/// An id as a parameter of a statement.
pub(super) fn uuid(id: KeyId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// A registration as a parameter of a statement.
pub(super) fn registration(id: RegistrationId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// A column with the id of a key or of a token.
pub(super) fn id(row: &PgRow, name: &str) -> Result<KeyId> {
    Ok(KeyId::from_bytes(column::<Uuid>(row, name)?.into_bytes()))
}

/// A column with the mark of a log row.
pub(super) fn mark(row: &PgRow, name: &str) -> Result<Mark> {
    Ok(raw::mark(column(row, name)?)?)
}

/// A time as a parameter of a statement.
pub(super) fn instant(time: Timestamp) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.as_micros()) * 1_000)
        .map_err(|_| damaged("a time is outside the calendar"))
}

/// An expiry as two parameters of a statement: a time, and a time since the creation.
pub(super) fn expiry(expiry: Expiry) -> Result<(Option<OffsetDateTime>, Option<PgInterval>)> {
    Ok(match expiry {
        Expiry::Never => (None, None),
        Expiry::At(end) => (Some(instant(end)?), None),
        Expiry::After(ttl) => (None, Some(interval(ttl))),
    })
}

/// A duration as a parameter of a statement.
pub(super) fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}

fn timestamp(time: OffsetDateTime) -> Result<Timestamp> {
    i64::try_from(time.unix_timestamp_nanos() / 1_000)
        .map(Timestamp::from_micros)
        .map_err(damaged)
}

/// A column with a time.
pub(super) fn time(row: &PgRow, name: &str) -> Result<Timestamp> {
    timestamp(column(row, name)?)
}

/// A column with a time, or without one.
pub(super) fn optional_time(row: &PgRow, name: &str) -> Result<Option<Timestamp>> {
    column::<Option<OffsetDateTime>>(row, name)?
        .map(timestamp)
        .transpose()
}

/// The record in a row of `key_columns`.
pub(super) fn key(row: &PgRow) -> Result<KeyRecord> {
    let Json(scopes): Json<Vec<String>> = column(row, "scopes")?;
    let Json(metadata): Json<BTreeMap<String, String>> = column(row, "metadata")?;
    let Json(networks): Json<Vec<String>> = column(row, "allowed_cidrs")?;
    let replaced_by: Option<Uuid> = column(row, "replaced_by")?;
    let raw = RawKey {
        id: column::<Uuid>(row, "key_id")?.into_bytes().to_vec(),
        account: column(row, "account_id")?,
        name: column(row, "name")?,
        hint: column(row, "hint")?,
        scopes,
        metadata,
        networks,
        recoverable: column(row, "recoverable")?,
        disabled: column(row, "disabled")?,
        create_time: time(row, "create_time")?,
        expire_time: optional_time(row, "expire_time")?,
        revoke_time: optional_time(row, "revoke_time")?,
        revoked: column(row, "revoked")?,
        revoke_reason: column(row, "revoke_reason")?,
        replaced_by: replaced_by.map(|id| id.into_bytes().to_vec()),
        revision: column(row, "revision")?,
    };
    Ok(raw.check()?)
}

/// The record in a row of `key_columns` and the column `sealed`.
pub(super) fn stored_key(row: &PgRow) -> Result<StoredKey> {
    Ok(StoredKey {
        record: key(row)?,
        sealed: column::<Option<Vec<u8>>>(row, "sealed")?.map(Sealed::from_bytes),
    })
}

/// The column `digest`.
pub(super) fn digest(row: &PgRow) -> Result<Digest> {
    Ok(raw::digest(column(row, "digest")?)?)
}

/// Digests as a parameter.
pub(super) fn digests(digests: &[Digest]) -> Vec<Vec<u8>> {
    let bytes = digests.iter().map(|digest| digest.as_bytes().to_vec());
    bytes.collect()
}

/// The record in a row of `token_columns`.
pub(super) fn token(row: &PgRow) -> Result<TokenRecord> {
    let raw = RawToken {
        id: column::<Uuid>(row, "token_id")?.into_bytes().to_vec(),
        name: column(row, "name")?,
        roles: column(row, "roles")?,
        san: column(row, "san")?,
        create_time: time(row, "create_time")?,
        expire_time: optional_time(row, "expire_time")?,
        revoke_time: optional_time(row, "revoke_time")?,
        revoked: column(row, "revoked")?,
        revision: column(row, "revision")?,
    };
    Ok(raw.check()?)
}

/// The last change of a row whose id is in the column `id_column`.
pub(super) fn last_change(row: &PgRow, id_column: &str) -> Result<CommittedChange> {
    let revision = revision(row, "revision")?;
    raw::last_change(id(row, id_column)?, revision, column(row, "mark")?)
}
