//! The audit on Postgres: rows in the very transaction of the change they record.

use async_trait::async_trait;
use uuid::Uuid;

use super::failure::Failure;
use super::links::{Lease, Statement};
use super::{PostgresStore, rows};
use keyward_core::key::KeyId;
use keyward_store::{Actor, Audit, AuditEntry, Result};

/// The text of a statement that writes lines, with the places of its six parameters. With a seventh
/// there is the id of a key beside each line, which is written if that key is among `ended`.
macro_rules! insert_lines {
    ($a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal) => {
        insert_lines!(@ $a, $b, $c, $d, $e, $f, "", "", "")
    };
    ($a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal) => {
        insert_lines!(@ $a, $b, $c, $d, $e, $f, concat!(", ", $g, "::uuid[]"), ", key",
                      " WHERE key IN (SELECT key_id FROM ended)")
    };
    (@ $a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:expr, $key:expr,
     $those:expr) => {
        concat!(
            "INSERT INTO audit (actor_id, actor, action, subject_id, account_id, detail)
             SELECT actor_id, actor, action, subject_id, account_id, detail
               FROM unnest(",
            $a, "::uuid[], ", $b, "::text[], ", $c, "::text[], ", $d, "::uuid[], ", $e,
            "::text[], ", $f, "::text[]", $g,
            ") WITH ORDINALITY
                 AS line(actor_id, actor, action, subject_id, account_id, detail", $key, ", place)",
            $those,
            " ORDER BY place"
        )
    };
}

pub(super) use insert_lines;

#[async_trait]
impl Audit for PostgresStore {
    async fn record(&self, entry: AuditEntry, actor: &Actor) -> Result<()> {
        let mut lease = self.writers.begin().await?;
        audit(&mut lease, &[(entry, actor.clone())]).await?;
        Ok(lease.commit().await?)
    }
}

/// Writes audit rows within the transaction whose changes they record.
pub(super) async fn audit(
    lease: &mut Lease<'_>,
    lines: &[(AuditEntry, Actor)],
) -> std::result::Result<(), Failure> {
    let statement = sqlx::query(insert_lines!("$1", "$2", "$3", "$4", "$5", "$6"));
    lease.execute(bind(statement, lines)).await.map(drop)
}

/// Binds the lines, in the order of the parameters of `insert_lines`.
pub(super) fn bind(statement: Statement, lines: &[(AuditEntry, Actor)]) -> Statement {
    let uuids = |ids: &mut dyn Iterator<Item = Option<KeyId>>| -> Vec<Option<Uuid>> {
        ids.map(|id| id.map(rows::uuid)).collect()
    };
    let texts = |of: fn(&AuditEntry) -> Option<String>| -> Vec<Option<String>> {
        lines.iter().map(|(entry, _)| of(entry)).collect()
    };
    let actors: Vec<String> = lines.iter().map(|(_, actor)| actor.name.clone()).collect();
    let actions: Vec<String> = lines
        .iter()
        .map(|(entry, _)| entry.action.name().to_owned())
        .collect();
    statement
        .bind(uuids(&mut lines.iter().map(|(_, actor)| actor.token)))
        .bind(actors)
        .bind(actions)
        .bind(uuids(&mut lines.iter().map(|(entry, _)| entry.id)))
        .bind(texts(|entry| {
            entry
                .account
                .as_ref()
                .map(|account| account.as_str().to_owned())
        }))
        .bind(texts(|entry| entry.detail.clone()))
}
