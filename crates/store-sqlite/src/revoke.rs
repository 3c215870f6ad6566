//! Revocations of single keys on SQLite, with or without a successor. Each is one transaction; the
//! triggers log every row and wipe the sealed copies.

use super::WriteTransaction;
use super::audit::audit;
use super::keys::{by_id, id_query, insert, row_vanished};
use super::rows;
use keyward_core::key::{KeyId, KeyRecord, Reason, Timestamp};
use keyward_store::plan::PlannedRevocation;
use keyward_store::{Actor, Result, RevokeAnswer, Revoked, Updated};

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
            insert(&mut tx, &successor.clone().key(&record), record.disabled).await?;
        }
        for entry in planned.audit(&record) {
            audit(&mut tx, &entry, actor).await?;
        }
    }
    let row = tx
        .fetch_optional(id_query(record.id))
        .await?
        .ok_or_else(row_vanished)?;
    let revoked: Updated = rows::read(&row)?;
    let successor = match revoked.record.replaced_by {
        Some(id) => by_id(&mut tx, id).await?,
        None => None,
    };
    if planned.is_some() {
        tx.commit().await?
    } else {
        tx.rollback().await?
    }
    let created = planned.is_some_and(|planned| planned.successor.is_some());
    Ok(Revoked::one(revoked, successor, created))
}
