//! Rows to records and back.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::failure::failed;
use keyward_core::fence::{Mark, RegistrationId};
use keyward_core::key::{
    AccountId, FieldError, Hint, KeyId, KeyRecord, Metadata, Networks, Reason, Roles, Scopes,
    SlotName, Timestamp, TokenRecord,
};
use keyward_crypto::{Digest, Sealed};
use keyward_store::{CommittedChange, Result, StoreError, StoredKey};

/// The columns of a key's record, in a query's text; each with the table's name, if that is given.
macro_rules! key_columns {
    () => {
        $crate::rows::key_columns!("")
    };
    ($t:literal) => {
        concat!(
            $t,
            "key_id, ",
            $t,
            "account_id, ",
            $t,
            "name, ",
            $t,
            "hint, ",
            $t,
            "scopes, ",
            $t,
            "metadata, ",
            $t,
            "allowed_cidrs, ",
            $t,
            "recoverable, ",
            $t,
            "disabled, ",
            $t,
            "create_time, ",
            $t,
            "expire_time, ",
            $t,
            "revoke_time, ",
            $t,
            "revoke_reason, ",
            $t,
            "replaced_by, ",
            $t,
            "revision, ",
            $t,
            "mark"
        )
    };
}

/// The columns of a token's record, in a query's text.
macro_rules! token_columns {
    () => {
        "token_id, name, roles, create_time, revoke_time, revision, mark"
    };
}

pub(super) use {key_columns, token_columns};

pub(super) fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(what.to_string())
}

/// A column of a row.
pub(super) fn column<'r, T>(row: &'r PgRow, name: &str) -> Result<T>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name).map_err(|error| failed(error).error)
}

/// A revision, or another number that is never negative, as it stands in a row.
pub(super) fn revision(row: &PgRow, name: &str) -> Result<u64> {
    u64::try_from(column::<i64>(row, name)?).map_err(|_| damaged(format!("a negative {name}")))
}

/// A revision as a statement takes it.
pub(super) fn bindable(revision: u64) -> Result<i64> {
    i64::try_from(revision).map_err(|_| damaged("a revision over 2^63"))
}

/// An id as a statement takes it.
pub(super) fn uuid(id: KeyId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// A boot id as a statement takes it.
pub(super) fn boot(id: RegistrationId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(super) fn id(row: &PgRow, name: &str) -> Result<KeyId> {
    Ok(KeyId::from_bytes(column::<Uuid>(row, name)?.into_bytes()))
}

/// A time as a statement takes it.
pub(super) fn instant(time: Timestamp) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.as_micros()) * 1_000)
        .map_err(|_| damaged("a time that no calendar holds"))
}

fn timestamp(time: OffsetDateTime) -> Result<Timestamp> {
    i64::try_from(time.unix_timestamp_nanos() / 1_000)
        .map(Timestamp::from_micros)
        .map_err(damaged)
}

pub(super) fn time(row: &PgRow, name: &str) -> Result<Timestamp> {
    timestamp(column(row, name)?)
}

fn end(row: &PgRow, name: &str) -> Result<Option<Timestamp>> {
    column::<Option<OffsetDateTime>>(row, name)?
        .map(timestamp)
        .transpose()
}

/// The record in a row of `key_columns`.
pub(super) fn key(row: &PgRow) -> Result<KeyRecord> {
    let broken = |error: FieldError| damaged(error);
    let Json(scopes): Json<Vec<String>> = column(row, "scopes")?;
    let Json(metadata): Json<BTreeMap<String, String>> = column(row, "metadata")?;
    let Json(networks): Json<Vec<String>> = column(row, "allowed_cidrs")?;
    Ok(KeyRecord {
        id: id(row, "key_id")?,
        account: AccountId::new("account_id", column(row, "account_id")?).map_err(broken)?,
        name: SlotName::new("name", column(row, "name")?).map_err(broken)?,
        hint: Hint(column(row, "hint")?),
        scopes: Scopes::new("scopes", scopes).map_err(broken)?,
        metadata: Metadata::new("metadata", metadata).map_err(broken)?,
        networks: Networks::new("allowed_cidrs", &networks).map_err(broken)?,
        recoverable: column(row, "recoverable")?,
        disabled: column(row, "disabled")?,
        create_time: time(row, "create_time")?,
        expire_time: end(row, "expire_time")?,
        revoke_time: end(row, "revoke_time")?,
        revoke_reason: column::<Option<String>>(row, "revoke_reason")?
            .map(|reason| Reason::new("reason", reason).map_err(broken))
            .transpose()?,
        replaced_by: column::<Option<Uuid>>(row, "replaced_by")?
            .map(|id| KeyId::from_bytes(id.into_bytes())),
        revision: revision(row, "revision")?,
    })
}

/// The record in a row of `key_columns`, and the sealed copy beside it.
pub(super) fn secrets(row: &PgRow) -> Result<StoredKey> {
    let sealed = column::<Option<Vec<u8>>>(row, "sealed")?.map(Sealed::from_bytes);
    Ok(StoredKey {
        record: key(row)?,
        sealed,
    })
}

/// The column `digest`.
pub(super) fn digest(row: &PgRow) -> Result<Digest> {
    column::<&[u8]>(row, "digest")?
        .try_into()
        .map(Digest::from_bytes)
        .map_err(|_| damaged("a digest that is not 32 bytes"))
}

/// The record in a row of `token_columns`.
pub(super) fn token(row: &PgRow) -> Result<TokenRecord> {
    Ok(TokenRecord {
        id: id(row, "token_id")?,
        name: SlotName::new("name", column(row, "name")?).map_err(damaged)?,
        roles: Roles::parse(column(row, "roles")?).ok_or_else(|| damaged("an unknown role"))?,
        create_time: time(row, "create_time")?,
        revoke_time: end(row, "revoke_time")?,
        revision: revision(row, "revision")?,
    })
}

/// The last change of a row, whose id stands in the column `id_column`.
pub(super) fn committed(row: &PgRow, id_column: &str) -> Result<CommittedChange> {
    let revision = revision(row, "revision")?;
    if revision == 0 {
        return Ok(CommittedChange::NOTHING);
    }
    Ok(CommittedChange {
        revision,
        mark: Some(mark(column(row, "mark")?)?),
        id: Some(id(row, id_column)?),
    })
}

pub(super) fn mark(bytes: &[u8]) -> Result<Mark> {
    bytes
        .try_into()
        .map_err(|_| damaged("a mark that is not 8 bytes"))
}
