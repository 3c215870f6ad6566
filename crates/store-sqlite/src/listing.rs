//! Lists of keys on SQLite. The newest keys may be very many, so a call first finds how far it looks.

use sqlx::AssertSqlSafe;

use super::rows::{self, Columns, key_columns};
use super::{SqliteStore, Statement, store_error};
use keyward_store::rows::Row as _;
use keyward_store::{EXAMINED, KeyPage, ListKeys, Result, raw};

/// The store's time. Parameter 3 is that of this process.
const NOW: &str = "max((SELECT newest FROM store_clock), ?3)";
/// After the ids of all keys.
const END: [u8; 16] = [0xff; 16];

impl SqliteStore {
    pub(super) async fn list(&self, query: &ListKeys) -> Result<KeyPage> {
        let of_account = match query.account {
            Some(_) => "account_id = ?1",
            None => "?1 IS NULL",
        };
        let examined = format!(
            "SELECT key_id FROM api_keys WHERE {of_account} AND key_id > ?2 AND {}
              ORDER BY key_id LIMIT 1 OFFSET {}",
            query.indexed_condition(),
            EXAMINED - 1
        );
        let bound = start(examined, query).fetch_optional(&self.readers).await;
        let bound = match bound.map_err(store_error)? {
            Some(row) => Some(Columns(&row).id("key_id")?),
            None => None,
        };
        let page = format!(
            "SELECT {} FROM api_keys AS k
              WHERE {of_account} AND key_id > ?2 AND key_id <= ?4 AND {}
                AND (?5 IS NULL OR create_time <= {NOW} - ?5)
                AND (?6 IS NULL OR {NOW} - ?6 >=
                     coalesce((SELECT last_use FROM key_uses AS u WHERE u.key_id = k.key_id), create_time))
                AND (?7 IS NULL OR (name >= ?7 AND name < ?8))
              ORDER BY key_id LIMIT ?9",
            key_columns!(),
            query.state_condition(NOW),
        );
        let prefix = query.name_prefix.as_ref();
        let found = start(page, query)
            .bind(self.now().as_micros())
            .bind(bound.map_or_else(|| END.to_vec(), rows::id))
            .bind(query.older_than.map(raw::micros))
            .bind(query.unused_for.map(raw::micros))
            .bind(prefix.map(|prefix| prefix.as_str().to_owned()))
            .bind(query.after_prefix())
            .bind(query.limit);
        Ok(KeyPage::new(
            self.read_all(found).await?,
            query.limit,
            bound,
        ))
    }
}

/// A statement whose first parameters are the account and the start. Its text is made of constants.
fn start(text: String, query: &ListKeys) -> Statement {
    let account = query.account.as_ref();
    sqlx::query(AssertSqlSafe(text))
        .bind(account.map(|account| account.as_str().to_owned()))
        .bind(query.after.map_or_else(Vec::new, rows::id))
}
