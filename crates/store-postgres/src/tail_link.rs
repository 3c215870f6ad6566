//! The tail's own link: reads under load must not make the instance stale. A heartbeat that hangs is
//! given up: its connection is closed, and its backend, which may still hold the instance's row,
//! is ended as soon as a server can be asked to.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::Mutex;

use super::failure::{Failure, Kind};
use super::link::{Backend, Connector, Link, within};
use super::links::Statement;

/// The one link of the tail.
pub(super) struct TailLink {
    connector: Arc<Connector>,
    /// How long a statement may take before it is given up.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    /// A backend that was given up while it hung.
    hung: Option<Backend>,
}

impl TailLink {
    /// Gives a statement up after a third of `max_staleness`, but not before a second has passed
    /// and not later than after five.
    pub(super) fn new(connector: Arc<Connector>, max_staleness: Duration) -> Self {
        Self {
            connector,
            patience: (max_staleness / 3).clamp(Duration::from_secs(1), Duration::from_secs(5)),
            state: Mutex::default(),
        }
    }

    /// Runs a statement and hands what it found, with the link it came through, to `read`.
    pub(super) async fn run<T>(
        &self,
        statement: Statement,
        read: impl FnOnce(&[PgRow], &Link) -> keyward_store::Result<T> + Send,
    ) -> Result<T, Failure> {
        let mut state = self.state.lock().await;
        let mut link = match state.link.take() {
            Some(link) => link,
            None => self.open(&mut state).await?,
        };
        match within(self.patience, statement.fetch_all(link.on())).await {
            Ok(found) => {
                let answer = read(&found, &link).map_err(Failure::from);
                state.link = Some(link);
                answer
            }
            Err(failure) => {
                match failure.kind {
                    Kind::Refused | Kind::Again => state.link = Some(link),
                    Kind::Broken => self.connector.broke(Connector::era_of(&link)),
                    Kind::Hung => {
                        self.connector.hangs(Connector::era_of(&link));
                        state.hung = Some(link.backend.clone());
                    }
                }
                Err(failure)
            }
        }
    }

    async fn open(&self, state: &mut State) -> Result<Link, Failure> {
        let mut link = self.connector.open().await?;
        if let Some(hung) = state.hung.clone() {
            let end = sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE pid = $1 AND backend_start::text = $2",
            )
            .bind(hung.pid)
            .bind(hung.started);
            within(self.patience, end.execute(link.on())).await?;
            state.hung = None;
        }
        Ok(link)
    }

    pub(super) async fn close(&self) {
        if let Some(link) = self.state.lock().await.link.take() {
            link.close().await;
        }
    }
}
