//! Lowers the time of a Postgres store, with the owner's connection.

use async_trait::async_trait;
use sqlx::postgres::PgRow;

use super::PostgresOwner;
use super::failure::Failure;
use super::graces::END_GRACES;
use super::pool::Statement;
use super::rows;
use keyward_store::{ExpiringKeys, Result, TimeRepair, TimeSurvey, raw};

/// Keys and tokens without revoke time that expire, with their number on each row. The argument is their
/// condition.
macro_rules! expiring {
    ($condition:literal) => {
        concat!(
            "SELECT key_id, account_id, name, create_time, expire_time, count(*) OVER () AS count
               FROM (SELECT key_id, account_id, name, create_time, expire_time, revoke_time FROM api_keys
                     UNION ALL
                     SELECT token_id, NULL, name, create_time, expire_time, revoke_time
                       FROM caller_tokens) AS both_tables
              WHERE revoke_time IS NULL AND ",
            $condition,
            " ORDER BY expire_time, key_id LIMIT $3"
        )
    };
}

#[async_trait]
impl TimeRepair for PostgresOwner {
    async fn survey(&mut self) -> Result<TimeSurvey> {
        // Finding the keys reads the whole table.
        self.execute(sqlx::query("SET statement_timeout = 0"))
            .await?;
        self.execute(sqlx::query("SET enable_seqscan = on")).await?;
        let times =
            sqlx::query("SELECT time_floor AS stored, server_time() AS clock FROM log_state");
        let times = self.fetch_all(times).await?;
        let times = rows::first(&times)?;
        let (stored, clock) = (rows::time(times, "stored")?, rows::time(times, "clock")?);
        let mut find = async |text: &'static str| {
            let statement = sqlx::query(text)
                .bind(rows::instant(clock)?)
                .bind(rows::instant(stored)?)
                .bind(raw::limit(ExpiringKeys::LISTED));
            keys(&self.fetch_all(statement).await?)
        };
        Ok(TimeSurvey {
            expired: find(expiring!("expire_time > $1 AND expire_time <= $2")).await?,
            issued: find(expiring!("create_time > $1 AND expire_time > $2")).await?,
            stored,
            clock,
        })
    }

    async fn end_all_graces(&mut self, survey: &TimeSurvey) -> Result<u64> {
        let statement = sqlx::query(END_GRACES).bind(Some(rows::instant(survey.clock)?));
        self.changed(statement).await
    }

    async fn revoke_expired(&mut self, survey: &TimeSurvey) -> Result<u64> {
        let statement = sqlx::query(
            "WITH locked AS MATERIALIZED (
                 SELECT key_id FROM api_keys
                  WHERE revoke_time IS NULL AND expire_time > $1 AND expire_time <= $2
                  ORDER BY key_id LIMIT 500 FOR UPDATE
             ), revoked AS (
                 UPDATE api_keys AS k SET revoke_time = $1, revoked = true, changed_by = current_user
                   FROM locked AS l WHERE k.key_id = l.key_id
                 RETURNING k.key_id, k.account_id
             ), entries AS (
                 INSERT INTO audit (actor, action, subject_id, account_id, detail)
                 SELECT current_user, 'revoke', key_id, account_id, 'expired' FROM revoked
             ), revoked_tokens AS (
                 UPDATE caller_tokens
                    SET revoke_time = $1, revoked = true, changed_by = current_user
                  WHERE revoke_time IS NULL AND expire_time > $1 AND expire_time <= $2
                 RETURNING token_id
             ), token_entries AS (
                 INSERT INTO audit (actor, action, subject_id, detail)
                 SELECT current_user, 'token_revoke', token_id, 'expired' FROM revoked_tokens
             )
             SELECT (SELECT count(*) FROM revoked) + (SELECT count(*) FROM revoked_tokens) AS changed",
        );
        let statement = statement
            .bind(rows::instant(survey.clock)?)
            .bind(rows::instant(survey.stored)?);
        self.changed(statement).await
    }

    async fn lower(&mut self, survey: &TimeSurvey, reason: &str) -> Result<()> {
        let statement = sqlx::query(
            "WITH lowered AS (UPDATE log_state SET time_floor = $1, time_lowered = time_lowered + 1
                              RETURNING one),
                  uses AS (UPDATE key_uses
                              SET last_use = CASE WHEN last_use > $1 THEN $1 ELSE last_use END,
                                  last_refused = CASE WHEN last_refused > $1 THEN $1
                                                      ELSE last_refused END
                            WHERE last_use > $1 OR last_refused > $1),
                  events AS (UPDATE webhook_events
                                SET time = least(time, $1), due = least(due, $1),
                                    done_time = CASE WHEN done_time > $1 THEN $1 ELSE done_time END
                              WHERE time > $1 OR due > $1 OR done_time > $1),
                  webhooks AS (UPDATE webhooks SET seen_time = $1 WHERE seen_time > $1),
                  entry AS (INSERT INTO audit (actor, action, detail)
                            SELECT current_user, 'clock_lower', $2 FROM lowered)
             SELECT count(*) AS changed FROM lowered",
        );
        let statement = statement
            .bind(rows::instant(survey.clock)?)
            .bind(reason.to_owned());
        self.changed(statement).await.map(drop)
    }
}

impl PostgresOwner {
    async fn execute(&mut self, statement: Statement) -> Result<()> {
        self.fetch_all(statement).await.map(drop)
    }

    async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<PgRow>> {
        let found = statement.fetch_all(self.driver()).await;
        Ok(found.map_err(|error| Failure::from(error).of_a_commit())?)
    }

    /// Runs a statement that is its own transaction. Returns the number of rows that it changed.
    async fn changed(&mut self, statement: Statement) -> Result<u64> {
        rows::revision(rows::first(&self.fetch_all(statement).await?)?, "changed")
    }
}

fn keys(found: &[PgRow]) -> Result<ExpiringKeys> {
    Ok(ExpiringKeys {
        listed: found.iter().map(rows::read).collect::<Result<_>>()?,
        count: match found.first() {
            Some(row) => rows::revision(row, "count")?,
            None => 0,
        },
    })
}
