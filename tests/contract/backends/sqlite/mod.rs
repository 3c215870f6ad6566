//! The embedded store: a database file in a temporary directory.

mod files;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use keyward_core::key::{Clock, Entropy};
use keyward_store::{OpenError, Store};
use keyward_store_sqlite::SqliteStore;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};

use crate::world::{Backend, ByHand};

/// A temporary directory with one database.
pub(crate) struct Sqlite {
    directory: tempfile::TempDir,
}

pub(crate) async fn fresh() -> Sqlite {
    Sqlite {
        directory: tempfile::tempdir().unwrap(),
    }
}

impl Sqlite {
    fn path(&self) -> PathBuf {
        self.directory.path().join("keyward.db")
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn open(
        &self,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Result<Arc<dyn Store>, OpenError> {
        Ok(Arc::new(
            SqliteStore::open(&self.path(), clock, entropy).await?,
        ))
    }

    async fn connect(&self) -> Box<dyn ByHand> {
        let options = SqliteConnectOptions::new().filename(self.path());
        Box::new(options.connect().await.unwrap())
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex::encode(bytes))
    }

    fn time(&self, micros: i64) -> String {
        micros.to_string()
    }

    fn tick(&self) -> &'static str {
        "1"
    }
}

#[async_trait]
impl ByHand for SqliteConnection {
    async fn run(&mut self, sql: &str) -> Result<u64, String> {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(self)
            .await
            .map(|done| done.rows_affected())
            .map_err(|error| error.to_string())
    }

    async fn read(&mut self, sql: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_all(self)
            .await
            .unwrap()
    }
}
