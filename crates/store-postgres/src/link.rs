//! One connection to a primary, and how it is opened: hosts in order, each asked who it is. The
//! epoch of what is read through a link is that of its primary (DESIGN 5), read once: a server
//! that is in recovery is never used, and a primary never changes its timeline.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use tokio::sync::watch;

use super::failure::{Failure, failed};
use keyward_core::fence::Epoch;
use keyward_core::key::{BootTime, Clock};
use keyward_store::StoreError;

/// How long one host may take to answer that it is a primary.
const CONNECT: Duration = Duration::from_millis(1_500);
/// After a failure nobody tries again for so long: a server that comes back is not met by a herd.
const REST: Duration = Duration::from_millis(100);
/// How long the answer to a statement that writes is waited for: longer than the server takes to
/// end it.
pub(super) const ANSWER: Duration = Duration::from_secs(17);

/// What every session is set to, whatever the role or the database say. A commit must be durable
/// where the operator's setting says so, and at least here. All our statements go by an index, so
/// each is planned once for a session, and never by what a table held when it was small.
const SESSION: &str = "\
SET statement_timeout = '15s'; SET lock_timeout = '10s'; \
SET idle_in_transaction_session_timeout = '20s'; SET default_transaction_isolation = 'read committed'; \
SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET client_connection_check_interval = '2s'; \
SELECT set_config('synchronous_commit', 'on', false) \
 WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";

const WHO: &str = "\
SELECT pg_is_in_recovery() AS standby, system_identifier, pg_backend_pid() AS pid,
       CASE WHEN NOT pg_is_in_recovery()
            THEN pg_walfile_name(pg_current_wal_insert_lsn()) END AS wal,
       (SELECT backend_start::text FROM pg_stat_get_activity(pg_backend_pid())) AS started
  FROM pg_control_system()";

/// A connection to a primary.
pub(super) struct Link {
    connection: PgConnection,
    system: u64,
    timeline: u32,
    /// Names the backend at the other end, to end it by.
    pub(super) backend: Backend,
    /// In which era it was opened: one of an earlier era is not used again.
    era: u64,
}

/// A server process: its id and when it began, so that another one with its id is left alone.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) pid: i32,
    pub(super) started: String,
}

impl Link {
    pub(super) fn on(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// The epoch of what was read through this link, by the incarnation that came with it.
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
        // Politely, but not for long: it may hang.
        let _ = tokio::time::timeout(REST, self.connection.close()).await;
    }
}

/// Opens links.
pub(super) struct Connector {
    hosts: Vec<PgConnectOptions>,
    /// The host that was a primary last.
    current: AtomicUsize,
    era: AtomicU64,
    /// The last era whose links hung: none of them is waited for any longer.
    lost: watch::Sender<u64>,
    /// The last failure, and when.
    failed: Mutex<Option<(BootTime, String)>>,
    clock: Arc<dyn Clock>,
}

impl Connector {
    pub(super) fn new(hosts: Vec<PgConnectOptions>, clock: Arc<dyn Clock>) -> Self {
        let hosts = hosts.into_iter().map(|host| {
            let host = host.application_name("keyward");
            // `Instrumented` tells of each call.
            host.disable_statement_logging()
        });
        Self {
            hosts: hosts.collect(),
            current: AtomicUsize::new(0),
            era: AtomicU64::new(1),
            lost: watch::Sender::new(0),
            failed: Mutex::default(),
            clock,
        }
    }

    /// The host that was a primary last.
    pub(super) fn current(&self) -> PgConnectOptions {
        self.hosts[self.current.load(Ordering::Relaxed) % self.hosts.len()].clone()
    }

    /// Whether a link may be used again.
    pub(super) fn is_current(&self, link: &Link) -> bool {
        link.era == self.era.load(Ordering::Relaxed)
    }

    /// Notes that a link of this era broke: those of the same era are likely to be broken, too.
    pub(super) fn broke(&self, era: u64) {
        // Another one may have noted it already.
        let _ = self
            .era
            .compare_exchange(era, era + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes that a link of this era hangs: so will all that were opened like it, and nobody waits
    /// for them any longer.
    pub(super) fn hangs(&self, era: u64) {
        self.broke(era);
        self.lost.send_if_modified(|lost| {
            let newer = era > *lost;
            *lost = era.max(*lost);
            newer
        });
    }

    /// Waits for an answer over a link of `era`, for so long, and no longer than such links are
    /// believed in.
    pub(super) async fn answer<T>(
        &self,
        era: u64,
        limit: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Failure> {
        let mut lost = self.lost.subscribe();
        tokio::select! {
            biased;
            answer = within(limit, work) => answer,
            _ = lost.wait_for(|lost| *lost >= era) => Err(Failure::hung(limit)),
        }
    }

    pub(super) fn era_of(link: &Link) -> u64 {
        link.era
    }

    /// Opens a link to the first host that is a primary, the last one first.
    pub(super) async fn open(&self) -> Result<Link, Failure> {
        let asked = self.clock.boot();
        if let Some((at, why)) = &*self.failed.lock()
            && asked.since(*at) < REST
        {
            return Err(StoreError::Unavailable(why.clone()).into());
        }
        let (first, count) = (self.current.load(Ordering::Relaxed), self.hosts.len());
        let mut reasons = Vec::new();
        for at in (0..count).map(|n| (first + n) % count) {
            match self.try_host(&self.hosts[at]).await {
                Ok(link) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(link);
                }
                Err(why) => reasons.push(format!("{}: {why}", name(&self.hosts[at]))),
            }
        }
        let why = reasons.join("; ");
        *self.failed.lock() = Some((self.clock.boot(), why.clone()));
        Err(StoreError::Unavailable(why).into())
    }

    async fn try_host(&self, host: &PgConnectOptions) -> Result<Link, String> {
        let era = self.era.load(Ordering::Relaxed);
        let opened = async {
            let mut connection = host.connect().await?;
            sqlx::raw_sql(SESSION).execute(&mut connection).await?;
            let who = sqlx::query(WHO).fetch_one(&mut connection).await?;
            Ok::<_, sqlx::Error>((connection, who))
        };
        let (connection, who) = tokio::time::timeout(CONNECT, opened)
            .await
            .map_err(|_| format!("no answer within {CONNECT:?}"))?
            .map_err(|error| error.to_string())?;
        let read = |error: sqlx::Error| error.to_string();
        if who.try_get("standby").map_err(read)? {
            return Err("is in recovery, not a primary".to_owned());
        }
        let wal: String = who.try_get("wal").map_err(read)?;
        let timeline = wal
            .get(..8)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let system: i64 = who.try_get("system_identifier").map_err(read)?;
        Ok(Link {
            connection,
            system: system.cast_unsigned(),
            timeline: timeline.ok_or("does not tell its timeline")?,
            backend: Backend {
                pid: who.try_get("pid").map_err(read)?,
                started: who.try_get("started").map_err(read)?,
            },
            era,
        })
    }
}

/// A host as people know it; never its password.
fn name(host: &PgConnectOptions) -> String {
    match host.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", host.get_host(), host.get_port()),
    }
}

/// Waits for an answer for so long and no longer: a connection into a black hole says nothing.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(Failure::hung(limit)),
    }
}
