//! Lists of keys on Postgres. A filter may fit few of very many keys, so a call first finds how far it
//! looks.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::PostgresStore;
use super::pool::Statement;
use super::rows::{self, key_columns};
use keyward_store::{EXAMINED, KeyPage, ListKeys, Result};

/// The store's time, read once for a statement.
const NOW: &str = "(SELECT store_time())";

impl PostgresStore {
    pub(super) async fn list(&self, query: &ListKeys) -> Result<KeyPage> {
        let of_account = match query.account {
            Some(_) => "account_id = $1",
            None => "$1::text IS NULL",
        };
        let named = match query.name_prefix {
            Some(_) => r#"name COLLATE "C" >= $3 AND name COLLATE "C" < $4"#,
            None => "$3::text IS NULL AND $4::text IS NULL",
        };
        let examined = format!(
            "SELECT key_id FROM api_keys WHERE {of_account} AND {named} AND key_id > $2 AND {}
              ORDER BY key_id LIMIT 1 OFFSET {}",
            query.indexed_condition(),
            EXAMINED - 1
        );
        let bound = self.readers.fetch_optional(start(examined, query)).await?;
        let bound = bound.map(|row| rows::id(&row, "key_id")).transpose()?;
        let page = format!(
            "SELECT {} FROM api_keys AS k
              WHERE {of_account} AND {named} AND key_id > $2 AND key_id <= $5 AND {}
                AND ($6::interval IS NULL OR create_time <= {NOW} - $6)
                AND ($7::interval IS NULL OR {NOW} - $7 >=
                     coalesce((SELECT last_use FROM key_uses AS u WHERE u.key_id = k.key_id), create_time))
              ORDER BY key_id LIMIT $8",
            key_columns!(),
            query.state_condition(NOW),
        );
        let page = start(page, query)
            .bind(bound.map_or_else(Uuid::max, rows::uuid))
            .bind(query.older_than.map(rows::interval))
            .bind(query.unused_for.map(rows::interval))
            .bind(i64::from(query.limit));
        let found = self.readers.fetch_all(page).await?;
        let keys = found.iter().map(rows::key).collect::<Result<_>>()?;
        Ok(KeyPage::new(keys, query.limit, bound))
    }
}

/// A statement whose first parameters are the account, the start and the range of names. Its text is made
/// of constants.
fn start(text: String, query: &ListKeys) -> Statement {
    let account = query.account.as_ref();
    let prefix = query.name_prefix.as_ref();
    sqlx::query(AssertSqlSafe(text))
        .bind(account.map(|account| account.as_str().to_owned()))
        .bind(query.after.map_or_else(Uuid::nil, rows::uuid))
        .bind(prefix.map(|prefix| prefix.as_str().to_owned()))
        .bind(query.after_prefix())
}
