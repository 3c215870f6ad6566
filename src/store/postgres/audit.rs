//! The audit on Postgres: rows in the very transaction of the change they record.

use async_trait::async_trait;
use uuid::Uuid;

use super::failure::Failure;
use super::links::{Lease, Statement};
use super::{PostgresStore, rows};
use crate::store::{Actor, Audit, AuditEntry, Result};

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
    lease.execute(insert(lines)).await.map(drop)
}

fn insert(lines: &[(AuditEntry, Actor)]) -> Statement {
    let uuids = |ids: &mut dyn Iterator<Item = Option<crate::key::KeyId>>| -> Vec<Option<Uuid>> {
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
    sqlx::query(
        "INSERT INTO audit (actor_id, actor, action, subject_id, account_id, detail)
         SELECT actor_id, actor, action, subject_id, account_id, detail
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[])
                WITH ORDINALITY
             AS line(actor_id, actor, action, subject_id, account_id, detail, place)
          ORDER BY place",
    )
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
