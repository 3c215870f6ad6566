//! A store in memory, for tests and for the simulation. It keeps the whole contract of a shared
//! store: each call is one serializable transaction on a [`Server`], and the calls travel over a
//! [`Transport`], where a test can delay, lose and repeat them.
//!
//! `tests/contract` holds it equal to the real stores.

mod audit;
mod cluster;
mod database;
mod erase;
mod import;
mod keyring;
mod keys;
mod listing;
mod log;
mod outbox;
mod server;
mod tokens;
mod uses;

pub use database::{Database, LogRow};
pub use server::{Direct, Server, Transport};

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio::sync::Notify;

use keyward_core::key::Clock;
use keyward_store::{Cluster, OnCommit, Result, Store};
use server::Transaction;

/// The connections of one instance to a server.
pub struct MemoryStore<T> {
    session: Arc<Session<T>>,
}

/// The state that the clones of a connection share.
struct Session<T> {
    transport: Arc<T>,
    clock: Arc<dyn Clock>,
    /// Notified at each commit that changes something.
    notices: Arc<Notify>,
    /// Whether the listener has started. Earlier notices are lost.
    is_listening: AtomicBool,
    on_commit: OnceLock<OnCommit>,
}

impl<T: Transport> MemoryStore<T> {
    /// Connects over `transport`. The instance has the clock `clock`.
    pub fn open(transport: Arc<T>, clock: Arc<dyn Clock>) -> Self {
        let notices = Arc::new(Notify::new());
        transport.listen(&notices);
        Self {
            session: Arc::new(Session {
                transport,
                clock,
                notices,
                is_listening: AtomicBool::new(false),
                on_commit: OnceLock::new(),
            }),
        }
    }

    /// Runs a read: one snapshot of the database.
    async fn read<R: Send + 'static>(
        &self,
        call: &'static str,
        read: impl FnOnce(&mut Transaction<'_>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let statement = |server: &Server, ()| server.run(read);
        let transport = &self.session.transport;
        transport.carry(call, false, |_| Ok(()), statement).await
    }

    /// Runs a write: one transaction. If it changed a record, everybody gets a change notice.
    async fn write<R: Send + 'static>(
        &self,
        call: &'static str,
        write: impl FnOnce(&mut Transaction<'_>) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        self.write_after(call, |_| Ok(()), |tx, ()| write(tx)).await
    }

    /// Runs a write that may wait for a lock after it has read `snapshot`.
    async fn write_after<S: Send + 'static, R: Send + 'static>(
        &self,
        call: &'static str,
        snapshot: impl FnOnce(&mut Transaction<'_>) -> Result<S> + Send + 'static,
        write: impl FnOnce(&mut Transaction<'_>, S) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let snapshot = |server: &Server| server.run(snapshot);
        let statement = |server: &Server, snapshot| {
            server.run(|tx| {
                let before = tx.head();
                let answer = write(tx, snapshot)?;
                Ok((answer, tx.head() > before))
            })
        };
        let transport = &self.session.transport;
        let (answer, changed) = transport.carry(call, true, snapshot, statement).await?;
        if changed && let Some(on_commit) = self.session.on_commit.get() {
            on_commit();
        }
        Ok(answer)
    }
}

#[async_trait]
impl<T: Transport> Store for MemoryStore<T> {
    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        Some(Arc::new(self.clone()))
    }

    async fn close(&self) {}
}

impl<T> Clone for MemoryStore<T> {
    fn clone(&self) -> Self {
        let session = Arc::clone(&self.session);
        Self { session }
    }
}
