//! The connection of the tail alone: reads under load must not make the instance stale. After a
//! heartbeat times out, its connection is closed. Its backend may still lock the instance's row, so
//! the next connection terminates that backend.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::Mutex;

use super::connection::{Backend, Connection, Connector, within};
use super::failure::{Failure, Kind};
use super::pool::Statement;

/// The connection of the tail.
pub(super) struct TailConnection {
    connector: Arc<Connector>,
    /// The timeout of a statement.
    limit: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// The backend of a statement that timed out.
    hung: Option<Backend>,
}

impl TailConnection {
    /// The timeout of a statement is a third of `max_staleness`, but at least 1 s and at most 5 s.
    pub(super) fn new(connector: Arc<Connector>, max_staleness: Duration) -> Self {
        Self {
            connector,
            limit: (max_staleness / 3).clamp(Duration::from_secs(1), Duration::from_secs(5)),
            state: Mutex::default(),
        }
    }

    /// Runs a statement and passes its rows, with their connection, to `read`.
    pub(super) async fn run<T>(
        &self,
        statement: Statement,
        read: impl FnOnce(&[PgRow], &Connection) -> keyward_store::Result<T> + Send,
    ) -> Result<T, Failure> {
        let mut state = self.state.lock().await;
        let mut connection = match state.connection.take() {
            Some(connection) => connection,
            None => self.open(&mut state).await?,
        };
        match within(self.limit, statement.fetch_all(connection.driver())).await {
            Ok(rows) => {
                let answer = read(&rows, &connection).map_err(Failure::from);
                state.connection = Some(connection);
                answer
            }
            Err(failure) => {
                match failure.kind {
                    Kind::Refused | Kind::Again => state.connection = Some(connection),
                    Kind::Broken => self.connector.note_broken(connection.era),
                    Kind::Hung => {
                        self.connector.note_hung(connection.era);
                        state.hung = Some(connection.backend.clone());
                    }
                }
                Err(failure)
            }
        }
    }

    async fn open(&self, state: &mut State) -> Result<Connection, Failure> {
        let mut connection = self.connector.open().await?;
        if let Some(hung) = state.hung.clone() {
            let terminate = sqlx::query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                  WHERE pid = $1 AND backend_start::text = $2",
            )
            .bind(hung.pid)
            .bind(hung.started);
            within(self.limit, terminate.execute(connection.driver())).await?;
            state.hung = None;
        }
        Ok(connection)
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.state.lock().await.connection.take() {
            connection.close().await;
        }
    }
}
