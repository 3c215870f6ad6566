//! Server processes whose answers this instance has given up. A process that waits for a lost standby
//! or disk outlives its client, so each new connection first ends those that are still there.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::Row;

use super::connection::{Connection, within};
use super::failure::Failure;
use keyward_store::StoreError;

/// The most given-up processes that may still run. More than this instance has connections, so that
/// a lost standby is survived, and few enough to leave the server's connections to others.
const LIMIT: usize = 16;

/// A server process. The start time distinguishes it from a later process with the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) pid: i32,
    pub(super) started: String,
}

/// The server process of a connection. If it is dropped before it has answered, it is given up.
pub(super) struct Process {
    pub(super) backend: Backend,
    pub(super) is_asked: bool,
    pub(super) given_up: GivenUp,
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_asked {
            self.given_up.0.lock().push(self.backend.clone());
        }
    }
}

/// The processes that were given up and may still run.
#[derive(Clone, Default)]
pub(super) struct GivenUp(Arc<Mutex<Vec<Backend>>>);

impl GivenUp {
    /// Ends the processes over a new connection. Fails if too many do not end.
    pub(super) async fn end(
        &self,
        connection: &mut Connection,
        limit: Duration,
    ) -> Result<(), Failure> {
        let given_up = self.0.lock().clone();
        if given_up.is_empty() {
            return Ok(());
        }
        let (pids, starts): (Vec<_>, Vec<_>) = given_up
            .iter()
            .map(|backend| (backend.pid, backend.started.clone()))
            .unzip();
        let terminate = sqlx::query(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
               JOIN unnest($1::int[], $2::text[]) AS given_up(pid, started) USING (pid)
              WHERE backend_start::text = started",
        )
        .bind(pids)
        .bind(starts);
        let work = connection.ask(async |driver| terminate.fetch_all(driver).await);
        let mut running = Vec::new();
        for row in within(limit, work).await? {
            running.push(row.try_get::<i32, _>("pid")?);
        }
        let mut all = self.0.lock();
        all.retain(|backend| !given_up.contains(backend) || running.contains(&backend.pid));
        if all.len() <= LIMIT {
            return Ok(());
        }
        let why = format!(
            "{} server processes that this instance has given up do not end; check the server's disk",
            all.len()
        );
        Err(StoreError::Unavailable(why).into())
    }
}
