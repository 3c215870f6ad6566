//! Converts the messages of imports to domain types and back.

use keyward_proto::v1;

use super::convert::{entries, no_secret, page, reason, slot, time, timestamp};
use crate::service::{
    ForeignKey, Given, GivenScheme, ImportKeys, ImportReply, ImportResult, PageQuery,
};
use keyward_core::fence::Receipt;
use keyward_core::key::{
    AccountId, BatchId, FieldError, KeyId, Metadata, Networks, Reason, Scopes, SecretText, shown,
};
use keyward_crypto::DigestScheme;
use keyward_store::import::HeldKey;
use keyward_store::{ImportOutcome, Revoked};

/// The maximum number of keys in one ImportKeys.
const MAX_KEYS: usize = 1_000;

type Checked<T> = Result<T, FieldError>;

pub(super) fn import_keys(request: v1::ImportKeysRequest) -> Checked<ImportKeys> {
    // Converted first, so that every text is wiped.
    let count = request.keys.len();
    let keys: Vec<_> = request.keys.into_iter().map(foreign_key).collect();
    if count > MAX_KEYS {
        let reason = format!("has {count} keys; the maximum is {MAX_KEYS}");
        return Err(FieldError::new("keys", reason));
    }
    Ok(ImportKeys {
        batch: batch_id(&request.batch_id)?,
        keys,
        dry_run: request.dry_run,
    })
}

fn batch_id(text: &str) -> Checked<BatchId> {
    BatchId::parse(text).ok_or_else(|| FieldError::new("batch_id", "is not the UUID of an import"))
}

fn foreign_key(key: v1::ImportKey) -> Checked<ForeignKey> {
    // Wrapped first, so that the text is wiped even if another field is invalid.
    let text = SecretText::new(key.api_key);
    no_secret("account_id", [&key.account_id])?;
    no_secret("name", [&key.name])?;
    no_secret("scopes", &key.scopes)?;
    no_secret("metadata", entries(&key.metadata))?;
    let time = |field, time: Option<_>| time.map(|time| timestamp(field, time)).transpose();
    Ok(ForeignKey {
        account: AccountId::new("account_id", key.account_id)?,
        name: slot(key.name)?,
        given: given(text, &key.digest, &key.digest_scheme)?,
        scopes: Scopes::new("scopes", key.scopes)?,
        metadata: Metadata::new("metadata", key.metadata)?,
        networks: Networks::new("allowed_cidrs", &key.allowed_cidrs)?,
        create_time: time("create_time", key.create_time)?,
        expire_time: time("expire_time", key.expire_time)?,
        recoverable: key.recoverable,
    })
}

fn given(text: SecretText, digest: &[u8], scheme: &str) -> Checked<Given> {
    match (text.expose().is_empty(), digest.is_empty()) {
        (false, true) if scheme.is_empty() => Ok(Given::Text(text)),
        (false, true) => Err(FieldError::new("digest_scheme", "requires the digest")),
        (true, false) => {
            let length = digest.len();
            let wrong = |_| FieldError::new("digest", format!("has {length} bytes instead of 32"));
            Ok(Given::Digest(
                digest_scheme(scheme)?,
                digest.try_into().map_err(wrong)?,
            ))
        }
        _ => {
            let reason = "exactly one of api_key and digest must be set";
            Err(FieldError::new("api_key", reason))
        }
    }
}

fn digest_scheme(text: &str) -> Checked<GivenScheme> {
    let number = text.strip_prefix("hmac-sha256:").map(str::parse);
    match (text, number) {
        ("sha256", _) => Ok(GivenScheme::Named(DigestScheme::Sha256)),
        ("hmac-sha256", _) => Ok(GivenScheme::OnlySecret),
        (_, Some(Ok(number))) => Ok(GivenScheme::Named(DigestScheme::HmacSha256(number))),
        _ => {
            let reason = format!(
                "is '{}'; use sha256, hmac-sha256 or hmac-sha256:N",
                shown(text)
            );
            Err(FieldError::new("digest_scheme", reason))
        }
    }
}

pub(super) fn imported(reply: &ImportReply, dry_run: bool) -> v1::ImportKeysResponse {
    let results: Vec<_> = reply
        .results
        .iter()
        .map(|result| import_result(result, dry_run))
        .collect();
    let count = |outcome: v1::ImportOutcome| {
        let count = results.iter().filter(|result| result.outcome() == outcome);
        u32::try_from(count.count()).unwrap_or(u32::MAX)
    };
    let receipt = reply.receipt.as_ref();
    v1::ImportKeysResponse {
        imported: count(v1::ImportOutcome::Imported),
        already_there: count(v1::ImportOutcome::AlreadyThere),
        duplicates: count(v1::ImportOutcome::Duplicate),
        bad: count(v1::ImportOutcome::Bad),
        results,
        revision: reply.committed.revision,
        confirmed_instances: receipt.map_or(0, |receipt| receipt.confirmed),
        waited_out_instances: receipt.map_or(0, |receipt| receipt.waited_out),
    }
}

fn import_result(result: &ImportResult, dry_run: bool) -> v1::ImportResult {
    let done = |outcome: v1::ImportOutcome, id: KeyId| v1::ImportResult {
        outcome: outcome.into(),
        key_id: id.to_string(),
        ..Default::default()
    };
    let bad = |field: String, description: String| v1::ImportResult {
        outcome: v1::ImportOutcome::Bad.into(),
        field,
        description,
        ..Default::default()
    };
    match result {
        ImportResult::Decided(ImportOutcome::Imported(_)) if dry_run => v1::ImportResult {
            outcome: v1::ImportOutcome::Imported.into(),
            ..Default::default()
        },
        ImportResult::Decided(ImportOutcome::Imported(id)) => {
            done(v1::ImportOutcome::Imported, *id)
        }
        ImportResult::Decided(ImportOutcome::Known(HeldKey { id, same_batch })) => {
            v1::ImportResult {
                same_batch: *same_batch,
                ..done(v1::ImportOutcome::AlreadyThere, *id)
            }
        }
        ImportResult::Decided(ImportOutcome::Duplicate(id)) => {
            done(v1::ImportOutcome::Duplicate, *id)
        }
        ImportResult::Decided(ImportOutcome::SlotTaken(id)) => {
            let reason = format!("the slot has the key {id}; revoke that key, or use another name");
            v1::ImportResult {
                key_id: id.to_string(),
                ..bad("name".to_owned(), reason)
            }
        }
        ImportResult::Bad(error) => bad(error.field.clone().into_owned(), error.reason.clone()),
    }
}

pub(super) fn undo_import(request: v1::UndoImportRequest) -> Checked<(BatchId, Option<Reason>)> {
    let reason = reason(request.reason)?;
    Ok((batch_id(&request.batch_id)?, reason))
}

pub(super) fn export_keys(request: v1::ExportKeysRequest) -> Checked<(bool, PageQuery)> {
    let page = page(request.page_size, request.page_token);
    Ok((request.include_revoked, page))
}

pub(super) fn undone((revoked, receipt): &(Revoked, Receipt)) -> v1::UndoImportResponse {
    v1::UndoImportResponse {
        revoked_count: revoked.count,
        revoke_time: revoked.revoke_time.map(time),
        revision: revoked.committed.revision,
        confirmed_instances: receipt.confirmed,
        waited_out_instances: receipt.waited_out,
    }
}
