//! Writes several revocations at once, with their successors and audit entries, in one statement
//! that is its own transaction. So no round trip happens while the log's counter is locked.

use std::collections::HashSet;

use sqlx::postgres::types::PgInterval;
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{bind, bind_origins, insert_entries};
use super::failure::Failure;
use super::pool::Lease;
use super::rows;
use keyward_core::key::{KeyId, KeyRecord};
use keyward_store::plan::PlannedRevocation;
use keyward_store::{Actor, Result, raw};

/// A revocation to write, and the record that it was planned for.
pub(super) struct Write<'w> {
    pub(super) record: &'w KeyRecord,
    pub(super) planned: &'w PlannedRevocation,
    pub(super) actor: &'w Actor,
}

/// The columns of the revocations, one element for each key.
#[derive(Default)]
struct Revocations {
    ids: Vec<Uuid>,
    revisions: Vec<i64>,
    revoke_times: Vec<OffsetDateTime>,
    revoked: Vec<bool>,
    reasons: Vec<Option<String>>,
    replaced_by: Vec<Option<Uuid>>,
    actors: Vec<String>,
}

/// The columns of the successors, one element for each.
#[derive(Default)]
struct Successors {
    predecessors: Vec<Uuid>,
    ids: Vec<Uuid>,
    digests: Vec<Vec<u8>>,
    generations: Vec<i64>,
    hints: Vec<String>,
    sealed: Vec<Option<Vec<u8>>>,
    lifetimes: Vec<Option<PgInterval>>,
}

/// Revokes the keys that still have the revision of their record and are not locked, and returns the
/// ids of these keys. Locks the keys in the order of their ids, which avoids deadlocks.
pub(super) async fn write_revocations(
    lease: &mut Lease<'_>,
    writes: &[Write<'_>],
) -> Result<HashSet<KeyId>, Failure> {
    let (mut entries, mut keys) = (Vec::new(), Vec::new());
    for write in writes {
        for entry in write.planned.audit(write.record) {
            entries.push((entry, write.actor.clone()));
            keys.push(rows::uuid(write.record.id));
        }
    }
    let (revocations, successors) = columns(writes)?;
    // A successor inherits `disabled`: a replacement must not switch a key on again.
    let statement = sqlx::query(concat!(
        "WITH planned AS (
             SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $20::boolean[],
                                  $4::text[], $5::uuid[], $6::text[])
                 AS p(key_id, revision, revoke_time, revoked, reason, replaced_by, actor)
         ), locked AS MATERIALIZED (
             SELECT planned.* FROM api_keys AS k
               JOIN planned USING (key_id, revision)
              ORDER BY k.key_id FOR UPDATE OF k SKIP LOCKED
         ), revoked AS (
             UPDATE api_keys AS k
                SET revoke_time = p.revoke_time, revoked = p.revoked, revoke_reason = p.reason,
                    replaced_by = p.replaced_by, changed_by = p.actor
               FROM locked AS p WHERE k.key_id = p.key_id
             RETURNING k.*
         ), successors AS (
             INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                    metadata, allowed_cidrs, recoverable, sealed, disabled, create_time, expire_time)
             SELECT s.key_id, s.digest, s.generation, revoked.account_id, revoked.name, s.hint,
                    revoked.scopes, revoked.metadata, revoked.allowed_cidrs, s.sealed IS NOT NULL,
                    s.sealed, revoked.disabled, now,
                    CASE WHEN s.lifetime IS NULL THEN revoked.expire_time ELSE now + s.lifetime END
               FROM (SELECT store_time() AS now) AS clock,
                    unnest($7::uuid[], $8::uuid[], $9::bytea[], $10::bigint[], $11::text[],
                           $12::bytea[], $21::interval[])
                 AS s(predecessor, key_id, digest, generation, hint, sealed, lifetime)
               JOIN revoked ON revoked.key_id = s.predecessor
         ), entries AS (",
        insert_entries!(
            "$13", "$14", "$15", "$16", "$17", "$18"; "$22", "$23", "$24"; "$19"
        ),
        ")
         SELECT key_id FROM revoked"
    ))
    .bind(revocations.ids)
    .bind(revocations.revisions)
    .bind(revocations.revoke_times)
    .bind(revocations.reasons)
    .bind(revocations.replaced_by)
    .bind(revocations.actors)
    .bind(successors.predecessors)
    .bind(successors.ids)
    .bind(successors.digests)
    .bind(successors.generations)
    .bind(successors.hints)
    .bind(successors.sealed);
    let statement = bind(statement, &entries).bind(keys);
    let statement = statement
        .bind(revocations.revoked)
        .bind(successors.lifetimes);
    let statement = bind_origins(statement, &entries);
    let written = lease.fetch_all(statement).await;
    let mut revoked = HashSet::new();
    for row in written.map_err(Failure::of_a_commit)? {
        revoked.insert(rows::id(&row, "key_id")?);
    }
    Ok(revoked)
}

fn columns(writes: &[Write<'_>]) -> Result<(Revocations, Successors)> {
    let (mut revocations, mut successors) = (Revocations::default(), Successors::default());
    for write in writes {
        let (record, planned) = (write.record, write.planned);
        let reason = planned.reason.as_ref();
        let replaced_by = planned.replaced_by(record);
        revocations.ids.push(rows::uuid(record.id));
        revocations.revisions.push(raw::parameter(record.revision)?);
        revocations
            .revoke_times
            .push(rows::instant(planned.revoke_time)?);
        revocations.revoked.push(planned.revoked);
        revocations
            .reasons
            .push(reason.map(|reason| reason.as_str().to_owned()));
        revocations.replaced_by.push(replaced_by.map(rows::uuid));
        revocations.actors.push(write.actor.name.clone());
        if let Some(successor) = &planned.successor {
            let sealed = successor.sealed.as_ref();
            successors.predecessors.push(rows::uuid(record.id));
            successors.ids.push(rows::uuid(successor.id));
            successors
                .digests
                .push(successor.digest.as_bytes().to_vec());
            successors.generations.push(i64::from(successor.generation));
            successors.hints.push(successor.hint.0.clone());
            successors
                .sealed
                .push(sealed.map(|sealed| sealed.as_bytes().to_vec()));
            successors
                .lifetimes
                .push(successor.lifetime.map(rows::interval));
        }
    }
    Ok((revocations, successors))
}
