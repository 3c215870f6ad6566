//! RevocationPlan keys on SQLite: one key with or without a successor, or an account's at once. One
//! transaction each; the triggers log every row and wipe the sealed copies.

use super::audit::audit;
use super::keys::{by_id, fetch, id_query, insert, vanished};
use super::rows;
use super::{WriteTx, store_error};
use keyward_core::key::{AccountId, KeyId, KeyRecord, Reason, Timestamp};
use keyward_store::plan::End;
use keyward_store::{
    Actor, AuditAction, AuditEntry, CommittedChange, Expiry, NewKey, Result, RevokeAnswer, Revoked,
    Successor,
};

/// Sets the revoke time of a key; the trigger logs it and wipes the sealed copy.
pub(super) async fn end(
    tx: &mut WriteTx,
    record: &KeyRecord,
    at: Timestamp,
    successor: Option<KeyId>,
    reason: Option<&Reason>,
    actor: &Actor,
) -> Result<()> {
    let reason = record.revoke_reason.as_ref().or(reason);
    let successor = record.replaced_by.or(successor);
    sqlx::query(
        "UPDATE api_keys SET revoke_time = ?, revoke_reason = ?, replaced_by = ?, changed_by = ?
          WHERE key_id = ?",
    )
    .bind(at.as_micros())
    .bind(reason.map(|reason| reason.as_str().to_owned()))
    .bind(successor.map(|id| id.as_bytes().to_vec()))
    .bind(actor.name.clone())
    .bind(record.id.as_bytes().to_vec())
    .execute(tx.on()?)
    .await
    .map(drop)
    .map_err(store_error)
}

/// Gives the key its end, if it gets one, and answers how it stands.
pub(super) async fn revoke_one(
    mut tx: WriteTx,
    record: KeyRecord,
    ends: Option<End>,
    actor: &Actor,
) -> Result<RevokeAnswer> {
    if let Some(ending) = &ends {
        let (next, reason) = (ending.replaced_by(&record), ending.reason.as_ref());
        end(&mut tx, &record, ending.at, next, reason, actor).await?;
        if let Some(successor) = &ending.successor {
            // A replacement is no way to switch a key on again: it takes over `disabled`, too.
            insert(&mut tx, &succession(&record, successor), record.disabled).await?;
        }
        for line in ending.audit(&record) {
            audit(&mut tx, &line, actor).await?;
        }
    }
    let row = fetch(&mut tx, id_query(record.id))
        .await?
        .ok_or_else(vanished)?;
    let (record, committed) = (rows::key(&row)?, rows::committed(&row)?);
    let digests = vec![rows::digest(&row)?];
    let successor = match record.replaced_by {
        Some(id) => by_id(&mut tx, id).await?,
        None => None,
    };
    if ends.is_some() {
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
        created: ends.is_some_and(|end| end.successor.is_some()),
        committed,
    })))
}

/// The successor's row: all that is not its own it takes from its predecessor.
fn succession(record: &KeyRecord, successor: &Successor) -> NewKey {
    NewKey {
        id: successor.id,
        digest: successor.digest,
        generation: successor.generation,
        hint: successor.hint.clone(),
        sealed: successor.sealed.clone(),
        account: record.account.clone(),
        name: record.name.clone(),
        scopes: record.scopes.clone(),
        metadata: record.metadata.clone(),
        networks: record.networks.clone(),
        expiry: record.expire_time.map_or(Expiry::Never, Expiry::At),
    }
}

pub(super) async fn revoke_account(
    mut tx: WriteTx,
    account: &AccountId,
    reason: Option<&Reason>,
    actor: &Actor,
) -> Result<RevokeAnswer> {
    let now = tx.now.as_micros();
    let mut ids: Vec<Vec<u8>> = sqlx::query_scalar(
        "UPDATE api_keys SET revoke_time = ?1, revoke_reason = coalesce(revoke_reason, ?2),
                changed_by = ?3
          WHERE account_id = ?4 AND (revoke_time IS NULL OR revoke_time > ?1)
         RETURNING key_id",
    )
    .bind(now)
    .bind(reason.map(|reason| reason.as_str().to_owned()))
    .bind(actor.name.clone())
    .bind(account.as_str().to_owned())
    .fetch_all(tx.on()?)
    .await
    .map_err(store_error)?;
    ids.sort_unstable();
    let (mut keys, mut digests) = (Vec::new(), Vec::new());
    for bytes in ids.iter().take(Revoked::LISTED) {
        let row = fetch(&mut tx, id_query(rows::id(bytes)?)).await?;
        let row = row.ok_or_else(vanished)?;
        keys.push(rows::key(&row)?);
        digests.push(rows::digest(&row)?);
    }
    let last = sqlx::query(
        "SELECT key_id, revision, mark FROM api_keys WHERE account_id = ? ORDER BY revision DESC LIMIT 1",
    )
    .bind(account.as_str().to_owned())
    .fetch_optional(tx.on()?)
    .await
    .map_err(store_error)?;
    let committed = match &last {
        Some(row) => rows::committed(row)?,
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
        revoke_time: keys.first().and_then(|key| key.revoke_time),
        keys,
        digests,
        count: u64::try_from(ids.len()).unwrap_or(u64::MAX),
        successor: None,
        created: false,
        committed,
    })))
}
