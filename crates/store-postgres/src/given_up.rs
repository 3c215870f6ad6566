//! Server processes whose answers this instance has given up. A process that waits for a lost standby
//! or disk outlives its client, so each new connection first ends those that are still there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
            self.given_up.processes.lock().push(self.backend.clone());
        }
    }
}

/// The processes that were given up and may still run.
#[derive(Clone, Default)]
pub(super) struct GivenUp {
    processes: Arc<Mutex<Vec<Backend>>>,
    /// Whether one of them waited for the synchronous standby when last asked.
    waits_for_standby: Arc<AtomicBool>,
}

impl GivenUp {
    /// Ends the processes over a new connection. Fails if too many do not end.
    pub(super) async fn end(
        &self,
        connection: &mut Connection,
        limit: Duration,
    ) -> Result<(), Failure> {
        let given_up = self.processes.lock().clone();
        if given_up.is_empty() {
            self.tell_of_standby(false);
            return Ok(());
        }
        let (pids, starts): (Vec<_>, Vec<_>) = given_up
            .iter()
            .map(|backend| (backend.pid, backend.started.clone()))
            .unzip();
        let terminate = sqlx::query(
            "SELECT pid, wait_event = 'SyncRep' AS waits, pg_terminate_backend(pid)
               FROM pg_stat_activity
               JOIN unnest($1::int[], $2::text[]) AS given_up(pid, started) USING (pid)
              WHERE backend_start::text = started",
        )
        .bind(pids)
        .bind(starts);
        let work = connection.ask(async |driver| terminate.fetch_all(driver).await);
        let (mut running, mut waits) = (Vec::new(), false);
        for row in within(limit, work).await? {
            running.push(row.try_get::<i32, _>("pid")?);
            waits |= row.try_get::<Option<bool>, _>("waits")? == Some(true);
        }
        self.tell_of_standby(waits);
        let mut all = self.processes.lock();
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

    /// Logs once that commits wait for the synchronous standby.
    fn tell_of_standby(&self, waits: bool) {
        let is_told = self.waits_for_standby.swap(waits, Ordering::Relaxed);
        if waits && !is_told {
            tracing::error!(
                "commits wait for a synchronous standby that does not answer: the runbook says what to do"
            );
        }
    }
}
