//! What an operator should know of the server and of the role of the service, read without a change.

use keyward_core::key::Timestamp;
use keyward_store::Result;

use super::migrate::RIGHTS;
use super::{PostgresStore, rows};

/// The oldest supported version, as `server_version_num`.
const OLDEST_VERSION: i32 = 150_000;

/// The server, and the role of the connection there.
#[derive(Clone, Debug)]
pub struct Server {
    /// The version, such as `17.2`.
    pub version: String,
    /// Whether Keyward supports the version.
    pub is_supported: bool,
    /// The role.
    pub role: String,
    /// Whether the role owns the tables, or may do what their owner may do.
    pub owns_schema: bool,
    /// Whether a crash of the server keeps what was committed.
    pub is_durable: bool,
    /// The clock of the server.
    pub clock: Timestamp,
    /// The floor of the store's time.
    pub floor: Timestamp,
}

/// A right that serving needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Right {
    kind: &'static str,
    object: &'static str,
    /// Empty, unless the right is only for a column.
    column: &'static str,
    action: &'static str,
}

impl PostgresStore {
    /// The rights that this role lacks, such as `INSERT (name) ON api_keys`.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn missing_rights(&self) -> Result<Vec<String>> {
        let rights: Vec<_> = RIGHTS.iter().flat_map(|text| rights(text)).collect();
        let column = |part: fn(&Right) -> &'static str| rights.iter().map(part).collect::<Vec<_>>();
        let missing = sqlx::query(
            "SELECT action || CASE col WHEN '' THEN '' ELSE ' (' || col || ')' END || ' ON ' || object
                    AS missing
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
                    AS wanted(kind, object, col, action)
              WHERE NOT coalesce(CASE
                  WHEN kind = 'DATABASE' THEN has_database_privilege(current_database(), action)
                  WHEN kind = 'SCHEMA' THEN has_schema_privilege(current_schema(), action)
                  WHEN kind = 'FUNCTION' THEN has_function_privilege(to_regprocedure(object), action)
                  WHEN col = '' THEN has_table_privilege(to_regclass(object), action)
                  ELSE has_column_privilege(to_regclass(object), col, action) END, false)",
        )
        .bind(column(|right| right.kind))
        .bind(column(|right| right.object))
        .bind(column(|right| right.column))
        .bind(column(|right| right.action));
        let missing = self.readers.fetch_all(missing).await?;
        missing
            .iter()
            .map(|row| rows::column(row, "missing"))
            .collect()
    }

    /// Reads what the server says of itself. Needs the rights of the service.
    ///
    /// # Errors
    ///
    /// The server does not answer, or a right is missing.
    pub async fn server(&self) -> Result<Server> {
        let server = sqlx::query(
            "SELECT current_setting('server_version') AS version,
                    current_setting('server_version_num')::int AS number,
                    current_user::text AS role,
                    pg_has_role(current_user, relowner, 'USAGE') AS owns_schema,
                    current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'
                        AS is_durable,
                    server_time() AS clock, time_floor AS floor
               FROM log_state, pg_class WHERE pg_class.oid = 'api_keys'::regclass",
        );
        let found = self.readers.fetch_all(server).await?;
        let row = rows::first(&found)?;
        let number: i32 = rows::column(row, "number")?;
        Ok(Server {
            version: rows::column(row, "version")?,
            is_supported: number >= OLDEST_VERSION,
            role: rows::column(row, "role")?,
            owns_schema: rows::column(row, "owns_schema")?,
            is_durable: rows::column(row, "is_durable")?,
            clock: rows::time(row, "clock")?,
            floor: rows::time(row, "floor")?,
        })
    }
}

/// The rights that a statement of [`RIGHTS`] grants. The statements are the one list of them, so that what
/// is granted and what is checked cannot differ.
fn rights(statement: &'static str) -> Vec<Right> {
    let granted = statement.strip_prefix("GRANT ").unwrap_or(statement);
    let granted = granted.strip_suffix(" TO {role}").unwrap_or(granted);
    let (actions, objects) = granted.split_once(" ON ").unwrap_or((granted, ""));
    let kinds = ["DATABASE", "SCHEMA", "FUNCTION"];
    let of_kind = |kind: &&str| objects.starts_with(*kind);
    let kind = kinds.into_iter().find(of_kind).unwrap_or("TABLE");
    let objects = objects.strip_prefix(kind).unwrap_or(objects).trim_start();
    let mut rights = Vec::new();
    for object in listed(objects) {
        for action in listed(actions) {
            let (action, columns) = action.split_once(" (").unwrap_or((action, ""));
            for column in columns.trim_end_matches(')').split(", ") {
                rights.push(Right {
                    kind,
                    object,
                    column,
                    action,
                });
            }
        }
    }
    rights
}

/// The parts of a list, whose commas in brackets separate nothing.
fn listed(text: &'static str) -> Vec<&'static str> {
    let mut depth = 0_i32;
    let parts = text.split(move |character| {
        depth += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        character == ',' && depth == 0
    });
    parts.map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_of_the_rights_is_understood() {
        for statement in RIGHTS {
            for right in rights(statement) {
                let words = "SELECT INSERT UPDATE DELETE CONNECT USAGE EXECUTE";
                assert!(
                    words.split(' ').any(|word| word == right.action),
                    "{right:?}"
                );
                let is_name = |text: &str| {
                    text.bytes()
                        .all(|b| b.is_ascii_lowercase() || b"_{}".contains(&b))
                };
                let name = right.object.split('(').next().unwrap_or_default();
                assert!(!name.is_empty() && is_name(name), "{right:?}");
                assert!(is_name(right.column), "{right:?}");
                assert_eq!(
                    right.kind == "FUNCTION",
                    right.object.ends_with(')'),
                    "{right:?}"
                );
            }
        }
        let granted = "GRANT INSERT, UPDATE (a, b) ON t TO {role}";
        let shown: Vec<_> = rights(granted)
            .iter()
            .map(|right| (right.action, right.column, right.object))
            .collect();
        assert_eq!(
            shown,
            [
                ("INSERT", "", "t"),
                ("UPDATE", "a", "t"),
                ("UPDATE", "b", "t")
            ]
        );
        assert_eq!(listed("f(text, uuid), g()"), ["f(text, uuid)", "g()"]);
    }
}
