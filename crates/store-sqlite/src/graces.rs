//! The end of graces on SQLite.

use super::{SqliteStore, store_error};
use keyward_core::key::Timestamp;
use keyward_store::Result;

/// The number of graces that have ended.
const COUNT: &str = "
SELECT (SELECT count(*) FROM api_keys
         WHERE revoked = 0 AND revoke_time IS NOT NULL AND revoke_time <= ?1)
     + (SELECT count(*) FROM caller_tokens
         WHERE revoked = 0 AND revoke_time IS NOT NULL AND revoke_time <= ?1)";
/// Revokes at most 500 keys or tokens whose grace has ended at `?1`, at `?2` at the latest.
const END: [&str; 2] = [
    "UPDATE api_keys
        SET revoked = 1, revoke_time = min(revoke_time, ?2), changed_by = 'keyward'
      WHERE key_id IN (SELECT key_id FROM api_keys
                        WHERE revoked = 0 AND revoke_time IS NOT NULL AND revoke_time <= ?1
                        LIMIT 500)",
    "UPDATE caller_tokens
        SET revoked = 1, revoke_time = min(revoke_time, ?2), changed_by = 'keyward'
      WHERE token_id IN (SELECT token_id FROM caller_tokens
                          WHERE revoked = 0 AND revoke_time IS NOT NULL AND revoke_time <= ?1
                          LIMIT 500)",
];

impl SqliteStore {
    /// One step: revokes keys and tokens whose grace ends at `end` or before. Their `revoke_time` becomes
    /// `latest` at the latest. Writes nothing if no grace has ended.
    pub(super) async fn end_graces_until(&self, end: Timestamp, latest: Timestamp) -> Result<u64> {
        let count: i64 = sqlx::query_scalar(COUNT)
            .bind(end.as_micros())
            .fetch_one(&self.readers)
            .await
            .map_err(store_error)?;
        if count == 0 {
            return Ok(0);
        }
        let mut tx = self.write().await?;
        let mut ended = 0;
        for statement in END {
            let statement = sqlx::query(statement)
                .bind(end.as_micros())
                .bind(latest.as_micros());
            ended += tx.execute(statement).await?;
        }
        tx.commit().await?;
        Ok(ended)
    }
}
