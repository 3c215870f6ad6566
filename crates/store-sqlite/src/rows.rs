//! Columns of rows, and parameters of statements. The records are made in `keyward_store::rows`.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::store_error;
use keyward_core::key::{KeyId, Timestamp};
use keyward_store::rows::{Column, FromRow, Row};
use keyward_store::{Result, StoreError};

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

/// A list or a map as the value of a column.
pub(super) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// An id as a parameter of a statement.
pub(super) fn id(id: KeyId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// What the row holds.
pub(super) fn read<T: FromRow>(row: &SqliteRow) -> Result<T> {
    T::from_row(&Columns(row))
}

/// The columns of a row.
pub(super) struct Columns<'r>(pub(super) &'r SqliteRow);

impl<'r, T> Column<T> for Columns<'r>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    fn column(&self, name: &str) -> Result<T> {
        column(self.0, name)
    }
}

impl Row for Columns<'_> {
    fn id_bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        column(self.0, name)
    }

    fn optional_time(&self, name: &str) -> Result<Option<Timestamp>> {
        let micros: Option<i64> = column(self.0, name)?;
        Ok(micros.map(Timestamp::from_micros))
    }

    fn json<T: DeserializeOwned + 'static>(&self, name: &str) -> Result<T> {
        serde_json::from_str(column(self.0, name)?)
            .map_err(|_| StoreError::Damaged(format!("the column {name} is not the expected JSON")))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        self.json(name)
    }
}
