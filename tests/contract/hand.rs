//! Manual SQL on the database of a store.

use async_trait::async_trait;

/// A connection for manual SQL.
#[async_trait]
pub(crate) trait ByHand: Send {
    /// Runs SQL. Returns the number of changed rows, or the error message.
    async fn run(&mut self, sql: &str) -> Result<u64, String>;

    /// Reads a query with one text column.
    async fn read(&mut self, sql: &str) -> Vec<String>;
}

/// Implements [`ByHand`] for a connection of sqlx.
macro_rules! by_hand {
    ($connection:ty) => {
        #[async_trait]
        impl ByHand for $connection {
            async fn run(&mut self, sql: &str) -> Result<u64, String> {
                let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(self).await;
                done.map(|done| done.rows_affected())
                    .map_err(|error| error.to_string())
            }

            async fn read(&mut self, sql: &str) -> Vec<String> {
                let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql));
                query.fetch_all(self).await.unwrap()
            }
        }
    };
}
pub(crate) use by_hand;
