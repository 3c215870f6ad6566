//! The shared store: a new database for each case, on one private server. The cases control the
//! time: `server_time()` of the database reads it from a file that the test's clock writes.

mod audit;
mod commits;
mod drops;
mod keyring;
mod locks;
mod members;
mod plans;
mod pooler;
mod refusals;
mod rights;
mod schema;
mod start;
mod time_floor;
mod writes;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyward::system::SystemClock;
use keyward_core::key::{Clock, Entropy};
use keyward_ops::Tasks;
use keyward_store::{OpenError, Store, TimeRepair};
use keyward_store_postgres::{Hosts, PostgresOwner, PostgresStore};
use keyward_testkit::{Database, Postgres as Server};
use sqlx::PgConnection;

use crate::doubles::ManualClock;
use crate::world::{Backend, ByHand, by_hand};

/// The `max_staleness` of the store's instance.
const STALENESS: Duration = Duration::from_secs(2);
const SERVICE: &str = "keyward_service";

/// A database with its schema, and a directory for the clock.
pub(crate) struct Postgres {
    database: Database,
    directory: tempfile::TempDir,
    tasks: Tasks,
}

/// An empty database.
async fn empty() -> Database {
    Server::shared().fresh_database("contract").await
}

fn hosts(urls: &[&str]) -> Hosts {
    Hosts {
        options: urls.iter().map(|url| url.parse().unwrap()).collect(),
        password_file: None,
        failover_loses_nothing: false,
    }
}

async fn connect_owner(url: &str) -> Result<PostgresOwner, OpenError> {
    PostgresOwner::connect(&hosts(&[url]), Arc::new(SystemClock)).await
}

/// A connection as the owner.
async fn owner(database: &Database) -> PostgresOwner {
    connect_owner(&database.owner_url()).await.unwrap()
}

pub(crate) async fn fresh() -> Postgres {
    let database = empty().await;
    owner(&database).await.migrate(Some(SERVICE)).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    // The server runs as another user and must read the clock's file.
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    Postgres {
        database,
        directory,
        tasks: Tasks::default(),
    }
}

impl Postgres {
    async fn open_store(&self, clock: Arc<dyn Clock>) -> Result<PostgresStore, OpenError> {
        let url = self.database.service_url();
        PostgresStore::open(&hosts(&[&url]), STALENESS, clock, &self.tasks).await
    }
}

#[async_trait]
impl Backend for Postgres {
    async fn open(
        &self,
        clock: Arc<dyn Clock>,
        _: &dyn Entropy,
    ) -> Result<Arc<dyn Store>, OpenError> {
        let file = self.directory.path().join("clock");
        let time = format!(
            "CREATE OR REPLACE FUNCTION server_time() RETURNS timestamptz
             LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
                 SELECT 'epoch'::timestamptz + (shown / 1000000) * interval '1 second'
                        + (shown % 1000000) * interval '1 microsecond'
                   FROM (SELECT pg_read_file('{}')::bigint AS shown) AS clock
             $$;
             ALTER FUNCTION server_time() OWNER TO postgres",
            file.display()
        );
        self.database.execute(&time).await;
        Ok(Arc::new(self.open_store(clock).await?))
    }

    async fn connect(&self) -> Box<dyn ByHand> {
        Box::new(Server::connect(&self.database.superuser_url()).await)
    }

    async fn time_repair(&self, _: Arc<dyn Clock>, _: &dyn Entropy) -> Box<dyn TimeRepair> {
        Box::new(owner(&self.database).await)
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        match uuid::Uuid::from_slice(bytes) {
            Ok(id) => format!("'{id}'::uuid"),
            Err(_) => format!("'\\x{}'::bytea", hex::encode(bytes)),
        }
    }

    fn time(&self, micros: i64) -> String {
        format!("'epoch'::timestamptz + {micros} * {}", self.tick())
    }

    fn random_bytes(&self) -> (&'static str, &'static str) {
        ("gen_random_uuid()", "sha256(uuid_send(gen_random_uuid()))")
    }

    fn tick(&self) -> &'static str {
        "interval '1 microsecond'"
    }

    fn follow(&self, clock: &ManualClock) {
        clock.show_in(self.directory.path().join("clock"));
    }
}

by_hand!(PgConnection);
