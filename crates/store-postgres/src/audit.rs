//! The audit on Postgres: each entry is a row in the transaction of the change that it records.

use async_trait::async_trait;
use uuid::Uuid;

use super::failure::Failure;
use super::pool::{Lease, Statement};
use super::{PostgresStore, rows};
use keyward_core::key::KeyId;
use keyward_store::{Actor, Audit, AuditEntry, Result};

/// The text of a statement that writes entries; the arguments name its six parameters. A seventh
/// parameter holds a key id for each entry: the entry is written only if that key is in `revoked`.
macro_rules! insert_entries {
    ($a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal) => {
        insert_entries!(@ $a, $b, $c, $d, $e, $f, "", "", "")
    };
    ($a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:literal) => {
        insert_entries!(@ $a, $b, $c, $d, $e, $f, concat!(", ", $g, "::uuid[]"), ", key",
                      " WHERE key IN (SELECT key_id FROM revoked)")
    };
    (@ $a:literal, $b:literal, $c:literal, $d:literal, $e:literal, $f:literal, $g:expr, $key:expr,
     $filter:expr) => {
        concat!(
            "INSERT INTO audit (actor_id, actor, action, subject_id, account_id, detail)
             SELECT actor_id, actor, action, subject_id, account_id, detail
               FROM unnest(",
            $a, "::uuid[], ", $b, "::text[], ", $c, "::text[], ", $d, "::uuid[], ", $e,
            "::text[], ", $f, "::text[]", $g,
            ") WITH ORDINALITY
                 AS entry(actor_id, actor, action, subject_id, account_id, detail", $key, ", position)",
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
}

/// Writes audit rows within the transaction of the changes that they record.
pub(super) async fn audit(
    lease: &mut Lease<'_>,
    entries: &[(AuditEntry, Actor)],
) -> std::result::Result<(), Failure> {
    let statement = sqlx::query(insert_entries!("$1", "$2", "$3", "$4", "$5", "$6"));
    lease.execute(bind(statement, entries)).await.map(drop)
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
