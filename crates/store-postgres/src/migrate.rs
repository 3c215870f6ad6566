//! The tasks of the database's owner: migrate the schema, grant the service role exactly its
//! rights, settle the first timeline, and raise the epoch. `serve` only checks that it knows the
//! schema.

use std::sync::Arc;

use sqlx::AssertSqlSafe;
use sqlx::migrate::{MigrateError, Migrator};

use super::connection::{
    ANSWER_LIMIT, Connection, Connector, FUNCTIONS, HIDDEN_TIMELINE, Hosts, TIMELINE_FUNCTIONS,
    grant, within,
};
use super::failure::{Failure, code, words};
use super::{no_primary, rows};
use keyward_core::key::Clock;
use keyward_store::{OpenError, Result, refuse_foreign_schema};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// The rights of the service role. It can neither drop a trigger nor write to the log: the
/// functions of the triggers write to it with the owner's rights.
pub(super) const RIGHTS: &[&str] = &[
    "GRANT CONNECT ON DATABASE {database} TO {role}",
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT ON _sqlx_migrations, log_head, log_state, key_changes, api_keys, caller_tokens, \
     instances, audit, audit_seals, audit_state, keyring_checks, key_prefixes, key_uses, webhooks, webhook_events, \
     expiry_notices TO {role}",
    "GRANT INSERT (key_id, digest, generation, import_batch, account_id, name, hint, scopes, metadata, \
     allowed_cidrs, recoverable, sealed, disabled, create_time, expire_time) ON api_keys TO {role}",
    "GRANT UPDATE (scopes, metadata, allowed_cidrs, sealed, disabled, expire_time, revoke_time, \
     revoked, revoke_reason, replaced_by, changed_by) ON api_keys TO {role}",
    "GRANT INSERT (token_id, digest, generation, san, name, roles, create_time, expire_time) \
     ON caller_tokens TO {role}",
    "GRANT UPDATE (name, roles, revoke_time, revoked, changed_by) ON caller_tokens TO {role}",
    "GRANT INSERT, UPDATE, DELETE ON instances TO {role}",
    "GRANT UPDATE (settled_system, settled_timeline, settled_incarnation) ON log_state TO {role}",
    "GRANT INSERT (actor_id, actor, action, subject_id, account_id, detail, peer, client, \
     request_id) ON audit TO {role}",
    "GRANT INSERT, DELETE, UPDATE (active, state) ON keyring_checks TO {role}",
    "GRANT INSERT ON key_prefixes TO {role}",
    "GRANT INSERT, UPDATE ON key_uses TO {role}",
    "GRANT INSERT, UPDATE, DELETE ON webhooks, expiry_notices TO {role}",
    "GRANT INSERT (webhook, key_id, type, time, at, due), UPDATE (state, due, queued, claims, failures, done_time), \
     DELETE ON webhook_events TO {role}",
    "GRANT EXECUTE ON FUNCTION trim_log(interval), raise_time_floor(), store_time(), server_time(), \
     erase_account(text, text, uuid, text, text, text, text), \
     seal_audit(bigint[], bigint[], bytea[], bytea[], bytea[], audit_seals), \
     trim_audit(bigint, bytea, text), audit_lock() TO {role}",
];

/// A connection of the database's owner.
pub struct PostgresOwner {
    connection: Connection,
    failover_loses_nothing: bool,
}

impl PostgresOwner {
    /// Connects to the first of `hosts` that is a primary.
    pub async fn connect(hosts: &Hosts, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let connector = Connector::new(hosts.clone(), clock);
        let connection = connector
            .open()
            .await
            .map_err(|failure| no_primary(&failure.error))?;
        Ok(Self {
            connection,
            failover_loses_nothing: hosts.failover_loses_nothing,
        })
    }

    /// Migrates the schema under a lock, then grants `role` the rights to serve. Repeating either
    /// is safe.
    pub async fn migrate(&mut self, role: Option<&str>) -> Result<(), OpenError> {
        // Exactly one schema: the functions keep it as their search_path.
        self.run(
            "SET lock_timeout = '60s'; SET statement_timeout = 0; \
             SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', false)
              WHERE current_schema() IS NOT NULL",
        )
        .await
        .map_err(|error| cannot_migrate(&error))?;
        refuse_foreign(&applied(&mut self.connection).await?)?;
        MIGRATIONS
            .run(self.connection.driver())
            .await
            .map_err(|error| OpenError(schema_error(error)))?;
        match role {
            Some(role) => self.grant_rights(role).await,
            None => Ok(()),
        }
    }

    async fn grant_rights(&mut self, role: &str) -> Result<(), OpenError> {
        let names = "SELECT quote_ident(current_schema()), quote_ident(current_database())";
        let (schema, database): (String, String) = sqlx::query_as(names)
            .fetch_one(self.connection.driver())
            .await
            .map_err(|error| cannot_migrate(&error))?;
        let quoted = format!("\"{}\"", role.replace('"', "\"\""));
        // Concurrent grants on one object fail.
        let mut rights = String::from("BEGIN; SELECT pg_advisory_xact_lock(7521983310);");
        for right in RIGHTS {
            rights += &right
                .replace("{schema}", &schema)
                .replace("{database}", &database)
                .replace("{role}", &quoted);
            rights.push(';');
        }
        rights += "COMMIT";
        self.run(&rights).await.map_err(|error| {
            OpenError(format!(
                "cannot grant the role {role} its rights: {}. Check that the role exists \
                 (CREATE ROLE ... LOGIN) and that `store` names the owner of the schema",
                words(&error)
            ))
        })?;
        for function in FUNCTIONS {
            self.grant_function(function, role, "").await?;
        }
        for function in TIMELINE_FUNCTIONS {
            let granted = self.grant_function(function, role, HIDDEN_TIMELINE).await;
            // A primary need not report its timeline then.
            if !self.failover_loses_nothing {
                granted?;
            }
        }
        Ok(())
    }

    /// Grants the right to call a function of the server, which often only a superuser can.
    async fn grant_function(
        &mut self,
        function: &str,
        role: &str,
        otherwise: &str,
    ) -> Result<(), OpenError> {
        let grant = grant(function, role);
        for attempt in 0..2 {
            let may_call: bool =
                sqlx::query_scalar("SELECT has_function_privilege($1, $2, 'EXECUTE')")
                    .bind(role)
                    .bind(function)
                    .fetch_one(self.connection.driver())
                    .await
                    .map_err(|error| cannot_migrate(&error))?;
            if may_call {
                return Ok(());
            }
            if attempt == 0 {
                // The next check shows whether it succeeded.
                let _ = self.run(&grant).await;
            }
        }
        Err(OpenError(format!(
            "the role {role} may not call {function}, which serving needs. A superuser must run in \
             this database: {grant}. Then repeat this command. {otherwise}"
        )))
    }

    pub(super) fn driver(&mut self) -> &mut sqlx::PgConnection {
        self.connection.driver()
    }

    async fn run(&mut self, statements: &str) -> Result<(), sqlx::Error> {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements));
        statements.execute(self.connection.driver()).await.map(drop)
    }

    /// Marks the present timeline as settled if none was before, so that revocations on it are
    /// confirmed without a wait. The first timeline has no predecessor that could lose changes.
    pub async fn settle_first(&mut self) -> Result<(), OpenError> {
        let (system, timeline) = self.connection.timeline();
        let settle = sqlx::query(
            "UPDATE log_state SET settled_system = $1, settled_timeline = $2,
                    settled_incarnation = incarnation
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

/// The migrations in the database: version, description, checksum, and whether it succeeded.
type Applied = (i64, String, Vec<u8>, bool);

async fn applied(connection: &mut Connection) -> Result<Vec<Applied>, OpenError> {
    let all = sqlx::query_as(
        "SELECT version, description, checksum, success FROM _sqlx_migrations ORDER BY version",
    );
    let found = within(ANSWER_LIMIT, async {
        match all.fetch_all(connection.driver()).await {
            // There is no such table.
            Err(error) if code(&error).as_deref() == Some("42P01") => Ok(Vec::new()),
            found => found,
        }
    });
    found.await.map_err(|failure| no_primary(&failure.error))
}

/// Refuses a database whose migrations are those of another program.
fn refuse_foreign(applied: &[Applied]) -> Result<(), OpenError> {
    let known = MIGRATIONS
        .iter()
        .map(|known| (known.version, &*known.description));
    let applied: Vec<_> = applied
        .iter()
        .map(|(version, name, ..)| (*version, name.clone()))
        .collect();
    refuse_foreign_schema("this database", known, &applied)
}

/// Refuses a schema that this program does not know. A newer schema is accepted: migrations only
/// add, so that two versions can serve side by side during an upgrade.
pub(super) async fn check(connection: &mut Connection) -> Result<(), OpenError> {
    let applied = applied(connection).await?;
    refuse_foreign(&applied)?;
    for known in MIGRATIONS.iter() {
        match applied
            .iter()
            .find(|(version, ..)| *version == known.version)
        {
            Some((_, _, checksum, true)) if **checksum == *known.checksum => {}
            Some((version, ..)) => {
                return Err(OpenError(format!(
                    "schema {version} of the database differs from this program's, or its migration \
                     did not finish. Run the keyward that made it"
                )));
            }
            None => {
                return Err(OpenError(format!(
                    "the database lacks schema {}. Run `keyward init` for a new database, or `keyward \
                     migrate` for one of an earlier version, with the owner's URL in `store`. If the \
                     tables are in another schema than public, set the role's search_path",
                    known.version
                )));
            }
        }
    }
    Ok(())
}

fn cannot_migrate(error: &sqlx::Error) -> OpenError {
    let remedy = match code(error).as_deref() {
        Some("3F000") => {
            "Create the schema public, or set the role's search_path to another schema"
        }
        Some("42P07" | "42723" | "42710") => {
            "Another program uses this database: give Keyward a database of its own"
        }
        Some("55P03") => "Another migration runs, or a long transaction holds a lock: run it again",
        _ => "Check that `store` names the owner of the database",
    };
    let words = words(error);
    OpenError(format!("the schema cannot be migrated: {words}. {remedy}"))
}

fn schema_error(error: MigrateError) -> String {
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
             build: run that build"
        ),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            cannot_migrate(&error).0
        }
        other => format!("the schema cannot be migrated: {other}"),
    }
}
