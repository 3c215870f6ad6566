//! The connection of the tail alone: reads under load must not make the instance stale. After a
//! heartbeat times out, its connection is closed. Its process may still lock the instance's row, so
//! the next connection ends that process.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::Mutex;

use super::connection::{Connection, Connector, within};
use super::failure::{Failure, Kind};
use super::pool::Statement;

/// The connection of the tail.
pub(super) struct TailConnection {
    connector: Arc<Connector>,
    /// The timeout of a statement.
    limit: Duration,
    connection: Mutex<Option<Connection>>,
}

impl TailConnection {
    /// The timeout of a statement is a third of `max_staleness`, but at least 1 s and at most 5 s.
    pub(super) fn new(connector: Arc<Connector>, max_staleness: Duration) -> Self {
        Self {
            connector,
            limit: (max_staleness / 3).clamp(Duration::from_secs(1), Duration::from_secs(5)),
            connection: Mutex::default(),
        }
    }

    /// Runs a statement and passes its rows, with their connection, to `read`.
    pub(super) async fn run<T>(
        &self,
        statement: Statement,
        read: impl FnOnce(&[PgRow], &Connection) -> keyward_store::Result<T> + Send,
    ) -> Result<T, Failure> {
        let mut slot = self.connection.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.connector.open().await?,
        };
        let work = connection.ask(async |driver| statement.fetch_all(driver).await);
        match within(self.limit, work).await {
            Ok(rows) => {
                let answer = read(&rows, &connection).map_err(Failure::from);
                *slot = Some(connection);
                answer
            }
            Err(failure) => {
                match failure.kind {
                    Kind::Refused | Kind::Again | Kind::Locked(_) => *slot = Some(connection),
                    Kind::Broken => self.connector.note_broken(connection.era),
                    Kind::Hung => self.connector.note_hung(connection.era),
                }
                Err(failure)
            }
        }
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            connection.close().await;
        }
    }
}
