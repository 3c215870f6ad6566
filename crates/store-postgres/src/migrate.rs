//! What the owner of the database does: moving the schema, giving the role that serves its rights
//! and no more, settling the first timeline, and raising the epoch. And what `serve` does of it:
//! checking that the schema is one it knows.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;

use super::failure::failed;
use super::link::{ANSWER, Connector, Link, within};
use super::rows;
use super::unreachable;
use keyward_core::key::Clock;
use keyward_store::{OpenError, Result};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// What the role that serves may do. It can neither drop a trigger nor write to the log: the
/// triggers' functions do that with the owner's rights.
const RIGHTS: &[&str] = &[
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT ON _sqlx_migrations, log_head, log_state, key_changes, api_keys, caller_tokens, \
     instances, audit, keyring_checks TO {role}",
    "GRANT INSERT (key_id, digest, generation, account_id, name, hint, scopes, metadata, \
     allowed_cidrs, recoverable, sealed, disabled, create_time, expire_time) ON api_keys TO {role}",
    "GRANT UPDATE (scopes, metadata, allowed_cidrs, sealed, disabled, expire_time, revoke_time, \
     revoke_reason, replaced_by, changed_by) ON api_keys TO {role}",
    "GRANT INSERT (token_id, digest, generation, name, roles, create_time) ON caller_tokens TO {role}",
    "GRANT UPDATE (name, roles, revoke_time, changed_by) ON caller_tokens TO {role}",
    "GRANT INSERT, UPDATE, DELETE ON instances TO {role}",
    "GRANT INSERT (actor_id, actor, action, subject_id, account_id, detail) ON audit TO {role}",
    "GRANT INSERT, UPDATE (active) ON keyring_checks TO {role}",
    "GRANT EXECUTE ON FUNCTION trim_log(interval) TO {role}",
];

/// What the owner of the database does to it, over one connection.
pub struct PostgresOwner {
    link: Link,
}

impl PostgresOwner {
    /// Connects to the first of `hosts` that is a primary.
    pub async fn connect(
        hosts: &[PgConnectOptions],
        clock: Arc<dyn Clock>,
    ) -> std::result::Result<Self, OpenError> {
        let connector = Connector::new(hosts.to_vec(), clock);
        let link = connector
            .open()
            .await
            .map_err(|failure| unreachable(&failure.error))?;
        Ok(Self { link })
    }

    /// Brings the schema up to date, under a lock that lets one do it at a time; then lets `role`
    /// serve from it. Both may be repeated.
    pub async fn migrate(&mut self, role: Option<&str>) -> std::result::Result<(), OpenError> {
        let cannot = |error: String| OpenError(format!("the schema cannot be moved: {error}"));
        // Exactly one schema, which the functions keep as their search_path.
        let prepared = "SET lock_timeout = '60s'; SET statement_timeout = 0; \
             SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', false)";
        sqlx::raw_sql(prepared)
            .execute(self.link.on())
            .await
            .map_err(|error| cannot(error.to_string()))?;
        MIGRATIONS
            .run(self.link.on())
            .await
            .map_err(|error| OpenError(schema_error(&error)))?;
        let Some(role) = role else { return Ok(()) };
        let schema: String = sqlx::query_scalar("SELECT quote_ident(current_schema())")
            .fetch_one(self.link.on())
            .await
            .map_err(|error| cannot(error.to_string()))?;
        let quoted = format!("\"{}\"", role.replace('"', "\"\""));
        let mut rights = String::from("BEGIN;");
        for right in RIGHTS {
            rights += &right
                .replace("{schema}", &schema)
                .replace("{role}", &quoted);
            rights.push(';');
        }
        rights += "COMMIT";
        sqlx::raw_sql(AssertSqlSafe(rights))
            .execute(self.link.on())
            .await
            .map(drop)
            .map_err(|error| {
                OpenError(format!(
                    "the role {role} cannot be given its rights: {error}; does it exist \
                     (CREATE ROLE ... LOGIN), and does `store` name the owner of the schema?"
                ))
            })
    }

    /// Lets revocations be confirmed on the present timeline without a wait, if none was settled
    /// so far: the first one has no past in which anything could have been lost.
    pub async fn settle_first(&mut self) -> std::result::Result<(), OpenError> {
        let (system, timeline) = self.link.timeline();
        let settle = sqlx::query(
            "UPDATE log_state SET settled_system = $1, settled_timeline = $2
              WHERE settled_system IS NULL",
        )
        .bind(system.cast_signed())
        .bind(timeline.cast_signed());
        within(ANSWER, settle.execute(self.link.on()))
            .await
            .map(drop)
            .map_err(|failure| OpenError(failure.error.to_string()))
    }

    /// Raises the epoch: the operator accepts the log as it stands. Answers the new incarnation.
    pub async fn advance_epoch(&mut self, reason: &str) -> Result<u64> {
        let raise = sqlx::query(
            // No number comes again, also when the same backup is restored twice: what a shared cache
            // holds from the first time must not fit the second.
            "WITH raised AS (UPDATE log_state
                                SET incarnation = incarnation + 1 + floor(random() * 1e9)::bigint
                             RETURNING incarnation),
                  line AS (INSERT INTO audit (actor, action, detail)
                           SELECT current_user, 'epoch_advance', $1 FROM raised)
             SELECT incarnation FROM raised",
        );
        let row = within(
            ANSWER,
            raise.bind(reason.to_owned()).fetch_one(self.link.on()),
        )
        .await;
        rows::revision(
            &row.map_err(super::failure::Failure::of_a_commit)?,
            "incarnation",
        )
    }
}

impl std::fmt::Debug for PostgresOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PostgresOwner")
    }
}

/// Refuses a schema that this program does not know. A newer one is fine: migrations only add, so
/// that two versions serve side by side during an upgrade.
pub(super) async fn check(link: &mut Link) -> std::result::Result<(), OpenError> {
    let applied = sqlx::query_as::<_, (i64, Vec<u8>, bool)>(
        "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version",
    );
    let asked = tokio::time::timeout(ANSWER, applied.fetch_all(link.on())).await;
    let asked = asked.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
    let applied = match asked {
        Ok(applied) => applied,
        // There is no such table, or nothing may be read from it.
        Err(error) if code(&error) == Some("42P01".to_owned()) => Vec::new(),
        Err(error) if code(&error) == Some("42501".to_owned()) => {
            return Err(OpenError(
                "this role may not read the schema: run `keyward migrate --service-role ROLE` with \
                 the owner's URL"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(unreachable(&failed(error).error)),
    };
    for known in MIGRATIONS.iter() {
        match applied
            .iter()
            .find(|(version, ..)| *version == known.version)
        {
            Some((_, checksum, true)) if **checksum == *known.checksum => {}
            Some((version, ..)) => {
                return Err(OpenError(format!(
                    "schema {version} of the database is not the one this program knows, or was \
                     left half-made: run the keyward that made it, or restore a backup"
                )));
            }
            None => {
                return Err(OpenError(format!(
                    "the database lacks schema {}: run `keyward init` for a new database, `keyward \
                     migrate` for one of an earlier version, with the owner's URL in `store`",
                    known.version
                )));
            }
        }
    }
    Ok(())
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

fn schema_error(error: &MigrateError) -> String {
    let known = MIGRATIONS
        .iter()
        .map(|known| known.version)
        .max()
        .unwrap_or(0);
    match error {
        MigrateError::VersionMissing(found) | MigrateError::VersionTooNew(found, _) => format!(
            "the database has schema {found}, this program knows schemas up to {known}: it was \
             migrated by a newer keyward; run that one (this one may go on serving)"
        ),
        MigrateError::VersionMismatch(version) => format!(
            "schema {version} of the database is not the one this program knows; it was made by \
             another build: run that one, or restore a backup"
        ),
        other => format!(
            "the schema cannot be brought up to date: {other}; does `store` name the owner of the \
             database?"
        ),
    }
}
