//! The shared store: Postgres 15 or later, for many instances. The triggers in
//! `migrations/postgres` write the log. No connection carries an unfinished transaction from one
//! call to the next.

mod audit;
mod change_notices;
mod cluster;
mod connection;
mod erase;
mod examine;
mod failure;
mod given_up;
mod graces;
mod import;
mod keyring;
mod keys;
mod listing;
mod locks;
mod log;
mod lookups;
mod migrate;
mod outbox;
mod pool;
mod revocations;
mod revoke;
mod rows;
mod selection;
mod tail_connection;
mod time_repair;
mod tokens;
mod uses;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use change_notices::ChangeNotices;
use cluster::PostgresCluster;
use connection::{ANSWER_LIMIT, Connector};
use keyward_core::key::Clock;
use keyward_ops::Tasks;
use keyward_store::{Cluster, OpenError, Store, StoreError};
use locks::Locks;
use pool::Pool;
use revoke::Revoker;
use tail_connection::TailConnection;

pub use connection::Hosts;
pub use examine::Server;
pub use migrate::PostgresOwner;

/// Connections that change keys and tokens, so that they wait for the log's counter. Two of them write
/// revocations.
const WRITERS: usize = 4;
/// Connections that write without the counter: new keys and tokens, audit entries.
const INSERTERS: usize = 2;
/// Connections that read.
const READERS: usize = 4;
/// Connections for the rows of instances.
const MEMBERS: usize = 2;
/// Connections that write the use of keys. Nobody waits for them.
const NOTERS: usize = 1;
/// How long a call waits for the answer to a statement that waits for no lock and takes
/// microseconds.
const SHORT_LIMIT: Duration = Duration::from_secs(3);
/// Allows a statement about very many rows more time, within its transaction.
const ALLOW_LONG_STATEMENT: &str = "SET LOCAL statement_timeout = '115s'";
/// How long a call waits for the answer to such a statement: longer than the server runs it.
const LONG_LIMIT: Duration = Duration::from_secs(120);
/// How often a transaction is attempted that becomes the victim of a deadlock.
const ATTEMPTS: usize = 8;

/// The shared store, from the side of one instance.
pub struct PostgresStore {
    writers: Arc<Pool>,
    inserters: Arc<Pool>,
    readers: Arc<Pool>,
    noters: Pool,
    cluster: Arc<PostgresCluster>,
    locks: Arc<Locks>,
    revoker: Revoker,
    clock: Arc<dyn Clock>,
}

impl PostgresStore {
    /// Connects to the first of `hosts` that is a primary. Fails if no primary answers, if a primary
    /// does not report its timeline, or if the schema lacks what this program needs. The timeout
    /// of a heartbeat is a part of `max_staleness`, that of this instance. The store runs as long
    /// as `tasks`.
    pub async fn open(
        hosts: &Hosts,
        max_staleness: Duration,
        clock: Arc<dyn Clock>,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let connector = Arc::new(Connector::new(hosts.clone(), Arc::clone(&clock)));
        let mut first = connector
            .open()
            .await
            .map_err(|failure| no_primary(&failure.error))?;
        migrate::check(&mut first).await?;
        first.close().await;
        let pool = |size, limit| Pool::new(Arc::clone(&connector), size, limit);
        let readers = Arc::new(pool(READERS, SHORT_LIMIT));
        let locks = Arc::new(Locks::new(Arc::clone(&readers), Arc::clone(&clock)));
        let writers = Arc::new(pool(WRITERS, ANSWER_LIMIT).with(&locks));
        let inserters = Arc::new(pool(INSERTERS, ANSWER_LIMIT).with(&locks));
        let members = Arc::new(pool(MEMBERS, SHORT_LIMIT));
        let noters = pool(NOTERS, SHORT_LIMIT);
        let notices = Arc::new(ChangeNotices::start(&members, &connector, tasks));
        Ok(Self {
            revoker: Revoker::start(&writers, &notices, &locks, tasks),
            cluster: Arc::new(PostgresCluster {
                members,
                tail: TailConnection::new(connector, max_staleness),
                notices,
            }),
            locks,
            writers,
            inserters,
            readers,
            noters,
            clock,
        })
    }

    /// Announces a commit to all instances.
    fn announce(&self) {
        self.cluster.notices.send();
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        Some(Arc::<PostgresCluster>::clone(&self.cluster))
    }

    async fn close(&self) {
        self.cluster.close().await;
        self.noters.close().await;
        self.readers.close().await;
        self.inserters.close().await;
        self.writers.close().await;
    }
}

fn no_primary(error: &StoreError) -> OpenError {
    OpenError(match error {
        StoreError::Unavailable(why) => format!(
            "no Postgres primary answers: {why}. Check that Postgres is running and reachable"
        ),
        other => other.to_string(),
    })
}
