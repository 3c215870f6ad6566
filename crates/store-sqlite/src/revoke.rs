//! Revocations on SQLite: of one key, with or without a successor, and of all keys of an account.
//! Each is one transaction; the triggers log every row and wipe the sealed copies.

use super::audit::audit;
use super::keys::{by_id, id_query, insert, row_vanished};
use super::rows;
use super::{WriteTransaction, store_error};
use keyward_core::key::{AccountId, KeyId, KeyRecord, Reason, Timestamp};
use keyward_store::plan::PlannedRevocation;
use keyward_store::{
    Actor, AuditAction, AuditEntry, CommittedChange, Expiry, NewKey, Result, RevokeAnswer, Revoked,
    Successor, raw,
};

/// Revokes a key, at `revoke_time` or at once. The trigger logs the change and wipes the sealed copy.
pub(super) async fn set_revoke_time(
    tx: &mut WriteTransaction,
    record: &KeyRecord,
    (revoke_time, revoked): (Timestamp, bool),
    successor: Option<KeyId>,
    reason: Option<&Reason>,
    actor: &Actor,
) -> Result<()> {
    let reason = record.revoke_reason.as_ref().or(reason);
    let successor = record.replaced_by.or(successor);
    tx.execute(
        sqlx::query(
            "UPDATE api_keys SET revoke_time = ?, revoked = ?, revoke_reason = ?, replaced_by = ?,
                changed_by = ? WHERE key_id = ?",
        )
        .bind(revoke_time.as_micros())
        .bind(revoked)
        .bind(reason.map(|reason| reason.as_str().to_owned()))
        .bind(successor.map(rows::id))
        .bind(actor.name.clone())
        .bind(rows::id(record.id)),
    )
    .await
    .map(drop)
}

/// Revokes one key as planned, or changes nothing, and returns the current state.
pub(super) async fn revoke_one(
    mut tx: WriteTransaction,
    record: KeyRecord,
    planned: Option<PlannedRevocation>,
    actor: &Actor,
) -> Result<RevokeAnswer> {
    if let Some(planned) = &planned {
        let (next, reason) = (planned.replaced_by(&record), planned.reason.as_ref());
        let end = (planned.revoke_time, planned.revoked);
        set_revoke_time(&mut tx, &record, end, next, reason, actor).await?;
        if let Some(successor) = &planned.successor {
            // The successor inherits `disabled`: a replacement must not switch a key on again.
            insert(&mut tx, &new_key(&record, successor), record.disabled).await?;
        }
        for entry in planned.audit(&record) {
            audit(&mut tx, &entry, actor).await?;
        }
    }
    let row = tx
        .fetch_optional(id_query(record.id))
        .await?
        .ok_or_else(row_vanished)?;
    let record = rows::key(&row)?;
    let committed = rows::last_change(&row, "key_id")?;
    let digests = vec![rows::digest(&row)?];
    let successor = match record.replaced_by {
        Some(id) => by_id(&mut tx, id).await?,
        None => None,
    };
    if planned.is_some() {
        tx.commit().await?
    } else {
        tx.rollback().await?
    }
    Ok(RevokeAnswer::Done(Box::new(Revoked {
        revoke_time: record.revoke_time,
        keys: vec![record],
        digests,
        count: 1,
        successor,
        created: planned.is_some_and(|planned| planned.successor.is_some()),
        committed,
    })))
}

/// The row of a successor.
fn new_key(predecessor: &KeyRecord, successor: &Successor) -> NewKey {
    NewKey {
        id: successor.id,
        digest: successor.digest,
        generation: successor.generation,
        hint: successor.hint.clone(),
        sealed: successor.sealed.clone(),
        account: predecessor.account.clone(),
        name: predecessor.name.clone(),
        scopes: predecessor.scopes.clone(),
        metadata: predecessor.metadata.clone(),
        networks: predecessor.networks.clone(),
        expiry: predecessor.expire_time.map_or(Expiry::Never, Expiry::At),
    }
}

/// Revokes all keys of an account that are not revoked yet.
pub(super) async fn revoke_account(
    mut tx: WriteTransaction,
    account: &AccountId,
    reason: Option<&Reason>,
    actor: &Actor,
) -> Result<RevokeAnswer> {
    let mut ids: Vec<Vec<u8>> = sqlx::query_scalar(
        "UPDATE api_keys SET revoke_time = min(coalesce(revoke_time, ?1), ?1), revoked = 1,
                revoke_reason = coalesce(revoke_reason, ?2), changed_by = ?3
          WHERE account_id = ?4 AND revoked = 0
         RETURNING key_id",
    )
    .bind(tx.now.as_micros())
    .bind(reason.map(|reason| reason.as_str().to_owned()))
    .bind(actor.name.clone())
    .bind(account.as_str().to_owned())
    .fetch_all(tx.connection()?)
    .await
    .map_err(store_error)?;
    ids.sort_unstable();
    let (mut keys, mut digests) = (Vec::new(), Vec::new());
    for bytes in ids.iter().take(Revoked::LISTED) {
        let row = tx.fetch_optional(id_query(raw::id(bytes)?)).await?;
        let row = row.ok_or_else(row_vanished)?;
        keys.push(rows::key(&row)?);
        digests.push(rows::digest(&row)?);
    }
    let latest = tx.fetch_optional(sqlx::query(
        "SELECT key_id, revision, mark FROM api_keys WHERE account_id = ? ORDER BY revision DESC LIMIT 1",
    )
    .bind(account.as_str().to_owned())
    ).await?;
    let committed = match &latest {
        Some(row) => rows::last_change(row, "key_id")?,
        None => CommittedChange::NOTHING,
    };
    if ids.is_empty() {
        tx.rollback().await?;
    } else {
        let entry = AuditEntry {
            action: AuditAction::Revoke,
            id: None,
            account: Some(account.clone()),
            detail: Some(format!("keys={}", ids.len())),
        };
        audit(&mut tx, &entry, actor).await?;
        tx.commit().await?;
    }
    Ok(RevokeAnswer::Done(Box::new(Revoked {
        revoke_time: keys.iter().filter_map(|key| key.revoke_time).max(),
        keys,
        digests,
        count: u64::try_from(ids.len()).unwrap_or(u64::MAX),
        successor: None,
        created: false,
        committed,
    })))
}
