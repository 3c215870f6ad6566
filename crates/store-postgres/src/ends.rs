//! Writing the ends of keys: of several at once, with their successors and the lines of the audit, in
//! one statement that is a transaction of its own. So the log's counter is held for no answer.

use std::collections::HashSet;

use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::{bind, insert_lines};
use super::failure::Failure;
use super::links::Lease;
use super::rows;
use keyward_core::key::{KeyId, KeyRecord};
use keyward_store::plan::End;
use keyward_store::{Actor, Result};

/// One key's end, on whose behalf, and how the key stood.
pub(super) struct Written<'e> {
    pub(super) record: &'e KeyRecord,
    pub(super) end: &'e End,
    pub(super) actor: &'e Actor,
}

/// The columns of the ends, one element for each key.
#[derive(Default)]
struct Ends {
    ids: Vec<Uuid>,
    seen: Vec<i64>,
    times: Vec<OffsetDateTime>,
    reasons: Vec<Option<String>>,
    replaced_by: Vec<Option<Uuid>>,
    actors: Vec<String>,
}

/// The columns of the successors, one element for each.
#[derive(Default)]
struct Born {
    predecessors: Vec<Uuid>,
    ids: Vec<Uuid>,
    digests: Vec<Vec<u8>>,
    generations: Vec<i64>,
    hints: Vec<String>,
    sealed: Vec<Option<Vec<u8>>>,
}

/// Writes the ends of those keys that stand as they were seen, locked in the order of their ids;
/// answers which. A key that has changed since is left alone: what its revocation comes to has to be
/// worked out anew.
pub(super) async fn write_ends(
    lease: &mut Lease<'_>,
    written: &[Written<'_>],
) -> std::result::Result<HashSet<KeyId>, Failure> {
    let (mut lines, mut keys) = (Vec::new(), Vec::new());
    for Written { record, end, actor } in written {
        for line in end.audit(record) {
            lines.push((line, (*actor).clone()));
            keys.push(rows::uuid(record.id));
        }
    }
    let (ends, born) = columns(written)?;
    // A replacement is no way to switch a key on again: it takes over `disabled`, too.
    let statement = sqlx::query(concat!(
        "WITH asked AS (
             SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::text[],
                                  $5::uuid[], $6::text[])
                 AS e(key_id, seen, revoke_time, reason, replaced_by, actor)
         ), locked AS MATERIALIZED (
             SELECT k.key_id FROM api_keys AS k
               JOIN asked ON asked.key_id = k.key_id AND asked.seen = k.revision
              ORDER BY k.key_id FOR UPDATE OF k
         ), ended AS (
             UPDATE api_keys AS k
                SET revoke_time = e.revoke_time, revoke_reason = e.reason,
                    replaced_by = e.replaced_by, changed_by = e.actor
               FROM asked AS e JOIN locked USING (key_id)
              WHERE k.key_id = e.key_id
             RETURNING k.*
         ), born AS (
             INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                    metadata, allowed_cidrs, recoverable, sealed, disabled, create_time, expire_time)
             SELECT b.key_id, b.digest, b.generation, ended.account_id, ended.name, b.hint,
                    ended.scopes, ended.metadata, ended.allowed_cidrs, b.sealed IS NOT NULL,
                    b.sealed, ended.disabled, store_time(), ended.expire_time
               FROM unnest($7::uuid[], $8::uuid[], $9::bytea[], $10::bigint[], $11::text[],
                           $12::bytea[])
                 AS b(predecessor, key_id, digest, generation, hint, sealed)
               JOIN ended ON ended.key_id = b.predecessor
         ), lines AS (",
        insert_lines!("$13", "$14", "$15", "$16", "$17", "$18", "$19"),
        ")
         SELECT key_id FROM ended"
    ))
    .bind(ends.ids)
    .bind(ends.seen)
    .bind(ends.times)
    .bind(ends.reasons)
    .bind(ends.replaced_by)
    .bind(ends.actors)
    .bind(born.predecessors)
    .bind(born.ids)
    .bind(born.digests)
    .bind(born.generations)
    .bind(born.hints)
    .bind(born.sealed);
    let done = lease.fetch_all(bind(statement, &lines).bind(keys)).await;
    let mut ended = HashSet::new();
    for row in done.map_err(Failure::of_a_commit)? {
        ended.insert(rows::id(&row, "key_id")?);
    }
    Ok(ended)
}

fn columns(written: &[Written<'_>]) -> Result<(Ends, Born)> {
    let (mut ends, mut born) = (Ends::default(), Born::default());
    for Written { record, end, actor } in written {
        ends.ids.push(rows::uuid(record.id));
        ends.seen.push(rows::bindable(record.revision)?);
        ends.times.push(rows::instant(end.at)?);
        let reason = end.reason.as_ref().map(|reason| reason.as_str().to_owned());
        ends.reasons.push(reason);
        ends.replaced_by
            .push(end.replaced_by(record).map(rows::uuid));
        ends.actors.push(actor.name.clone());
        if let Some(successor) = &end.successor {
            born.predecessors.push(rows::uuid(record.id));
            born.ids.push(rows::uuid(successor.id));
            born.digests.push(successor.digest.as_bytes().to_vec());
            born.generations.push(i64::from(successor.generation));
            born.hints.push(successor.hint.0.clone());
            let sealed = successor.sealed.as_ref();
            born.sealed
                .push(sealed.map(|sealed| sealed.as_bytes().to_vec()));
        }
    }
    Ok((ends, born))
}
