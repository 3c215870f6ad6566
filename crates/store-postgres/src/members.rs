//! The rows of the instances that share a database (DESIGN 5, join and leave).
//!
//! Upholds I5: a heartbeat is one statement that writes the row and reads the log, with
//! `synchronous_commit` at least `on`; and the row's half of I9.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::failure::{Failure, Kind};
use super::link::Link;
use super::log::{page, read_page, with_place};
use super::{PostgresStore, rows};
use keyward_core::fence::{Member, Membership, Page, RegistrationId};
use keyward_store::{
    ChangeNotice, CommittedChange, Confirmed, Members, NewInstance, OnCommit, Result,
};

#[async_trait]
impl Members for PostgresStore {
    fn shared(&self) -> bool {
        true
    }

    async fn register(&self, instance: &NewInstance) -> Result<()> {
        let staleness = i64::try_from(instance.max_staleness.as_millis()).unwrap_or(i64::MAX);
        let generations: Vec<i64> = instance.generations.iter().map(|n| i64::from(*n)).collect();
        // Never an upsert: a boot's row is made once.
        let insert = sqlx::query(
            "INSERT INTO instances (boot_id, name, max_staleness, loaded_generations)
             VALUES ($1, $2, $3, $4)",
        )
        .bind(rows::boot(instance.registration))
        .bind(instance.name.clone())
        .bind(staleness)
        .bind(generations);
        // Over the tail's own link: one statement, and a commit of its own.
        let outcome = self.tail.run(insert, |_, _| Ok(())).await;
        Ok(outcome.map_err(Failure::of_a_commit)?)
    }

    async fn heartbeat(&self, registration: RegistrationId, applied: u64) -> Result<Option<Page>> {
        let statement = sqlx::query(concat!(
            "WITH mine AS (UPDATE instances
                              SET beat = beat + 1, applied_revision = greatest(applied_revision, $1)
                            WHERE boot_id = $3 RETURNING beat) ",
            page!(" CROSS JOIN mine")
        ));
        let statement = with_place(statement, applied)?.bind(rows::boot(registration));
        let read = |found: &[PgRow], link: &Link| match found {
            [] => Ok(None),
            found => read_page(found, link).map(Some),
        };
        match self.tail.run(statement, read).await {
            Err(failure) if failure.kind == Kind::Hung => Err(failure.of_a_commit().into()),
            outcome => Ok(outcome?),
        }
    }

    async fn acknowledge(&self, registration: RegistrationId, applied: u64) -> Result<()> {
        // `off` for this commit alone: freshness never comes from it.
        let statement = sqlx::query(
            "UPDATE instances SET applied_revision = $2
              WHERE boot_id = $1 AND applied_revision < $2
                AND set_config('synchronous_commit', 'off', true) = 'off'",
        )
        .bind(rows::boot(registration))
        .bind(rows::bindable(applied)?);
        Ok(self.tail.run(statement, |_, _| Ok(())).await?)
    }

    async fn leave(&self, registration: RegistrationId) -> Result<()> {
        let delete =
            sqlx::query("DELETE FROM instances WHERE boot_id = $1").bind(rows::boot(registration));
        let mut lease = self.members.begin().await?;
        lease.execute(delete).await?;
        Ok(lease.commit().await?)
    }

    async fn membership(&self) -> Result<Option<Membership>> {
        let mut lease = self.members.lease().await?;
        let found = lease
            .fetch_all(sqlx::query(
                "SELECT incarnation, boot_id, beat, applied_revision, max_staleness
                   FROM log_state LEFT JOIN instances ON true",
            ))
            .await?;
        let first = found
            .first()
            .ok_or_else(|| rows::damaged("log_state is empty"))?;
        let epoch = lease.link().epoch(rows::revision(first, "incarnation")?);
        let mut members = Vec::with_capacity(found.len());
        for row in &found {
            if rows::column::<Option<uuid::Uuid>>(row, "boot_id")?.is_some() {
                members.push(member(row)?);
            }
        }
        lease.done();
        Ok(Some(Membership { epoch, members }))
    }

    async fn reap(&self, registration: RegistrationId, beat: u64) -> Result<bool> {
        let delete = sqlx::query("DELETE FROM instances WHERE boot_id = $1 AND beat = $2")
            .bind(rows::boot(registration))
            .bind(rows::bindable(beat)?);
        let mut lease = self.members.begin().await?;
        let gone = lease.execute(delete).await?;
        lease.commit().await?;
        Ok(gone > 0)
    }

    async fn confirm(
        &self,
        registration: RegistrationId,
        changes: &[CommittedChange],
    ) -> Result<Option<Confirmed>> {
        let mut revisions = Vec::with_capacity(changes.len());
        for change in changes {
            revisions.push(rows::bindable(change.revision)?);
        }
        let marks: Vec<_> = changes
            .iter()
            .map(|c| c.mark.map(|mark| mark.to_vec()))
            .collect();
        let ids: Vec<_> = changes.iter().map(|c| c.id.map(rows::uuid)).collect();
        let statement = sqlx::query(
            "WITH mine AS (UPDATE instances SET confirms = confirms + 1
                            WHERE boot_id = $1 RETURNING boot_id)
             SELECT incarnation, EXISTS (SELECT FROM mine) AS registered,
                    EXISTS (SELECT FROM key_changes AS c
                             WHERE c.revision = due.revision AND c.mark = due.mark)
                    OR EXISTS (SELECT FROM api_keys AS k
                                WHERE k.key_id = due.id AND k.revision = due.revision
                                  AND k.mark = due.mark)
                    OR EXISTS (SELECT FROM caller_tokens AS t
                                WHERE t.token_id = due.id AND t.revision = due.revision
                                  AND t.mark = due.mark) AS stands
               FROM log_state CROSS JOIN
                    unnest($2::bigint[], $3::bytea[], $4::uuid[]) WITH ORDINALITY
                 AS due(revision, mark, id, place)
              ORDER BY place",
        )
        .bind(rows::boot(registration))
        .bind(revisions)
        .bind(marks)
        .bind(ids);
        let mut lease = self.members.lease().await?;
        let found = lease.fetch_all(statement).await?;
        let first = found
            .first()
            .ok_or_else(|| rows::damaged("log_state is empty"))?;
        let confirmed = Confirmed {
            epoch: lease.link().epoch(rows::revision(first, "incarnation")?),
            registered: rows::column(first, "registered")?,
            stands: found
                .iter()
                .map(|row| rows::column(row, "stands"))
                .collect::<Result<_>>()?,
        };
        lease.done();
        Ok(Some(confirmed))
    }

    async fn hint(&self) -> ChangeNotice {
        self.hints.hear(&self.connector).await
    }

    fn set_on_commit(&self, on_commit: OnCommit) {
        self.hints.also_by(on_commit);
    }
}

fn member(row: &PgRow) -> Result<Member> {
    Ok(Member {
        registration: RegistrationId::from_bytes(
            rows::column::<uuid::Uuid>(row, "boot_id")?.into_bytes(),
        ),
        heartbeat: rows::revision(row, "beat")?,
        applied: rows::revision(row, "applied_revision")?,
        max_staleness: Duration::from_millis(rows::revision(row, "max_staleness")?),
    })
}
