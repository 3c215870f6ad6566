//! Change notices between instances, by NOTIFY. They are sent after a commit and not by a trigger,
//! which would serialise commits. A notice may be lost: only heartbeats give freshness.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions, PgRow};
use tokio::sync::{Mutex, mpsc};

use super::connection::Connector;
use super::failure::{Failure, Kind};
use super::keys::{Lock, by_ids, by_ids_with_notice};
use super::pool::{Lease, Pool};
use keyward_core::key::KeyId;
use keyward_ops::{TIMELINE, Tasks};
use keyward_store::{ChangeNotice, OnCommit};

const CHANNEL: &str = "keyward_changes";
/// After this long without a notice, the instance sends one to itself. After the same time again
/// without a notice, it replaces the listener: a dead connection reports nothing by itself.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// The longest time for connecting a listener.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);

/// Sends and receives change notices.
pub(super) struct ChangeNotices {
    /// Full while a notice waits to be sent: that notice covers every commit before it.
    queue: mpsc::Sender<()>,
    connector: Arc<Connector>,
    listener: Mutex<Option<PgListener>>,
    on_commit: OnceLock<OnCommit>,
}

impl ChangeNotices {
    /// Starts the sender. It ends when this is dropped.
    pub(super) fn start(pool: &Arc<Pool>, connector: &Arc<Connector>, tasks: &Tasks) -> Self {
        let (queue, mut queued) = mpsc::channel(1);
        let pool = Arc::clone(pool);
        tasks.spawn("sender of change notices", async move {
            while queued.recv().await.is_some() {
                match notify(&pool).await {
                    Ok(()) => tracing::trace!(target: TIMELINE, "notified"),
                    Err(failure) => note_failure(&failure),
                }
            }
        });
        Self {
            queue,
            connector: Arc::clone(connector),
            listener: Mutex::default(),
            on_commit: OnceLock::new(),
        }
    }

    /// Tells all instances that something changed, without waiting.
    pub(super) fn send(&self) {
        self.run_on_commit();
        self.enqueue();
    }

    /// Tells all instances that something changed, over the connection that committed it, and reads keys
    /// in the same statement: a round trip of its own would delay the instances.
    pub(super) async fn send_and_read(
        &self,
        lease: &mut Lease<'_>,
        ids: &[KeyId],
    ) -> Result<Vec<PgRow>, Failure> {
        self.run_on_commit();
        match lease.fetch_all(by_ids_with_notice(ids, CHANNEL)).await {
            // The server refuses a notice while the queue of notices is full.
            Err(failure) if failure.kind == Kind::Refused => {
                note_failure(&failure);
                lease.fetch_all(by_ids(ids, Lock::None)).await
            }
            read => {
                tracing::trace!(target: TIMELINE, "notified");
                read
            }
        }
    }

    fn run_on_commit(&self) {
        if let Some(on_commit) = self.on_commit.get() {
            on_commit();
        }
    }

    /// Calls `on_commit` at each notice that is sent.
    pub(super) fn set_on_commit(&self, on_commit: OnCommit) {
        // The first one stays, as the contract says.
        let _ = self.on_commit.set(on_commit);
    }

    fn enqueue(&self) {
        // A full queue holds a notice already; a closed one belongs to a store that is closing.
        let _ = self.queue.try_send(());
    }

    /// Waits for a notice.
    pub(super) async fn next(&self) -> ChangeNotice {
        let mut slot = self.listener.lock().await;
        let received = match &mut *slot {
            Some(listener) => self.receive(listener).await,
            None => match tokio::time::timeout(LISTEN_LIMIT, listen(&self.connector)).await {
                Ok(Ok(listener)) => {
                    *slot = Some(listener);
                    // Notices before this moment were lost.
                    return ChangeNotice::Lost;
                }
                Ok(Err(failure)) => {
                    let error = failure.error;
                    tracing::debug!(%error, "cannot listen for change notices");
                    false
                }
                Err(_) => false,
            },
        };
        if received {
            return ChangeNotice::Changed;
        }
        *slot = None;
        ChangeNotice::Lost
    }

    /// Waits for a notice; `false` if notices may have been lost. Every other result counts as a
    /// loss, because the listener may have reconnected by itself.
    async fn receive(&self, listener: &mut PgListener) -> bool {
        for has_probed in [false, true] {
            match tokio::time::timeout(SILENCE_LIMIT, listener.try_recv()).await {
                Ok(received) => return matches!(received, Ok(Some(_))),
                Err(_) if has_probed => return false,
                Err(_) => self.enqueue(),
            }
        }
        false
    }

    pub(super) async fn close(&self) {
        *self.listener.lock().await = None;
    }
}

fn note_failure(failure: &Failure) {
    let error = &failure.error;
    tracing::debug!(%error, "a change notice was not sent; heartbeats read the change");
}

/// Sends a notice in a commit of its own, which need not be durable.
async fn notify(pool: &Pool) -> Result<(), Failure> {
    let statement = sqlx::query(
        "SELECT pg_notify($1, '') WHERE set_config('synchronous_commit', 'off', true) = 'off'",
    );
    pool.fetch_all(statement.bind(CHANNEL)).await.map(drop)
}

async fn listen(connector: &Connector) -> Result<PgListener, Failure> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(LISTEN_LIMIT)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(connector.current()?);
    let mut listener = PgListener::connect_with(&pool).await?;
    // An eager reconnection would hide lost notices.
    listener.eager_reconnect(false);
    // A server in recovery refuses LISTEN.
    listener.listen(CHANNEL).await?;
    Ok(listener)
}
