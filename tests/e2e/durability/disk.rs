//! What must hold in the database of a killed process.

use std::path::Path;

use keyward_testkit::sqlite;
use sqlx::SqliteConnection;

/// Each counts what must not be there.
const WRONG: &[(&str, &str)] = &[
    (
        "the log has a gap, or its head is not the counter",
        "SELECT (SELECT count(*) FROM key_changes) - 1 - max(revision)
              + min(revision) + (SELECT revision FROM log_head) - max(revision) FROM key_changes",
    ),
    (
        "a slot with two keys",
        "SELECT count(*) FROM (SELECT 1 FROM api_keys WHERE revoke_time IS NULL
          GROUP BY account_id, name HAVING count(*) > 1)",
    ),
    (
        "a changed key whose last change is not in the log",
        "SELECT count(*) FROM api_keys AS key WHERE revision > 0 AND NOT EXISTS
          (SELECT 1 FROM key_changes AS row
            WHERE row.revision = key.revision AND row.mark = key.mark AND row.key_id = key.key_id)",
    ),
    (
        "a revoked key without one row of its revocation in the log",
        "SELECT count(*) FROM api_keys AS key WHERE (revoke_time IS NOT NULL) IS NOT
          (SELECT count(*) FROM key_changes AS row
            WHERE row.key_id = key.key_id AND row.kind = 'revoke')",
    ),
    (
        "a successor that is named and not there",
        "SELECT count(*) FROM api_keys WHERE replaced_by IS NOT NULL
          AND replaced_by NOT IN (SELECT key_id FROM api_keys)",
    ),
    (
        "a key that is not once born in the audit",
        "SELECT count(*) FROM api_keys AS key WHERE 1 IS NOT
          (SELECT count(*) FROM audit WHERE action = 'issue' AND subject_id = key.key_id)",
    ),
    (
        "a successor whose birth does not name its predecessor",
        "SELECT count(*) FROM api_keys AS old JOIN audit ON subject_id = old.replaced_by
          WHERE action = 'issue' AND detail IS NULL",
    ),
    (
        "a revocation that is not once in the audit",
        "SELECT count(*) FROM api_keys AS key WHERE (revoke_time IS NOT NULL) IS NOT
          (SELECT count(*) FROM audit WHERE subject_id = key.key_id
            AND action = CASE WHEN key.replaced_by IS NULL THEN 'revoke' ELSE 'replace' END)",
    ),
    (
        "updates in the log and in the audit that differ",
        "SELECT (SELECT count(*) FROM key_changes WHERE kind = 'update')
              - (SELECT count(*) FROM audit WHERE action = 'update')",
    ),
    (
        "audit rows of nothing",
        "SELECT count(*) FROM audit WHERE action NOT IN ('keyring_activate', 'deny') AND (subject_id IS NULL OR subject_id NOT IN
          (SELECT key_id FROM api_keys UNION SELECT token_id FROM caller_tokens))",
    ),
];

/// Opens a copy, so that the next start finds the files as the kill left them.
async fn open_copy(data: &Path) -> (SqliteConnection, tempfile::TempDir) {
    let copy = tempfile::tempdir().unwrap();
    for name in ["keyward.db", "keyward.db-wal"] {
        if data.join(name).exists() {
            std::fs::copy(data.join(name), copy.path().join(name)).unwrap();
        }
    }
    (sqlite(&copy.path().join("keyward.db")).await, copy)
}

/// Only the copy has them: they make the checks of a long soak quick.
const INDEXES: &[&str] = &[
    "CREATE INDEX changes_of_key ON key_changes (key_id)",
    "CREATE INDEX predecessor ON api_keys (replaced_by)",
];

/// Panics if anything is not whole.
pub(crate) async fn check(data: &Path) {
    let (mut connection, _copy) = open_copy(data).await;
    for index in INDEXES {
        sqlx::query(*index).execute(&mut connection).await.unwrap();
    }
    let intact: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(intact, "ok");
    for (what, query) in WRONG {
        let found: i64 = sqlx::query_scalar(*query)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(found, 0, "{what}");
    }
}

/// How many callers' tokens there are.
pub(crate) async fn tokens(data: &Path) -> i64 {
    let (mut connection, _copy) = open_copy(data).await;
    sqlx::query_scalar("SELECT count(*) FROM caller_tokens")
        .fetch_one(&mut connection)
        .await
        .unwrap()
}
