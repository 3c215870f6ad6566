//! The end of graces on Postgres.

use super::failure::Failure;
use super::{PostgresStore, rows};

/// Revokes at most 500 keys and 500 tokens whose grace has ended; with a time as the parameter all
/// graces, at that time at the latest. Skips locked rows: a later step takes them. Locks the rows in the
/// order of their ids, which avoids deadlocks.
pub(super) const END_GRACES: &str = "
WITH ended_keys AS MATERIALIZED (
         SELECT key_id FROM api_keys
          WHERE NOT revoked AND revoke_time IS NOT NULL
            AND revoke_time <= (SELECT CASE WHEN $1::timestamptz IS NULL THEN store_time()
                                            ELSE 'infinity' END)
          ORDER BY revoke_time LIMIT 500
     ), locked_keys AS MATERIALIZED (
         SELECT k.key_id FROM api_keys AS k JOIN ended_keys USING (key_id)
          ORDER BY k.key_id FOR UPDATE OF k SKIP LOCKED
     ), revoked_keys AS (
         UPDATE api_keys AS k
            SET revoked = true, revoke_time = least(k.revoke_time, $1), changed_by = 'keyward'
           FROM locked_keys AS l WHERE k.key_id = l.key_id AND NOT k.revoked
         RETURNING k.key_id
     ), ended_tokens AS MATERIALIZED (
         SELECT token_id FROM caller_tokens
          WHERE NOT revoked AND revoke_time IS NOT NULL
            AND revoke_time <= (SELECT CASE WHEN $1::timestamptz IS NULL THEN store_time()
                                            ELSE 'infinity' END)
          ORDER BY revoke_time LIMIT 500
     ), locked_tokens AS MATERIALIZED (
         SELECT t.token_id FROM caller_tokens AS t JOIN ended_tokens USING (token_id)
          ORDER BY t.token_id FOR UPDATE OF t SKIP LOCKED
     ), revoked_tokens AS (
         UPDATE caller_tokens AS t
            SET revoked = true, revoke_time = least(t.revoke_time, $1), changed_by = 'keyward'
           FROM locked_tokens AS l WHERE t.token_id = l.token_id AND NOT t.revoked
         RETURNING t.token_id
     )
SELECT (SELECT count(*) FROM revoked_keys) + (SELECT count(*) FROM revoked_tokens) AS changed";

impl PostgresStore {
    /// One step. It is one statement and its own transaction, and writes nothing if no grace has ended.
    pub(super) async fn try_end_graces(&self) -> Result<u64, Failure> {
        let statement = sqlx::query(END_GRACES).bind(None::<time::OffsetDateTime>);
        let mut lease = self.writers.lease().await?;
        let ended = lease.fetch_one(statement).await;
        let ended = ended.map_err(Failure::of_a_commit)?;
        lease.done();
        Ok(rows::revision(&ended, "changed")?)
    }
}
