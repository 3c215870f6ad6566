//! A connection to a primary, and how it is opened: the connector tries the hosts in order and
//! refuses a server in recovery. The epoch of a read is that of the connection's primary. It is
//! read once, because a primary never changes its timeline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection as _, PgConnection, Row};
use tokio::sync::watch;

use super::failure::Failure;
use keyward_core::fence::Epoch;
use keyward_core::key::{BootTime, Clock};
use keyward_store::StoreError;

/// The longest time for connecting to one host and preparing the session.
const CONNECT_LIMIT: Duration = Duration::from_millis(1_500);
/// After a failure, no call connects for this long, so that a recovering server meets no crowd.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// How long a call waits for the answer to a statement that writes: longer than the server's
/// `statement_timeout`.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(17);

/// The settings of every session; they override those of the role and the database. A commit must
/// be durable at least on this server, or where the operator's setting requires more. Every
/// statement uses an index, so the session plans it once, independently of the table's size. A bitmap
/// scan would read and sort all keys of a large account for one page of them.
const SESSION: &str = "\
SET statement_timeout = '15s'; SET lock_timeout = '10s'; \
SET idle_in_transaction_session_timeout = '20s'; SET default_transaction_isolation = 'read committed'; \
SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; \
SET client_connection_check_interval = '2s'; \
SELECT set_config('synchronous_commit', 'on', false) \
 WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";

const IDENTITY: &str = "\
SELECT pg_is_in_recovery() AS standby, system_identifier, pg_backend_pid() AS pid,
       CASE WHEN NOT pg_is_in_recovery()
            THEN pg_walfile_name(pg_current_wal_insert_lsn()) END AS wal,
       (SELECT backend_start::text FROM pg_stat_get_activity(pg_backend_pid())) AS started
  FROM pg_control_system()";

/// A connection to a primary.
pub(super) struct Connection {
    driver: PgConnection,
    system: u64,
    timeline: u32,
    /// The server process of this connection.
    pub(super) backend: Backend,
    /// The era in which it was opened. A connection of an earlier era is not used again.
    pub(super) era: u64,
}

/// A server process. The start time distinguishes it from a later process with the same id.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) pid: i32,
    pub(super) started: String,
}

impl Connection {
    pub(super) fn driver(&mut self) -> &mut PgConnection {
        &mut self.driver
    }

    /// The epoch of a read over this connection, which also read `incarnation`.
    pub(super) fn epoch(&self, incarnation: u64) -> Epoch {
        Epoch {
            system: self.system,
            timeline: self.timeline,
            incarnation,
        }
    }

    pub(super) fn timeline(&self) -> (u64, u32) {
        (self.system, self.timeline)
    }

    pub(super) async fn close(self) {
        // A clean close may hang, so it gets little time.
        let _ = tokio::time::timeout(RECONNECT_DELAY, self.driver.close()).await;
    }
}

/// Opens connections.
pub(super) struct Connector {
    hosts: Vec<PgConnectOptions>,
    /// The index of the last host that was a primary.
    current: AtomicUsize,
    /// The present era. It ends when one of its connections breaks.
    era: AtomicU64,
    /// The last era with a connection that hung. No call waits for its connections any longer.
    hung: watch::Sender<u64>,
    /// The time and the reasons of the last failure.
    failed: Mutex<Option<(BootTime, String)>>,
    clock: Arc<dyn Clock>,
}

impl Connector {
    pub(super) fn new(hosts: Vec<PgConnectOptions>, clock: Arc<dyn Clock>) -> Self {
        let hosts = hosts.into_iter().map(|host| {
            let host = host.application_name("keyward");
            // `Instrumentation` logs each call.
            host.disable_statement_logging()
        });
        Self {
            hosts: hosts.collect(),
            current: AtomicUsize::new(0),
            era: AtomicU64::new(1),
            hung: watch::Sender::new(0),
            failed: Mutex::default(),
            clock,
        }
    }

    /// The last host that was a primary.
    pub(super) fn current(&self) -> PgConnectOptions {
        self.hosts[self.current.load(Ordering::Relaxed) % self.hosts.len()].clone()
    }

    /// Whether a connection may be used again.
    pub(super) fn is_current(&self, connection: &Connection) -> bool {
        connection.era == self.era.load(Ordering::Relaxed)
    }

    /// Ends an era: when one of its connections breaks, the others are probably broken, too.
    pub(super) fn note_broken(&self, era: u64) {
        // Another call may have ended it already.
        let _ = self
            .era
            .compare_exchange(era, era + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Ends an era one of whose connections hangs. All calls stop waiting for its connections.
    pub(super) fn note_hung(&self, era: u64) {
        self.note_broken(era);
        self.hung.send_if_modified(|hung| {
            let is_newer = era > *hung;
            *hung = era.max(*hung);
            is_newer
        });
    }

    /// Waits for an answer over a connection of `era`, until `limit` or until the era hangs.
    pub(super) async fn answer<T>(
        &self,
        era: u64,
        limit: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Failure> {
        let mut hung = self.hung.subscribe();
        tokio::select! {
            biased;
            answer = within(limit, work) => answer,
            _ = hung.wait_for(|hung| *hung >= era) => Err(Failure::hung(limit)),
        }
    }

    /// Connects to the first host that is a primary, starting with the last known one.
    pub(super) async fn open(&self) -> Result<Connection, Failure> {
        let started = self.clock.boot();
        if let Some((at, why)) = &*self.failed.lock()
            && started.since(*at) < RECONNECT_DELAY
        {
            return Err(StoreError::Unavailable(why.clone()).into());
        }
        let (first, count) = (self.current.load(Ordering::Relaxed), self.hosts.len());
        let mut reasons = Vec::new();
        for at in (0..count).map(|n| (first + n) % count) {
            match self.connect(&self.hosts[at]).await {
                Ok(connection) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(why) => reasons.push(format!("{}: {why}", address(&self.hosts[at]))),
            }
        }
        let why = reasons.join("; ");
        *self.failed.lock() = Some((self.clock.boot(), why.clone()));
        Err(StoreError::Unavailable(why).into())
    }

    async fn connect(&self, host: &PgConnectOptions) -> Result<Connection, String> {
        let era = self.era.load(Ordering::Relaxed);
        let opened = async {
            let mut driver = host.connect().await?;
            sqlx::raw_sql(SESSION).execute(&mut driver).await?;
            let identity = sqlx::query(IDENTITY).fetch_one(&mut driver).await?;
            Ok::<_, sqlx::Error>((driver, identity))
        };
        let (driver, identity) = tokio::time::timeout(CONNECT_LIMIT, opened)
            .await
            .map_err(|_| format!("no answer within {CONNECT_LIMIT:?}"))?
            .map_err(|error| error.to_string())?;
        let text = |error: sqlx::Error| error.to_string();
        if identity.try_get("standby").map_err(text)? {
            return Err("is in recovery, not a primary".to_owned());
        }
        let wal: String = identity.try_get("wal").map_err(text)?;
        let timeline = wal
            .get(..8)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let system: i64 = identity.try_get("system_identifier").map_err(text)?;
        Ok(Connection {
            driver,
            system: system.cast_unsigned(),
            timeline: timeline.ok_or("does not report its timeline")?,
            backend: Backend {
                pid: identity.try_get("pid").map_err(text)?,
                started: identity.try_get("started").map_err(text)?,
            },
            era,
        })
    }
}

/// The address of a host, without its password.
fn address(host: &PgConnectOptions) -> String {
    match host.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", host.get_host(), host.get_port()),
    }
}

/// Waits for an answer until `limit`, because a dead connection reports nothing by itself.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::hung(limit)),
    }
}
