//! Locks that other sessions hold. A call whose row is locked asks again and again, over a
//! connection that it holds only meanwhile: so a stuck row delays no other call. The log's counter is
//! waited for, because every change needs it. If either takes long, the log names the session that
//! holds the lock.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

use super::ATTEMPTS;
use super::failure::{Failure, Kind};
use super::pool::{Pool, Statement};
use super::rows;
use keyward_core::key::{BootTime, Clock};

/// How long a call asks for a locked row. Equal to the session's `lock_timeout`.
const ROW_LIMIT: Duration = Duration::from_secs(5);
/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));
/// A statement that has no answer for this long may wait for a lock.
const SUSPICIOUS: Duration = Duration::from_secs(1);
/// The shortest time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A row that another session has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockedRow {
    Key(Uuid),
    Token(Uuid),
    /// A slot that an open transaction is filling.
    Slot,
}

/// The sessions that hold the locks for which the processes of `$first` wait, directly or behind
/// others. State, client and time of other roles' sessions require the role pg_read_all_stats.
macro_rules! sessions {
    ($first:expr) => {
        concat!(
            "WITH RECURSIVE waited_for(pid) AS (",
            $first,
            " UNION SELECT unnest(pg_blocking_pids(pid)) FROM waited_for)
             SELECT pid, usename::text AS role, coalesce(application_name, '') AS application,
                    coalesce(client_addr::text, '') AS client,
                    coalesce(state, 'hidden') AS state,
                    coalesce(xact_start::text, 'hidden') AS since
               FROM waited_for JOIN pg_stat_activity USING (pid)
              WHERE cardinality(pg_blocking_pids(pid)) = 0"
        )
    };
}

/// The query for the session that has locked a row: `xmax` is its transaction.
macro_rules! holder {
    ($table:literal, $id:literal) => {
        sessions!(concat!(
            "SELECT l.pid FROM ",
            $table,
            " AS t JOIN pg_locks AS l
                ON l.locktype = 'transactionid' AND l.transactionid = t.xmax AND l.granted
              WHERE t.",
            $id,
            " = $1"
        ))
    };
}

/// Names the sessions that hold up this instance.
pub(super) struct Locks {
    readers: Arc<Pool>,
    clock: Arc<dyn Clock>,
    /// The time of the last report, and whether it named a session.
    reported: Mutex<Option<(BootTime, bool)>>,
}

/// How long a call has asked for a locked row so far.
#[derive(Default)]
pub(super) struct Asking(Duration);

impl Locks {
    /// Asks over `readers`.
    pub(super) fn new(readers: Arc<Pool>, clock: Arc<dyn Clock>) -> Self {
        Self {
            readers,
            clock,
            reported: Mutex::default(),
        }
    }

    /// Runs a transaction, and runs it again while it is the victim of a deadlock or its row is
    /// locked.
    pub(super) async fn retry<T, F>(&self, attempt: impl Fn() -> F) -> keyward_store::Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let (mut attempts, mut asking) = (1, Asking::default());
        loop {
            match attempt().await {
                Err(failure) if failure.kind == Kind::Again && attempts < ATTEMPTS => attempts += 1,
                Err(Failure {
                    kind: Kind::Locked(row),
                    ..
                }) => self.pause(&mut asking, row).await?,
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Pauses before the next attempt at a locked row. Fails if the call has asked for too long.
    pub(super) async fn pause(
        &self,
        asking: &mut Asking,
        row: LockedRow,
    ) -> keyward_store::Result<()> {
        if asking.0 >= ROW_LIMIT {
            self.report(holder(row)).await;
            return Err(Failure::locked(row).error);
        }
        let pause = (asking.0 / 2).clamp(PAUSES.0, PAUSES.1);
        asking.0 += pause;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Waits for the answer to a statement of the server process `pid`. Reports who holds it up.
    pub(super) async fn watch<T>(&self, pid: i32, answer: impl Future<Output = T>) -> T {
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            () = tokio::time::sleep(SUSPICIOUS) => {}
        }
        let blocking = sqlx::query(sessions!("SELECT unnest(pg_blocking_pids($1))")).bind(pid);
        tokio::join!(answer, self.report(Some(blocking))).0
    }

    /// Whether a session has held up changes just now.
    pub(super) fn are_held(&self) -> bool {
        self.last_report().unwrap_or(false)
    }

    /// Whether the last report named a session, if there was one just now.
    fn last_report(&self) -> Option<bool> {
        let (at, named) = (*self.reported.lock())?;
        (self.clock.boot().since(at) < REPORT_INTERVAL).then_some(named)
    }

    /// Logs the sessions that `query` finds, unless there was a report just now.
    async fn report(&self, query: Option<Statement>) {
        let Some(query) = query else { return };
        if self.last_report().is_some() {
            return;
        }
        let now = self.clock.boot();
        *self.reported.lock() = Some((now, false));
        // Without an answer there is nothing to report: the store itself does not answer.
        let found = Box::pin(self.readers.fetch_all(query)).await;
        for row in found.unwrap_or_default() {
            *self.reported.lock() = Some((now, true));
            let text = |name| rows::column::<String>(&row, name).unwrap_or_default();
            tracing::warn!(
                pid = rows::column::<i32>(&row, "pid").unwrap_or_default(),
                application = text("application"),
                user = text("role"),
                client = text("client"),
                state = text("state"),
                since = text("since"),
                "changes wait for a lock of another session: the runbook says what to do"
            );
        }
    }
}

fn holder(row: LockedRow) -> Option<Statement> {
    match row {
        LockedRow::Key(id) => Some(sqlx::query(holder!("api_keys", "key_id")).bind(id)),
        LockedRow::Token(id) => Some(sqlx::query(holder!("caller_tokens", "token_id")).bind(id)),
        LockedRow::Slot => None,
    }
}
