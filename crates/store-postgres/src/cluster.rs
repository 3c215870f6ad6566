//! The rows of the instances that share a database.
//!
//! Upholds I5: a heartbeat is one statement that writes the row and reads the log, with
//! `synchronous_commit` at least `on`. Upholds the row's half of I9.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::change_notices::ChangeNotices;
use super::connection::Connection;
use super::failure::{Failure, Kind};
use super::log::{bind_position, page, read_page};
use super::pool::Pool;
use super::rows;
use super::tail_connection::TailConnection;
use keyward_core::fence::{Epoch, Member, Membership, Page, Position, RegistrationId};
use keyward_crypto::KeyName;
use keyward_store::{
    ChangeNotice, Cluster, CommittedChange, Confirmed, NewInstance, OnCommit, Result, StoreError,
    raw,
};

/// The instances of one database.
pub(super) struct PostgresCluster {
    pub(super) members: Arc<Pool>,
    pub(super) tail: TailConnection,
    pub(super) notices: Arc<ChangeNotices>,
}

impl PostgresCluster {
    pub(super) async fn close(&self) {
        self.tail.close().await;
        self.members.close().await;
        self.notices.close().await;
    }
}

/// The columns of a membership, of `log_state` and `instances`.
macro_rules! membership_columns {
    () => {
        "incarnation, settled_system, settled_timeline, settled_incarnation,
         current_setting('synchronous_standby_names') <> '' AS has_standby,
         boot_id, beat, max_staleness, acked"
    };
}

/// The rows of the instances, each with its acknowledgement if its mark stands in the log.
macro_rules! members {
    () => {
        "(SELECT boot_id, beat, max_staleness,
                 CASE WHEN EXISTS (SELECT FROM key_changes AS c
                                    WHERE c.revision = applied_revision
                                      AND c.mark = applied_mark)
                      THEN applied_revision ELSE 0 END AS acked
            FROM instances)"
    };
}

#[async_trait]
impl Cluster for PostgresCluster {
    async fn register(&self, instance: &NewInstance) -> Result<()> {
        let staleness = i64::try_from(instance.max_staleness.as_millis()).unwrap_or(i64::MAX);
        // Never an upsert: each registration has a new row.
        let insert = sqlx::query(
            "INSERT INTO instances (boot_id, name, max_staleness, loaded_keys)
             VALUES ($1, $2, $3, $4)",
        )
        .bind(rows::registration(instance.registration))
        .bind(instance.name.clone())
        .bind(staleness)
        .bind(texts(&instance.loaded));
        let outcome = self.tail.run(insert, |_, _| Ok(())).await;
        Ok(outcome.map_err(Failure::of_a_commit)?)
    }

    async fn heartbeat(
        &self,
        registration: RegistrationId,
        acked: Position,
        applied: u64,
    ) -> Result<Option<Page>> {
        let statement = sqlx::query(concat!(
            "WITH mine AS (UPDATE instances
                              SET beat = beat + 1, applied_revision = $4, applied_mark = $5
                            WHERE boot_id = $3 RETURNING beat) ",
            page!(" CROSS JOIN mine")
        ));
        let statement = bind_position(statement, applied)?
            .bind(rows::registration(registration))
            .bind(raw::parameter(acked.revision)?)
            .bind(acked.mark.to_vec());
        let read = |found: &[PgRow], connection: &Connection| match found {
            [] => Ok(None),
            found => read_page(found, connection).map(Some),
        };
        match self.tail.run(statement, read).await {
            Err(failure) if failure.kind == Kind::Hung => Err(failure.of_a_commit().into()),
            outcome => Ok(outcome?),
        }
    }

    async fn acknowledge(&self, registration: RegistrationId, acked: Position) -> Result<()> {
        // This commit may be asynchronous, because no freshness comes from it.
        let statement = sqlx::query(
            "UPDATE instances SET applied_revision = $2, applied_mark = $3
              WHERE boot_id = $1 AND applied_revision < $2
                AND set_config('synchronous_commit', 'off', true) = 'off'",
        )
        .bind(rows::registration(registration))
        .bind(raw::parameter(acked.revision)?)
        .bind(acked.mark.to_vec());
        Ok(self.tail.run(statement, |_, _| Ok(())).await?)
    }

    async fn report_keyring(&self, registration: RegistrationId, loaded: &[KeyName]) -> Result<()> {
        let report = sqlx::query("UPDATE instances SET loaded_keys = $2 WHERE boot_id = $1")
            .bind(rows::registration(registration))
            .bind(texts(loaded));
        let mut lease = self.members.begin().await?;
        lease.execute(report).await?;
        Ok(lease.commit().await?)
    }

    async fn leave(&self, registration: RegistrationId) -> Result<()> {
        let delete = sqlx::query(
            "WITH deleted AS (DELETE FROM instances WHERE boot_id =
                                  (SELECT boot_id FROM instances WHERE boot_id = $1
                                      FOR UPDATE SKIP LOCKED)
                              RETURNING boot_id)
             SELECT EXISTS (SELECT FROM instances WHERE boot_id = $1)
                    AND NOT EXISTS (SELECT FROM deleted) AS is_locked",
        )
        .bind(rows::registration(registration));
        let mut lease = self.members.begin().await?;
        let is_locked = rows::column(&lease.fetch_one(delete).await?, "is_locked")?;
        lease.commit().await?;
        match is_locked {
            true => Err(StoreError::Locked(
                "another session has locked the row of this instance".to_owned(),
            )),
            false => Ok(()),
        }
    }

    async fn membership(&self) -> Result<Membership> {
        let mut lease = self.members.lease().await?;
        let statement = sqlx::query(concat!(
            "SELECT ",
            membership_columns!(),
            " FROM log_state LEFT JOIN ",
            members!(),
            " AS members ON true"
        ));
        let found = lease.fetch_all(statement).await?;
        let membership = membership(&found, lease.connection())?;
        lease.done();
        Ok(membership)
    }

    async fn settle(&self, epoch: Epoch) -> Result<()> {
        let settle = sqlx::query(
            "UPDATE log_state SET settled_system = $1, settled_timeline = $2,
                    settled_incarnation = $3
              WHERE incarnation = $3",
        )
        .bind(epoch.system.cast_signed())
        .bind(epoch.timeline.cast_signed())
        .bind(raw::parameter(epoch.incarnation)?);
        let mut lease = self.members.begin().await?;
        if lease.connection().epoch(epoch.incarnation) != epoch {
            return Ok(lease.rollback().await?);
        }
        lease.execute(settle).await?;
        Ok(lease.commit().await?)
    }

    async fn reap(&self, registration: RegistrationId, beat: u64) -> Result<bool> {
        // A locked row is skipped, so that it does not hold up the detection of other instances.
        let delete = sqlx::query(
            "DELETE FROM instances WHERE beat = $2 AND boot_id =
                 (SELECT boot_id FROM instances WHERE boot_id = $1 AND beat = $2
                     FOR UPDATE SKIP LOCKED)",
        )
        .bind(rows::registration(registration))
        .bind(raw::parameter(beat)?);
        let mut lease = self.members.begin().await?;
        let deleted = lease.execute(delete).await?;
        lease.commit().await?;
        Ok(deleted > 0)
    }

    async fn raise_time_floor(&self) -> Result<Duration> {
        let raise = sqlx::query("SELECT raise_time_floor() AS ahead");
        let mut lease = self.members.lease().await?;
        let row = lease.fetch_one(raise).await?;
        lease.done();
        Ok(Duration::from_micros(rows::revision(&row, "ahead")?))
    }

    /// I7: the write shows that this server is still the primary. It commits after the acknowledgements were
    /// read, and in their epoch.
    async fn confirm(
        &self,
        registration: RegistrationId,
        changes: &[CommittedChange],
        once_acked: u64,
    ) -> Result<Confirmed> {
        let mut revisions = Vec::with_capacity(changes.len());
        for change in changes {
            revisions.push(raw::parameter(change.revision)?);
        }
        let marks: Vec<_> = changes
            .iter()
            .map(|c| c.mark.map(|mark| mark.to_vec()))
            .collect();
        let ids: Vec<_> = changes.iter().map(|c| c.id.map(rows::uuid)).collect();
        let statement = sqlx::query(concat!(
            "WITH members AS MATERIALIZED ",
            members!(),
            ", mine AS (
                 UPDATE instances SET confirms = confirms + 1
                  WHERE boot_id = $1
                    AND NOT EXISTS (SELECT FROM members WHERE boot_id <> $1 AND acked < $5)
                 RETURNING boot_id
             ), checked AS (
                 SELECT array_agg(due.revision = 0
                    OR EXISTS (SELECT FROM key_changes AS c
                                WHERE c.revision = due.revision AND c.mark = due.mark)
                    OR EXISTS (SELECT FROM api_keys AS k
                                WHERE k.key_id = due.id AND k.revision = due.revision
                                  AND k.mark = due.mark)
                    OR EXISTS (SELECT FROM caller_tokens AS t
                                WHERE t.token_id = due.id AND t.revision = due.revision
                                  AND t.mark = due.mark) ORDER BY position) AS stands
                   FROM unnest($2::bigint[], $3::bytea[], $4::uuid[]) WITH ORDINALITY
                     AS due(revision, mark, id, position)
                  WHERE EXISTS (SELECT FROM mine)
             )
             SELECT stands, ",
            membership_columns!(),
            " FROM log_state CROSS JOIN checked LEFT JOIN members ON true"
        ))
        .bind(rows::registration(registration))
        .bind(revisions)
        .bind(marks)
        .bind(ids)
        .bind(raw::parameter(once_acked)?);
        let mut lease = self.members.lease().await?;
        let found = lease.fetch_all(statement).await?;
        let confirmed = Confirmed {
            membership: membership(&found, lease.connection())?,
            stands: rows::column(rows::first(&found)?, "stands")?,
        };
        lease.done();
        Ok(confirmed)
    }

    async fn next_change_notice(&self) -> ChangeNotice {
        self.notices.next().await
    }

    fn set_on_commit(&self, on_commit: OnCommit) {
        self.notices.set_on_commit(on_commit);
    }
}

fn texts(names: &[KeyName]) -> Vec<String> {
    names.iter().map(KeyName::to_string).collect()
}

/// The membership in rows of `membership_columns!`.
fn membership(found: &[PgRow], connection: &Connection) -> Result<Membership> {
    let first = rows::first(found)?;
    let mut members = Vec::with_capacity(found.len());
    for row in found {
        if rows::column::<Option<uuid::Uuid>>(row, "boot_id")?.is_some() {
            members.push(member(row)?);
        }
    }
    Ok(Membership {
        epoch: connection.epoch(rows::revision(first, "incarnation")?),
        settled: settled(first)?,
        has_standby: rows::column(first, "has_standby")?,
        members,
    })
}

/// The epoch that the store names as settled.
fn settled(row: &PgRow) -> Result<Option<Epoch>> {
    let Some(system) = rows::column::<Option<i64>>(row, "settled_system")? else {
        return Ok(None);
    };
    Ok(Some(Epoch {
        system: system.cast_unsigned(),
        timeline: rows::column::<i32>(row, "settled_timeline")?.cast_unsigned(),
        incarnation: rows::revision(row, "settled_incarnation")?,
    }))
}

fn member(row: &PgRow) -> Result<Member> {
    let registration: uuid::Uuid = rows::column(row, "boot_id")?;
    Ok(Member {
        registration: RegistrationId::from_bytes(registration.into_bytes()),
        heartbeat: rows::revision(row, "beat")?,
        acked: rows::revision(row, "acked")?,
        max_staleness: Duration::from_millis(rows::revision(row, "max_staleness")?),
    })
}
