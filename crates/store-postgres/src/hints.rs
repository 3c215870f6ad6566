//! Hints between instances, by NOTIFY: after a commit, never in a trigger, where they would serialise
//! commits. They may be lost; the heartbeat is the truth.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::{Mutex, mpsc};

use super::failure::Failure;
use super::link::Connector;
use super::links::Links;
use keyward_store::{ChangeNotice, OnCommit};

const CHANNEL: &str = "keyward_changes";
/// How long nothing is heard before this instance hints to itself; after as long again in
/// silence the listener is made anew. A connection into a black hole says nothing by itself.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a new listener may take.
const LISTEN: Duration = Duration::from_secs(2);

/// Sends hints and hears them.
pub(super) struct Hints {
    /// Full when a hint is waiting to be sent: that one will do.
    pending: mpsc::Sender<()>,
    listener: Mutex<Option<PgListener>>,
    on_commit: OnceLock<OnCommit>,
}

impl Hints {
    /// Starts to send over `links`, on the current runtime; that ends when this is dropped.
    pub(super) fn start(links: &Arc<Links>) -> Self {
        let (pending, mut due) = mpsc::channel(1);
        let links = Arc::clone(links);
        tokio::spawn(async move {
            while due.recv().await.is_some() {
                if let Err(failure) = notify(&links).await {
                    tracing::debug!(error = %failure.error, "a hint was not sent; the beats will do");
                }
            }
        });
        Self {
            pending,
            listener: Mutex::default(),
            on_commit: OnceLock::new(),
        }
    }

    /// Hints to all instances that something has changed, without waiting for it.
    pub(super) fn give(&self) {
        if let Some(on_commit) = self.on_commit.get() {
            on_commit();
        }
        self.notify();
    }

    /// Gives each hint by `on_commit` as well.
    pub(super) fn also_by(&self, on_commit: OnCommit) {
        // Only the first one counts.
        let _ = self.on_commit.set(on_commit);
    }

    fn notify(&self) {
        // Full: one is waiting. Closed: nobody serves any more.
        let _ = self.pending.try_send(());
    }

    /// Waits for a hint.
    pub(super) async fn hear(&self, connector: &Connector) -> ChangeNotice {
        let mut listener = self.listener.lock().await;
        let heard = match &mut *listener {
            Some(listening) => self.listen(listening).await,
            None => match tokio::time::timeout(LISTEN, new_listener(connector)).await {
                Ok(Ok(listening)) => {
                    *listener = Some(listening);
                    // Whatever was said before it listened was not heard.
                    return ChangeNotice::Lost;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no listener for hints");
                    false
                }
                Err(_) => false,
            },
        };
        if heard {
            return ChangeNotice::Changed;
        }
        *listener = None;
        ChangeNotice::Lost
    }

    /// Waits for a hint; `false` when some may have been lost. Anything but a hint is a loss: the
    /// listener's own reconnection may have missed some.
    async fn listen(&self, listener: &mut PgListener) -> bool {
        for waited in [false, true] {
            match tokio::time::timeout(SILENCE, listener.try_recv()).await {
                Ok(received) => return matches!(received, Ok(Some(_))),
                Err(_) if waited => return false,
                Err(_) => self.notify(),
            }
        }
        false
    }

    pub(super) async fn close(&self) {
        *self.listener.lock().await = None;
    }
}

/// A hint has a commit of its own, which nobody need wait for.
async fn notify(links: &Links) -> Result<(), Failure> {
    let statement = sqlx::query(
        "SELECT pg_notify($1, '') WHERE set_config('synchronous_commit', 'off', true) = 'off'",
    );
    let mut lease = links.lease().await?;
    lease.execute(statement.bind(CHANNEL)).await?;
    lease.done();
    Ok(())
}

async fn new_listener(connector: &Connector) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(LISTEN)
        .max_lifetime(None)
        .idle_timeout(None)
        .connect_lazy_with(connector.current());
    let mut listener = PgListener::connect_with(&pool).await?;
    // An eager reconnection would hide that it was away.
    listener.eager_reconnect(false);
    // A server that is in recovery refuses this.
    listener.listen(CHANNEL).await?;
    Ok(listener)
}
