//! The server of a database in memory, and the way of a call to it.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::database::Database;
use keyward_core::key::{Clock, Entropy, Timestamp};
use keyward_store::Result;

/// Carries calls from one instance to the server. A test's transport decides what the network and the
/// server do to a call.
pub trait Transport: Send + Sync + 'static {
    /// Carries one call. `statement` runs at the server, as one transaction; it may run after the
    /// caller has given up, or never. `writes` says whether it commits a change.
    ///
    /// `snapshot` runs when the call reaches the server. `statement` may run much later, because it waits
    /// for a lock: a statement of a real server keeps its snapshot while it waits.
    fn carry<S: Send + 'static, R: Send + 'static>(
        &self,
        call: &'static str,
        writes: bool,
        snapshot: impl FnOnce(&Server) -> Result<S> + Send + 'static,
        statement: impl FnOnce(&Server, S) -> Result<R> + Send + 'static,
    ) -> impl Future<Output = Result<R>> + Send;

    /// Carries one change notice. Returns whether it arrives.
    fn carry_notice(&self) -> impl Future<Output = bool> + Send;

    /// Has the server notify `listener` from now on.
    fn listen(&self, listener: &Arc<Notify>);
}

/// The transport without faults.
#[derive(Debug)]
pub struct Direct(pub Arc<Server>);

impl Transport for Direct {
    async fn carry<S: Send + 'static, R: Send + 'static>(
        &self,
        _: &'static str,
        _: bool,
        snapshot: impl FnOnce(&Server) -> Result<S> + Send + 'static,
        statement: impl FnOnce(&Server, S) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let snapshot = snapshot(&self.0)?;
        statement(&self.0, snapshot)
    }

    async fn carry_notice(&self) -> bool {
        true
    }

    fn listen(&self, listener: &Arc<Notify>) {
        self.0.listen(listener);
    }
}

/// A server with one database.
pub struct Server {
    database: Mutex<Database>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    listeners: Mutex<Vec<Arc<Notify>>>,
}

impl Server {
    /// A server with `database`. Its time comes from the wall clock of `clock`.
    pub fn new(database: Database, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            database: Mutex::new(database),
            clock,
            entropy,
            listeners: Mutex::default(),
        }
    }

    /// A copy of the database, as a standby or a backup holds it.
    pub fn copy(&self) -> Database {
        self.database.lock().clone()
    }

    /// Reads the database.
    pub fn look<R>(&self, read: impl FnOnce(&Database) -> R) -> R {
        read(&self.database.lock())
    }

    /// Changes the database from outside, as a failover, a restore or an operator does.
    pub fn alter<R>(&self, change: impl FnOnce(&mut Database) -> R) -> R {
        change(&mut self.database.lock())
    }

    /// The store's time. It falls with the clock, but not below the floor.
    pub fn now(&self) -> Timestamp {
        self.database.lock().time_floor.max(self.clock.wall())
    }

    /// Runs one transaction. Statements check everything before they change anything, so a failed one
    /// has changed nothing.
    pub fn run<R>(&self, work: impl FnOnce(&mut Transaction<'_>) -> Result<R>) -> Result<R> {
        let mut database = self.database.lock();
        let before = database.head();
        let clock_time = self.clock.wall();
        let now = database.time_floor.max(clock_time);
        let entropy = &*self.entropy;
        let answer = work(&mut Transaction {
            database: &mut database,
            now,
            clock_time,
            entropy,
        });
        let changed = database.head() > before;
        drop(database);
        if changed {
            let listeners = self.listeners.lock();
            listeners.iter().for_each(|listener| listener.notify_one());
        }
        answer
    }

    /// Notifies `listener` at each commit that changes a record.
    pub fn listen(&self, listener: &Arc<Notify>) {
        self.listeners.lock().push(Arc::clone(listener));
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server(head {})", self.database.lock().head())
    }
}

/// One transaction on the database.
pub struct Transaction<'s> {
    pub(crate) database: &'s mut Database,
    /// The store's time in this transaction.
    pub(crate) now: Timestamp,
    /// The time of the server's clock.
    pub(crate) clock_time: Timestamp,
    pub(crate) entropy: &'s dyn Entropy,
}

impl Transaction<'_> {
    /// The last revision of the log.
    pub fn head(&self) -> u64 {
        self.database.head()
    }

    /// The store's time.
    pub fn now(&self) -> Timestamp {
        self.now
    }
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transaction(head {})", self.head())
    }
}
