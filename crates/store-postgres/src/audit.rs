//! The audit on Postgres: each entry is a row in the transaction of the change that it records.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::failure::Failure;
use super::pool::{Lease, Statement};
use super::{PostgresStore, rows};
use keyward_core::key::KeyId;
use keyward_store::audit::{AuditParameter, COLUMNS, TrimState};
use keyward_store::{
    Actor, Audit, AuditEntry, AuditEvent, AuditPage, AuditPart, AuditQuery, AuditSeal, Origin,
    Result, Sealing, Trimming, raw,
};

/// The text of a statement that writes entries; the arguments name its six parameters and those of their
/// origins. A last parameter holds a key id for each entry: the entry is written only if that key is in
/// `revoked`.
macro_rules! insert_entries {
    ($a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal; $x:literal, $y:literal,
     $z:literal) => {
        insert_entries!(@ $a, $b, $c, $d, $e, $f, $x, $y, $z, "", "", "")
    };
    ($a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal; $x:literal, $y:literal,
     $z:literal; $g:literal) => {
        insert_entries!(@ $a, $b, $c, $d, $e, $f, $x, $y, $z, concat!(", ", $g, "::uuid[]"), ", key",
                      " WHERE key IN (SELECT key_id FROM revoked)")
    };
    (@ $a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $x:literal, $y:literal,
     $z:literal, $g:expr, $key:expr, $filter:expr) => {
        concat!(
            "INSERT INTO audit (actor_id, actor, action, subject_id, account_id, detail, peer, client,
                    request_id)
             SELECT actor_id, actor, action, subject_id, account_id, detail, peer, client, request_id
               FROM unnest(",
            $a, "::uuid[], ", $b, "::text[], ", $c, "::text[], ", $d, "::uuid[], ", $e,
            "::text[], ", $f, "::text[], ", $x, "::text[], ", $y, "::text[], ", $z, "::text[]", $g,
            ") WITH ORDINALITY
                 AS entry(actor_id, actor, action, subject_id, account_id, detail, peer, client,
                          request_id", $key, ", position)",
            $filter,
            " ORDER BY position"
        )
    };
}

pub(super) use insert_entries;

#[async_trait]
impl Audit for PostgresStore {
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()> {
        let mut lease = self.inserters.begin().await?;
        audit(&mut lease, &[(entry, actor.clone())]).await?;
        Ok(lease.commit().await?)
    }

    async fn list_events(&self, query: &AuditQuery) -> Result<AuditPage> {
        let (text, parameters) = query.statement();
        let mut statement = sqlx::query(AssertSqlSafe(text));
        for parameter in parameters {
            statement = match parameter {
                AuditParameter::Text(text) => statement.bind(text),
                AuditParameter::Id(id) => statement.bind(rows::uuid(id)),
                AuditParameter::Time(time) => statement.bind(rows::instant(time)?),
                AuditParameter::Number(number) => statement.bind(number),
            };
        }
        let found = self.readers.fetch_all(statement).await?;
        let read = |row| Ok((rows::read(row)?, rows::column(row, "matches")?));
        let found: Result<Vec<_>> = found.iter().map(read).collect();
        Ok(query.page(found?))
    }

    async fn seal_events(&self, sealing: &Sealing) -> Result<Option<(AuditSeal, usize)>> {
        Ok(self.try_seal(sealing).await?)
    }

    async fn audit_part(&self, known: i64, limit: usize) -> Result<AuditPart> {
        Ok(self.read_part(known, raw::limit(limit)).await?)
    }

    async fn trim_events(&self, trimming: &Trimming) -> Result<u64> {
        let first = sqlx::query(AssertSqlSafe(format!(
            "SELECT * FROM audit_seals WHERE {}",
            Trimming::FIRST.replace("$1", "(SELECT store_time() - $1)")
        )));
        let first = first
            .bind(rows::interval(trimming.kept))
            .bind(Trimming::STEP);
        let first = self.readers.fetch_optional(first).await?;
        let first = first.as_ref().map(rows::read).transpose()?;
        let Some((first, proof)) = trimming.proven(first) else {
            return Ok(0);
        };
        let trim = sqlx::query("SELECT trim_audit($1, $2, $3) AS trimmed")
            .bind(first.number)
            .bind(proof)
            .bind(Actor::service().name);
        let mut lease = self.writers.lease().await?;
        let row = lease.fetch_one(trim).await.map_err(Failure::of_a_commit)?;
        lease.done();
        rows::revision(&row, "trimmed")
    }
}

impl PostgresStore {
    /// The transaction changes only events that no other call changes, so its locks delay none.
    async fn try_seal(&self, sealing: &Sealing) -> Result<Option<(AuditSeal, usize)>, Failure> {
        let mut lease = self.writers.begin().await?;
        let lock = sqlx::query(
            "SELECT pg_try_advisory_xact_lock(audit_lock()) AS locked, store_time() AS now",
        );
        let locked = lease.fetch_one(lock).await?;
        if !rows::column::<bool>(&locked, "locked")? {
            lease.rollback().await?;
            return Ok(None);
        }
        let now = rows::time(&locked, "now")?;
        let last = sqlx::query("SELECT * FROM audit_seals ORDER BY number DESC LIMIT 1");
        let last = lease.fetch_optional(last).await?;
        let last = last.as_ref().map(rows::read).transpose()?;
        let unsealed = unsealed(Sealing::LIMIT);
        let mut events = events(&lease.fetch_all(unsealed).await?)?;
        if !sealing.is_due(last.as_ref(), now, events.len()) {
            lease.rollback().await?;
            return Ok(None);
        }
        let seal = sealing.seal(last.as_ref(), &mut events, now);
        lease.execute(write_seal(&seal, &events)?).await?;
        lease.commit().await?;
        Ok(Some((seal, events.len())))
    }

    async fn read_part(&self, known: i64, limit: i64) -> Result<AuditPart, Failure> {
        let mut lease = self.readers.lease().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        lease.execute(sqlx::query(begin)).await?;
        let state = sqlx::query("SELECT first_seal, proof FROM audit_state");
        let state = lease.fetch_optional(state).await?;
        let trimmed: Option<TrimState> = state.as_ref().map(rows::read).transpose()?;
        let seals =
            sqlx::query("SELECT * FROM audit_seals WHERE number >= $1 ORDER BY number LIMIT $2");
        let seals = seals.bind(known).bind(raw::limit(AuditPart::SEALS + 1));
        let seals = lease.fetch_all(seals).await?;
        let seals = seals.iter().map(rows::read).collect::<Result<_>>()?;
        let mut part = AuditPart::new(seals, known, limit, trimmed.unwrap_or_default());
        let (from, to, most) = part.places(known, limit);
        let chained = sqlx::query(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM audit WHERE position > $1 AND position <= $2
              ORDER BY position LIMIT $3"
        )));
        let chained = chained.bind(from).bind(to).bind(most);
        part.events = events(&lease.fetch_all(chained).await?)?;
        if part.is_last {
            let unsealed = unsealed(AuditPart::UNSEALED);
            part.unsealed = events(&lease.fetch_all(unsealed).await?)?;
        }
        lease.rollback().await?;
        Ok(part)
    }
}

/// The first events that no seal covers.
fn unsealed(limit: usize) -> Statement {
    let text = format!("SELECT {COLUMNS} FROM audit WHERE position IS NULL ORDER BY id LIMIT $1");
    sqlx::query(AssertSqlSafe(text)).bind(raw::limit(limit))
}

/// Writes a seal and the places of its events.
fn write_seal(seal: &AuditSeal, events: &[AuditEvent]) -> Result<Statement> {
    let links = || events.iter().filter_map(|event| event.link.as_ref());
    let write = sqlx::query(
        "SELECT seal_audit($1, $2, $3, $4, $5, ROW($6, $7, $8, $9, $10, $11, $12, $13)::audit_seals)",
    );
    Ok(write
        .bind(events.iter().map(|event| event.id).collect::<Vec<_>>())
        .bind(links().map(|link| link.position).collect::<Vec<_>>())
        .bind(links().map(|link| link.salt.clone()).collect::<Vec<_>>())
        .bind(
            links()
                .map(|link| link.personal.clone())
                .collect::<Vec<_>>(),
        )
        .bind(links().map(|link| link.mac.clone()).collect::<Vec<_>>())
        .bind(seal.number)
        .bind(rows::instant(seal.time)?)
        .bind(seal.last_position)
        .bind(seal.last_event.clone())
        .bind(seal.is_complete)
        .bind(i64::from(seal.key))
        .bind(seal.previous.clone())
        .bind(seal.mac.clone()))
}

fn events(found: &[PgRow]) -> Result<Vec<AuditEvent>> {
    found.iter().map(rows::read).collect()
}

/// Writes audit rows within the transaction of the changes that they record.
pub(super) async fn audit(
    lease: &mut Lease<'_>,
    entries: &[(AuditEntry, Actor)],
) -> Result<(), Failure> {
    let statement = sqlx::query(insert_entries!(
        "$1", "$2", "$3", "$4", "$5", "$6"; "$7", "$8", "$9"
    ));
    let statement = bind_origins(bind(statement, entries), entries);
    lease.execute(statement).await.map(drop)
}

/// Binds the entries, in the order of the parameters of `insert_entries`.
pub(super) fn bind(statement: Statement, entries: &[(AuditEntry, Actor)]) -> Statement {
    let uuids = |ids: &mut dyn Iterator<Item = Option<KeyId>>| -> Vec<Option<Uuid>> {
        ids.map(|id| id.map(rows::uuid)).collect()
    };
    let texts = |of: fn(&AuditEntry) -> Option<String>| -> Vec<Option<String>> {
        entries.iter().map(|(entry, _)| of(entry)).collect()
    };
    let actors: Vec<String> = entries
        .iter()
        .map(|(_, actor)| actor.name.clone())
        .collect();
    let actions: Vec<String> = entries
        .iter()
        .map(|(entry, _)| entry.action.name().to_owned())
        .collect();
    statement
        .bind(uuids(&mut entries.iter().map(|(_, actor)| actor.token)))
        .bind(actors)
        .bind(actions)
        .bind(uuids(&mut entries.iter().map(|(entry, _)| entry.id)))
        .bind(texts(|entry| {
            entry
                .account
                .as_ref()
                .map(|account| account.as_str().to_owned())
        }))
        .bind(texts(|entry| entry.detail.clone()))
}

/// Binds the origins of the entries, in the order of the parameters of `insert_entries`.
pub(super) fn bind_origins(statement: Statement, entries: &[(AuditEntry, Actor)]) -> Statement {
    let texts = |of: fn(&Origin) -> &Option<String>| -> Vec<Option<String>> {
        let origins = entries.iter().map(|(_, actor)| &actor.origin);
        origins.map(|origin| of(origin).clone()).collect()
    };
    statement
        .bind(texts(|origin| &origin.peer))
        .bind(texts(|origin| &origin.client))
        .bind(texts(|origin| &origin.request))
}
