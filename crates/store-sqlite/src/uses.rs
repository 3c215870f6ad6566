//! The use of keys on SQLite: one statement writes that of many keys, so that it holds the writer's
//! connection for few milliseconds.

use async_trait::async_trait;

use super::{SqliteStore, rows};
use keyward_core::key::{KeyId, KeyUse, Timestamp};
use keyward_store::{Result, Usage};

/// Parameter 1 is a JSON array of ids in hexadecimal with their use, parameter 2 the store's time.
const NOTE: &str = "
    INSERT INTO key_uses (key_id, last_use, refused_count, last_refused)
    SELECT k.key_id, min(value ->> 1, ?2), value ->> 2, min(value ->> 3, ?2)
      FROM json_each(?1) CROSS JOIN api_keys AS k ON k.key_id = unhex(value ->> 0)
     WHERE true
        ON CONFLICT (key_id) DO UPDATE
       SET last_use = coalesce(max(last_use, excluded.last_use), last_use, excluded.last_use),
           refused_count = refused_count + excluded.refused_count,
           last_refused = coalesce(max(last_refused, excluded.last_refused),
                                   last_refused, excluded.last_refused)";

#[async_trait]
impl Usage for SqliteStore {
    async fn note_uses(&self, uses: &[(KeyId, KeyUse)]) -> Result<()> {
        let micros = |time: Option<Timestamp>| time.map(Timestamp::as_micros);
        let uses: Vec<_> = uses
            .iter()
            .map(|(id, of)| {
                (
                    hex(*id),
                    micros(of.last_use),
                    of.refused,
                    micros(of.last_refused),
                )
            })
            .collect();
        let mut tx = self.write().await?;
        let note = sqlx::query(NOTE).bind(rows::to_json(&uses)?);
        tx.execute(note.bind(tx.now.as_micros())).await?;
        tx.commit().await
    }

    async fn uses_of(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, KeyUse)>> {
        let ids: Vec<_> = ids.iter().copied().map(hex).collect();
        let found = sqlx::query(
            "SELECT key_id, last_use, refused_count, last_refused
               FROM json_each(?) CROSS JOIN key_uses ON key_id = unhex(value)",
        );
        self.read_all(found.bind(rows::to_json(&ids)?)).await
    }
}

fn hex(id: KeyId) -> String {
    format!("{:032x}", u128::from_be_bytes(*id.as_bytes()))
}
