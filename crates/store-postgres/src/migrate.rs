//! The tasks of the database's owner: migrate the schema, grant the service role exactly its
//! rights, settle the first timeline, and raise the epoch. `serve` only checks that it knows the
//! schema.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;

use super::connection::{ANSWER_LIMIT, Connection, Connector, within};
use super::failure::Failure;
use super::{no_primary, rows};
use keyward_core::key::Clock;
use keyward_store::{OpenError, Result};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// The rights of the service role. It can neither drop a trigger nor write to the log: the
/// functions of the triggers write to it with the owner's rights.
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

/// A connection of the database's owner.
pub struct PostgresOwner {
    connection: Connection,
}

impl PostgresOwner {
    /// Connects to the first of `hosts` that is a primary.
    pub async fn connect(
        hosts: &[PgConnectOptions],
        clock: Arc<dyn Clock>,
    ) -> std::result::Result<Self, OpenError> {
        let connector = Connector::new(hosts.to_vec(), clock);
        let connection = connector
            .open()
            .await
            .map_err(|failure| no_primary(&failure.error))?;
        Ok(Self { connection })
    }

    /// Migrates the schema under a lock, then grants `role` the rights to serve. Repeating either
    /// is safe.
    pub async fn migrate(&mut self, role: Option<&str>) -> std::result::Result<(), OpenError> {
        let cannot = |error: String| OpenError(format!("the schema cannot be migrated: {error}"));
        // Exactly one schema: the functions keep it as their search_path.
        let prepare = "SET lock_timeout = '60s'; SET statement_timeout = 0; \
             SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', false)";
        sqlx::raw_sql(prepare)
            .execute(self.connection.driver())
            .await
            .map_err(|error| cannot(error.to_string()))?;
        MIGRATIONS
            .run(self.connection.driver())
            .await
            .map_err(|error| OpenError(schema_error(&error)))?;
        let Some(role) = role else { return Ok(()) };
        let schema: String = sqlx::query_scalar("SELECT quote_ident(current_schema())")
            .fetch_one(self.connection.driver())
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
            .execute(self.connection.driver())
            .await
            .map(drop)
            .map_err(|error| {
                OpenError(format!(
                    "cannot grant the role {role} its rights: {error}. Check that the role exists \
                     (CREATE ROLE ... LOGIN) and that `store` names the owner of the schema"
                ))
            })
    }

    /// Marks the present timeline as settled if none was before, so that revocations on it are
    /// confirmed without a wait. The first timeline has no predecessor that could lose changes.
    pub async fn settle_first(&mut self) -> std::result::Result<(), OpenError> {
        let (system, timeline) = self.connection.timeline();
        let settle = sqlx::query(
            "UPDATE log_state SET settled_system = $1, settled_timeline = $2
              WHERE settled_system IS NULL",
        )
        .bind(system.cast_signed())
        .bind(timeline.cast_signed());
        within(ANSWER_LIMIT, settle.execute(self.connection.driver()))
            .await
            .map(drop)
            .map_err(|failure| OpenError(failure.error.to_string()))
    }

    /// Raises the epoch: the operator accepts the present log. Returns the new incarnation.
    pub async fn advance_epoch(&mut self, reason: &str) -> Result<u64> {
        let raise = sqlx::query(
            // Random, so that restoring one backup twice gives different incarnations: entries that a
            // shared cache holds from the first time must not fit the second.
            "WITH raised AS (UPDATE log_state
                                SET incarnation = incarnation + 1 + floor(random() * 1e9)::bigint
                             RETURNING incarnation),
                  entry AS (INSERT INTO audit (actor, action, detail)
                           SELECT current_user, 'epoch_advance', $1 FROM raised)
             SELECT incarnation FROM raised",
        );
        let row = within(
            ANSWER_LIMIT,
            raise
                .bind(reason.to_owned())
                .fetch_one(self.connection.driver()),
        )
        .await;
        rows::revision(&row.map_err(Failure::of_a_commit)?, "incarnation")
    }
}

impl std::fmt::Debug for PostgresOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PostgresOwner")
    }
}

/// Refuses a schema that this program does not know. A newer schema is accepted: migrations only
/// add, so that two versions can serve side by side during an upgrade.
pub(super) async fn check(connection: &mut Connection) -> std::result::Result<(), OpenError> {
    let applied = sqlx::query_as::<_, (i64, Vec<u8>, bool)>(
        "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version",
    );
    let answer = tokio::time::timeout(ANSWER_LIMIT, applied.fetch_all(connection.driver())).await;
    let answer = answer.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
    let applied = match answer {
        Ok(applied) => applied,
        // The table does not exist, or the role must not read it.
        Err(error) if code(&error) == Some("42P01".to_owned()) => Vec::new(),
        Err(error) if code(&error) == Some("42501".to_owned()) => {
            return Err(OpenError(
                "this role has no right to read the schema. Run `keyward migrate --service-role \
                 ROLE` with the owner's URL"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(no_primary(&Failure::from(error).error)),
    };
    for known in MIGRATIONS.iter() {
        match applied
            .iter()
            .find(|(version, ..)| *version == known.version)
        {
            Some((_, checksum, true)) if **checksum == *known.checksum => {}
            Some((version, ..)) => {
                return Err(OpenError(format!(
                    "schema {version} of the database differs from this program's, or its migration \
                     did not finish. Run the keyward that made it, or restore a backup"
                )));
            }
            None => {
                return Err(OpenError(format!(
                    "the database lacks schema {}. Run `keyward init` for a new database, or `keyward \
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
            "the database has schema {found}, but this program knows schemas up to {known}. It was \
             migrated by a newer keyward: run that version (this one can still serve)"
        ),
        MigrateError::VersionMismatch(version) => format!(
            "schema {version} of the database differs from this program's. It was made by another \
             build: run that build, or restore a backup"
        ),
        other => format!(
            "the schema cannot be migrated: {other}. Check that `store` names the owner of the \
             database"
        ),
    }
}
