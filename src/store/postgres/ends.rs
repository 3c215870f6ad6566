//! Writing the ends of keys: of several at once, with their successors and the lines of the audit,
//! in one statement, after which the log's counter is held until the commit.

use time::OffsetDateTime;
use uuid::Uuid;

use super::audit::audit;
use super::failure::Failure;
use super::links::Lease;
use super::rows;
use crate::key::KeyRecord;
use crate::store::plan::End;
use crate::store::{Actor, Result};

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

/// Writes the ends of keys that this transaction has locked.
pub(super) async fn write_ends(
    lease: &mut Lease<'_>,
    written: &[Written<'_>],
) -> std::result::Result<(), Failure> {
    let mut lines = Vec::new();
    for Written { record, end, actor } in written {
        let of_key = end.audit(record).into_iter();
        lines.extend(of_key.map(|line| (line, (*actor).clone())));
    }
    // The lines first: they wait for nobody, and from the change on others wait for us.
    audit(lease, &lines).await?;
    let (ends, born) = columns(written)?;
    // A replacement is no way to switch a key on again: it takes over `disabled`, too.
    let statement = sqlx::query(
        "WITH ended AS (
             UPDATE api_keys AS k
                SET revoke_time = e.revoke_time, revoke_reason = e.reason,
                    replaced_by = e.replaced_by, changed_by = e.actor
               FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::text[])
                 AS e(key_id, revoke_time, reason, replaced_by, actor)
              WHERE k.key_id = e.key_id
             RETURNING k.*
         )
         INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes, metadata,
                allowed_cidrs, recoverable, sealed, disabled, create_time, expire_time)
         SELECT b.key_id, b.digest, b.generation, ended.account_id, ended.name, b.hint,
                ended.scopes, ended.metadata, ended.allowed_cidrs, b.sealed IS NOT NULL, b.sealed,
                ended.disabled, store_time(), ended.expire_time
           FROM unnest($6::uuid[], $7::uuid[], $8::bytea[], $9::bigint[], $10::text[], $11::bytea[])
             AS b(predecessor, key_id, digest, generation, hint, sealed)
           JOIN ended ON ended.key_id = b.predecessor",
    )
    .bind(ends.ids)
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
    lease.execute(statement).await.map(drop)
}

fn columns(written: &[Written<'_>]) -> Result<(Ends, Born)> {
    let (mut ends, mut born) = (Ends::default(), Born::default());
    for Written { record, end, actor } in written {
        ends.ids.push(rows::uuid(record.id));
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
