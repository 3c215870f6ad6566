//! Lists of keys on Postgres. A filter may fit few of very many keys, so a call first finds how far it
//! looks.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::PostgresStore;
use super::pool::Statement;
use super::rows::{self, key_columns};
use keyward_core::key::KeyId;
use keyward_store::{EXAMINED, KeyPage, ListKeys, Result};

/// The store's time, read once for a statement.
const NOW: &str = "(SELECT store_time())";
/// The condition that a name is in a range.
macro_rules! named {
    ($from:literal, $to:literal) => {
        concat!(
            r#"name COLLATE "C" >= "#,
            $from,
            r#" AND name COLLATE "C" < "#,
            $to
        )
    };
}

impl PostgresStore {
    pub(super) async fn list(&self, query: &ListKeys) -> Result<KeyPage> {
        let named = self.few_named(query).await?;
        let bound = match named {
            Some(_) => None,
            None => self.bound(query).await?,
        };
        // With the other conditions beside its range, the planner may look for the keys of a small account
        // among all keys.
        let (examined, order) = match query.account {
            Some(_) => (
                format!(
                    "(SELECT * FROM api_keys
                       WHERE (account_id, key_id) > ($1, $2) AND (account_id, key_id) <= ($1, $3)
                       ORDER BY account_id, key_id LIMIT {EXAMINED}) AS k WHERE true"
                ),
                "account_id, key_id",
            ),
            None => (
                "api_keys AS k WHERE $1::text IS NULL AND key_id > $2 AND key_id <= $3".to_owned(),
                "key_id",
            ),
        };
        let of_name = match (&named, &query.name_prefix) {
            (Some(_), _) => "key_id = ANY($8)",
            (None, Some(_)) => named!("$6", "$7"),
            (None, None) => "true",
        };
        let page = format!(
            "SELECT {} FROM {examined} AND {of_name} AND {}
                AND ($4::interval IS NULL OR create_time <= {NOW} - $4)
                AND ($5::interval IS NULL OR {NOW} - $5 >=
                     coalesce((SELECT last_use FROM key_uses AS u WHERE u.key_id = k.key_id), create_time))
                AND ($6::text IS NULL OR $7::text IS NOT NULL) AND ($8::uuid[] IS NULL OR true)
              ORDER BY {order} LIMIT $9",
            key_columns!(),
            query.state_condition(NOW),
        );
        let prefix = query.name_prefix.as_ref();
        let page = start(page, query)
            .bind(bound.map_or_else(Uuid::max, rows::uuid))
            .bind(query.older_than.map(rows::interval))
            .bind(query.unused_for.map(rows::interval))
            .bind(prefix.map(|prefix| prefix.as_str().to_owned()))
            .bind(query.after_prefix())
            .bind(named)
            .bind(i64::from(query.limit));
        let found = self.readers.fetch_all(page).await?;
        let keys = found.iter().map(rows::read).collect::<Result<_>>()?;
        Ok(KeyPage::new(keys, query.limit, bound))
    }

    /// The last of the keys that this call examines; `None` if it examines all.
    async fn bound(&self, query: &ListKeys) -> Result<Option<KeyId>> {
        // The range and the order of an index. An equality could have the order of another one.
        let (after, order) = match query.account {
            Some(_) => (
                "(account_id, key_id) > ($1, $2) AND account_id <= $1",
                "account_id, key_id",
            ),
            None => ("$1::text IS NULL AND key_id > $2", "key_id"),
        };
        let examined = format!(
            "SELECT key_id FROM api_keys WHERE {after} AND {} ORDER BY {order} LIMIT 1 OFFSET {}",
            query.indexed_condition(),
            EXAMINED - 1
        );
        let bound = self.readers.fetch_optional(start(examined, query)).await?;
        bound.map(|row| rows::id(&row, "key_id")).transpose()
    }

    /// Of a list of all accounts: the keys with the wanted prefix, if they are few. The planner does not know
    /// how few they are: it would rather read all keys in the order of their ids.
    async fn few_named(&self, query: &ListKeys) -> Result<Option<Vec<Uuid>>> {
        let (None, Some(prefix)) = (&query.account, &query.name_prefix) else {
            return Ok(None);
        };
        let statement = sqlx::query(concat!(
            "SELECT key_id FROM api_keys WHERE ",
            named!("$1", "$2"),
            r#" ORDER BY name COLLATE "C", key_id LIMIT $3"#
        ));
        let statement = statement
            .bind(prefix.as_str().to_owned())
            .bind(query.after_prefix())
            .bind(i64::from(EXAMINED));
        let found = self.readers.fetch_all(statement).await?;
        let are_few = i64::try_from(found.len()).is_ok_and(|count| count < i64::from(EXAMINED));
        let ids = found.iter().map(|row| rows::column(row, "key_id"));
        are_few.then(|| ids.collect()).transpose()
    }
}

/// A statement whose first parameters are the account and the start. Its text is made of constants.
fn start(text: String, query: &ListKeys) -> Statement {
    let account = query.account.as_ref();
    sqlx::query(AssertSqlSafe(text))
        .bind(account.map(|account| account.as_str().to_owned()))
        .bind(query.after.map_or_else(Uuid::nil, rows::uuid))
}
