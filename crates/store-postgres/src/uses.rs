//! The use of keys on Postgres. It is written on a connection of its own, so that nothing else waits for it.

use async_trait::async_trait;
use uuid::Uuid;

use super::failure::Failure;
use super::{PostgresStore, rows};
use keyward_core::key::{KeyId, KeyUse, Timestamp};
use keyward_store::{Result, Usage, raw};

/// Instances write in the order of the ids, which avoids deadlocks. The commit need not be durable.
const NOTE: &str = "
    INSERT INTO key_uses AS u (key_id, last_use, refused_count, last_refused)
    SELECT key_id, CASE WHEN last_use > now THEN now ELSE last_use END, refused,
           CASE WHEN last_refused > now THEN now ELSE last_refused END
      FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::timestamptz[])
               AS noted(key_id, last_use, refused, last_refused)
     CROSS JOIN (SELECT store_time() AS now
                  WHERE set_config('synchronous_commit', 'off', true) = 'off') AS clock
     WHERE EXISTS (SELECT FROM api_keys AS k WHERE k.key_id = noted.key_id)
     ORDER BY key_id
        ON CONFLICT (key_id) DO UPDATE
       SET last_use = greatest(u.last_use, excluded.last_use),
           refused_count = u.refused_count + excluded.refused_count,
           last_refused = greatest(u.last_refused, excluded.last_refused)";

#[async_trait]
impl Usage for PostgresStore {
    async fn note_uses(&self, uses: &[(KeyId, KeyUse)]) -> Result<()> {
        let times = |of: fn(&KeyUse) -> Option<Timestamp>| {
            let times = uses.iter().map(|(_, usage)| of(usage).map(rows::instant));
            times.map(Option::transpose).collect::<Result<Vec<_>>>()
        };
        let ids: Vec<_> = uses.iter().map(|(id, _)| rows::uuid(*id)).collect();
        let refused = uses.iter().map(|(_, usage)| raw::parameter(usage.refused));
        let statement = sqlx::query(NOTE)
            .bind(ids)
            .bind(times(|usage| usage.last_use)?)
            .bind(refused.collect::<Result<Vec<_>, _>>()?)
            .bind(times(|usage| usage.last_refused)?);
        let noted = self.noters.fetch_all(statement).await;
        Ok(noted.map(drop).map_err(Failure::of_a_commit)?)
    }

    async fn uses_of(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, KeyUse)>> {
        let ids: Vec<Uuid> = ids.iter().map(|id| rows::uuid(*id)).collect();
        let statement = sqlx::query(
            "SELECT key_id, last_use, refused_count, last_refused FROM key_uses
              WHERE key_id = ANY($1)",
        );
        let found = self.readers.fetch_all(statement.bind(ids)).await?;
        found.iter().map(rows::read).collect()
    }
}
