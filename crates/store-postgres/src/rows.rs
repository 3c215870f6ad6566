//! Columns of rows, and parameters of statements. The records are made in `keyward_store::rows`.

use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::failure::Failure;
use keyward_core::fence::{Mark, RegistrationId};
use keyward_core::key::{KeyId, Timestamp};
use keyward_crypto::Digest;
use keyward_store::rows::{Column, FromRow, Row};
use keyward_store::{CommittedChange, Expiry, Result, StoreError, raw};

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
    Columns(row).revision(name)
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
    Columns(row).id(name)
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
        microseconds: raw::micros(duration),
    }
}

/// A column with a time.
pub(super) fn time(row: &PgRow, name: &str) -> Result<Timestamp> {
    Columns(row).time(name)
}

/// Digests as a parameter.
pub(super) fn digests(digests: &[Digest]) -> Vec<Vec<u8>> {
    let bytes = digests.iter().map(|digest| digest.as_bytes().to_vec());
    bytes.collect()
}

/// What the row holds.
pub(super) fn read<T: FromRow>(row: &PgRow) -> Result<T> {
    T::from_row(&Columns(row))
}

/// The last change of a row whose id is in the column `id`.
pub(super) fn last_change(row: &PgRow, id: &str) -> Result<CommittedChange> {
    Columns(row).last_change(id)
}

/// The columns of a row.
pub(super) struct Columns<'r>(pub(super) &'r PgRow);

impl<'r, T> Column<T> for Columns<'r>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    fn column(&self, name: &str) -> Result<T> {
        column(self.0, name)
    }
}

impl Row for Columns<'_> {
    fn id_bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let id: Option<Uuid> = column(self.0, name)?;
        Ok(id.map(|id| id.into_bytes().to_vec()))
    }

    fn optional_time(&self, name: &str) -> Result<Option<Timestamp>> {
        let time: Option<OffsetDateTime> = column(self.0, name)?;
        let micros = |time: OffsetDateTime| i64::try_from(time.unix_timestamp_nanos() / 1_000);
        let micros = time.map(micros).transpose().map_err(damaged)?;
        Ok(micros.map(Timestamp::from_micros))
    }

    fn json<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<T> {
        column(self.0, name).map(|Json(value)| value)
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        column(self.0, name)
    }
}
