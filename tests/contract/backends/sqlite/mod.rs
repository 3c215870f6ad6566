//! The embedded store: a database file in a temporary directory.

mod files;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use keyward_core::key::{Clock, Entropy};
use keyward_store::{OpenError, Store, TimeRepair};
use keyward_store_sqlite::SqliteStore;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

use crate::world::{Backend, ByHand, by_hand};

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

    async fn time_repair(
        &self,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Box<dyn TimeRepair> {
        let store = SqliteStore::open(&self.path(), clock, entropy).await;
        Box::new(store.unwrap())
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

    fn random_bytes(&self) -> (&'static str, &'static str) {
        ("randomblob(16)", "randomblob(32)")
    }

    fn tick(&self) -> &'static str {
        "1"
    }
}

by_hand!(SqliteConnection);
