//! The shared store: Postgres 15 or later, many instances. The triggers of `migrations/postgres`
//! write the log; here are connections that never carry half a transaction from one call to the
//! next, and the statements.

mod account;
mod audit;
mod ends;
mod failure;
mod gather;
mod hints;
mod keys;
mod link;
mod links;
mod log;
mod members;
mod migrate;
mod revoke;
mod rows;
mod tail_link;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgRow};

use gather::{Gather, READERS};
use hints::Hints;
use keyward_core::fence::Page;
use keyward_core::key::Clock;
use keyward_store::{OpenError, Result, Store, StoreError};
use link::{ANSWER, Connector, Link};
use links::{Links, Statement};
use revoke::Revoker;
use tail_link::TailLink;

pub use migrate::PostgresOwner;

/// Connections that write keys and tokens; two of them revoke.
const WRITERS: usize = 4;
/// Connections for what instances say of themselves and ask of each other.
const MEMBERS: usize = 2;
/// How long an answer is waited for that is a matter of microseconds: the statement waits for nobody.
const SOON: Duration = Duration::from_secs(3);
/// Lets a statement of a transaction take longer: one that is about very many rows.
const LONG: &str = "SET LOCAL statement_timeout = '115s'";
const LONG_ANSWER: Duration = Duration::from_secs(120);
/// How often a transaction is tried that was chosen as the victim of a deadlock.
const ATTEMPTS: usize = 8;

/// The shared store, as one instance has it.
pub struct PostgresStore {
    connector: Arc<Connector>,
    writers: Arc<Links>,
    readers: Arc<Links>,
    members: Arc<Links>,
    tail: TailLink,
    hints: Arc<Hints>,
    gather: Gather,
    revoker: Revoker,
    clock: Arc<dyn Clock>,
}

impl PostgresStore {
    /// Connects to the first of `hosts` that is a primary, on the current runtime. Refuses when
    /// none answers, when a timeline cannot be told, and when the schema lacks what this program
    /// needs. `max_staleness` is that of this instance: a heartbeat that takes a good part of it is
    /// given up.
    pub async fn open(
        hosts: &[PgConnectOptions],
        max_staleness: Duration,
        clock: Arc<dyn Clock>,
    ) -> std::result::Result<Self, OpenError> {
        let connector = Arc::new(Connector::new(hosts.to_vec(), Arc::clone(&clock)));
        let mut first = connector
            .open()
            .await
            .map_err(|failure| unreachable(&failure.error))?;
        migrate::check(&mut first).await?;
        first.close().await;
        let links = |most, limit| Links::new(Arc::clone(&connector), most, limit);
        let writers = Arc::new(links(WRITERS, ANSWER));
        let readers = Arc::new(links(READERS, SOON));
        let members = Arc::new(links(MEMBERS, SOON));
        let hints = Arc::new(Hints::start(&members));
        Ok(Self {
            gather: Gather::start(&readers),
            revoker: Revoker::start(&writers, &hints),
            members,
            hints,
            tail: TailLink::new(Arc::clone(&connector), max_staleness),
            writers,
            readers,
            connector,
            clock,
        })
    }

    /// Reads a page over the tail's own link.
    async fn on_tail(&self, statement: Statement) -> Result<Page> {
        let read = |found: &[PgRow], link: &Link| log::read_page(found, link);
        Ok(self.tail.run(statement, read).await?)
    }
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PostgresStore")
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn close(&self) {
        self.tail.close().await;
        self.members.close().await;
        self.readers.close().await;
        self.writers.close().await;
        self.hints.close().await;
    }
}

fn unreachable(error: &StoreError) -> OpenError {
    OpenError(match error {
        StoreError::Unavailable(why) => format!("no Postgres primary answers: {why}"),
        other => other.to_string(),
    })
}
