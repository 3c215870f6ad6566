//! A connection to a primary, and how it is opened: the connector tries the hosts in order and
//! refuses a server in recovery. The epoch of a read is that of the connection's primary. It is
//! read once, because a primary never changes its timeline.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, PgConnection, Row};
use tokio::sync::watch;

use super::failure::{Failure, code, words};
use super::given_up::{Backend, GivenUp, Process};
use keyward_core::fence::Epoch;
use keyward_core::key::{BootTime, Clock};
use keyward_ops::settings::values::secret_file;
use keyward_store::StoreError;

/// The longest time for connecting to one host and preparing the session: up to eight round trips, with
/// TLS and SCRAM.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// After a failure, no call connects for this long, so that a recovering server meets no crowd.
const RECONNECT_DELAY: Duration = Duration::from_millis(100);
/// How long a call waits for the answer to a statement that writes: longer than the server's
/// `statement_timeout`.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(17);

/// The settings of every session; they override those of the role and the database. A commit must
/// be durable at least on this server and its synchronous standby. The session always sets this, so that a
/// reload of the server's configuration cannot weaken its later commits. Every
/// statement uses an index, so the session plans it once, independently of the table's size: a plan that was
/// made for a small table, and that reads all of it for a join, would stay until the table is analyzed. A
/// bitmap scan would read and sort all keys of a large account for one page of them.
/// A role without a search_path gets the default schema.
const SESSION: &str = "\
SET statement_timeout = '15s'; SET lock_timeout = '5s'; \
SET idle_in_transaction_session_timeout = '20s'; SET default_transaction_isolation = 'read committed'; \
SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; \
SET enable_hashjoin = off; SET enable_mergejoin = off; \
SET client_connection_check_interval = '2s'; \
SELECT set_config('synchronous_commit', \
    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, \
    false); \
SELECT set_config('search_path', 'public', false) WHERE current_schema() IS NULL";

macro_rules! identity {
    ($wal:literal) => {
        concat!(
            "SELECT pg_is_in_recovery() AS standby, system_identifier, pg_backend_pid() AS pid,
                    current_setting('transaction_read_only') = 'on' AS read_only,
                    current_setting('server_encoding') AS encoding,
                    CASE WHEN NOT pg_is_in_recovery() THEN ",
            $wal,
            " END AS wal,
                    (SELECT backend_start::text FROM pg_stat_get_activity(pg_backend_pid())) AS started
               FROM pg_control_system()"
        )
    };
}
const IDENTITY: &str = identity!("pg_walfile_name(pg_current_wal_insert_lsn())");
/// For a platform that hides its timeline, which then counts as timeline 0.
const IDENTITY_WITHOUT_TIMELINE: &str = identity!("repeat('0', 24)");
/// The functions of `IDENTITY` that an administrator can take away from ordinary roles.
pub(super) const FUNCTIONS: [&str; 3] = [
    "pg_control_system()",
    "pg_is_in_recovery()",
    "pg_stat_get_activity(integer)",
];
/// Those that show the timeline.
pub(super) const TIMELINE_FUNCTIONS: [&str; 2] =
    ["pg_walfile_name(pg_lsn)", "pg_current_wal_insert_lsn()"];
/// What to do if the platform hides the timeline and no superuser can grant its functions.
pub(super) const HIDDEN_TIMELINE: &str = "If this platform hides its timeline and every failover is \
     synchronous, set `failover_loses_nothing`";
const READ_ONLY: &str = "sessions of this role are read-only: default_transaction_read_only is on. \
     Turn it off where it is set: ALTER SYSTEM, ALTER DATABASE or ALTER ROLE";

/// The hosts of one database, and how to log in there.
#[derive(Clone, Debug)]
pub struct Hosts {
    /// How to connect to each host. The first host that is a primary is used.
    pub options: Vec<PgConnectOptions>,
    /// The file with the password, which is read again for each connection.
    pub password_file: Option<PathBuf>,
    /// Whether a failover loses no commit. Then a primary need not report its timeline.
    pub failover_loses_nothing: bool,
}

/// A connection to a primary.
pub(super) struct Connection {
    driver: PgConnection,
    system: u64,
    timeline: u32,
    process: Process,
    /// The era in which it was opened. A connection of an earlier era is not used again.
    pub(super) era: u64,
}

impl Connection {
    /// The driver, for work of the owner that no limit interrupts.
    pub(super) fn driver(&mut self) -> &mut PgConnection {
        &mut self.driver
    }

    /// Sends a statement and waits for its answer.
    pub(super) async fn ask<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.process.is_asked = true;
        let answer = ask(&mut self.driver).await;
        self.process.is_asked = matches!(&answer, Err(error) if is_silence(error));
        answer
    }

    /// The id of the server process.
    pub(super) fn pid(&self) -> i32 {
        self.process.backend.pid
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
    hosts: Hosts,
    /// The index of the last host that was a primary.
    current: AtomicUsize,
    /// The system and the highest timeline of the primaries so far.
    newest: Mutex<Option<(u64, u32)>>,
    /// The last era whose first connection was chosen among all hosts.
    surveyed: AtomicU64,
    /// The present era. It ends when one of its connections breaks.
    era: AtomicU64,
    /// The last era with a connection that hung. No call waits for its connections any longer.
    hung: watch::Sender<u64>,
    /// The time and the reasons of the last failure.
    failed: Mutex<Option<(BootTime, StoreError)>>,
    /// The processes that may still run although no connection waits for them.
    given_up: GivenUp,
    clock: Arc<dyn Clock>,
}

impl Connector {
    pub(super) fn new(mut hosts: Hosts, clock: Arc<dyn Clock>) -> Self {
        let options = hosts.options.into_iter().map(|host| {
            // A pooler refuses this parameter by default, and no column is a floating-point number.
            let host = host.extra_float_digits(None);
            // `Instrumentation` logs each call.
            host.disable_statement_logging()
        });
        hosts.options = options.collect();
        Self {
            hosts,
            current: AtomicUsize::new(0),
            newest: Mutex::default(),
            surveyed: AtomicU64::new(0),
            era: AtomicU64::new(1),
            hung: watch::Sender::new(0),
            failed: Mutex::default(),
            given_up: GivenUp::default(),
            clock,
        }
    }

    /// The last host that was a primary.
    pub(super) fn current(&self) -> Result<PgConnectOptions, StoreError> {
        let hosts = &self.hosts.options;
        self.with_password(&hosts[self.current.load(Ordering::Relaxed) % hosts.len()])
    }

    fn with_password(&self, host: &PgConnectOptions) -> Result<PgConnectOptions, StoreError> {
        let Some(file) = &self.hosts.password_file else {
            return Ok(host.clone());
        };
        let password = secret_file(file).map_err(|error| {
            StoreError::Refused(format!(
                "the password file {} cannot be read: {error}. Check `store_password_file`",
                file.display()
            ))
        })?;
        Ok(host.clone().password(&password))
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

    /// Opens a connection to a primary, and ends the processes that were given up.
    pub(super) async fn open(&self) -> Result<Connection, Failure> {
        let mut connection = self.find_primary().await?;
        self.given_up.end(&mut connection, CONNECT_LIMIT).await?;
        Ok(connection)
    }

    /// Connects to the first host that is a primary, starting with the last known one. The first
    /// connection of an era is to the primary on the highest timeline, because a primary that was
    /// replaced may still answer reads.
    async fn find_primary(&self) -> Result<Connection, Failure> {
        let started = self.clock.boot();
        if let Some((at, why)) = &*self.failed.lock()
            && started.since(*at) < RECONNECT_DELAY
        {
            return Err(why.clone().into());
        }
        let hosts = &self.hosts.options;
        let first = self.current.load(Ordering::Relaxed);
        let era = self.era.load(Ordering::Relaxed);
        let is_survey = self.surveyed.swap(era, Ordering::Relaxed) != era;
        let mut best: Option<(usize, Connection)> = None;
        let (mut reasons, mut all_refuse) = (Vec::new(), true);
        for at in (0..hosts.len()).map(|n| (first + n) % hosts.len()) {
            let why = match self.connect(&hosts[at]).await {
                Ok(connection) => {
                    // A survey goes on: a later success is on a higher timeline, or on the same.
                    let is_best = best
                        .as_ref()
                        .is_none_or(|(_, best)| connection.timeline > best.timeline);
                    if is_best {
                        best = Some((at, connection));
                    }
                    match is_survey {
                        true => continue,
                        false => break,
                    }
                }
                Err(StoreError::Refused(why)) => why,
                Err(StoreError::Unavailable(why)) => {
                    all_refuse = false;
                    why
                }
                Err(error) => error.to_string(),
            };
            reasons.push(format!("{}: {why}", address(&hosts[at])));
        }
        if let Some((at, connection)) = best {
            self.current.store(at, Ordering::Relaxed);
            return Ok(connection);
        }
        let why = reasons.join("; ");
        let error = match all_refuse {
            true => StoreError::Refused(why),
            false => StoreError::Unavailable(why),
        };
        *self.failed.lock() = Some((self.clock.boot(), error.clone()));
        Err(error.into())
    }

    /// Refuses a primary on a lower timeline than another one: it was replaced. A higher timeline ends
    /// the era of the connections to the replaced primary, and this returns the next one.
    fn check_timeline(&self, system: u64, timeline: u32) -> Result<Option<u64>, String> {
        let mut newest = self.newest.lock();
        match *newest {
            Some((known, highest)) if known == system && timeline < highest => Err(format!(
                "accepts connections on timeline {timeline}, but another primary is on timeline \
                 {highest}. Stop this server: it was replaced, and must not accept writes"
            )),
            Some(known) if known == (system, timeline) => Ok(None),
            earlier => {
                *newest = Some((system, timeline));
                Ok(earlier.map(|_| self.era.fetch_add(1, Ordering::Relaxed) + 1))
            }
        }
    }

    async fn connect(&self, host: &PgConnectOptions) -> Result<Connection, StoreError> {
        let era = self.era.load(Ordering::Relaxed);
        let host = self.with_password(host)?;
        let opened = async {
            let mut driver = host.connect().await?;
            let identity = match prepare(&mut driver, IDENTITY).await {
                Err(error) if self.hosts.failover_loses_nothing && hides_timeline(&error) => {
                    prepare(&mut driver, IDENTITY_WITHOUT_TIMELINE).await?
                }
                identity => identity?,
            };
            Ok::<_, sqlx::Error>((driver, identity))
        };
        let away = |why: String| StoreError::Unavailable(why);
        let (driver, identity) = tokio::time::timeout(CONNECT_LIMIT, opened)
            .await
            .map_err(|_| away(format!("no answer within {CONNECT_LIMIT:?}")))?
            .map_err(|error| refusal(error, &host))?;
        let text = |error: sqlx::Error| away(error.to_string());
        if identity.try_get("standby").map_err(text)? {
            return Err(away("is in recovery, not a primary".to_owned()));
        }
        if identity.try_get("read_only").map_err(text)? {
            return Err(StoreError::Refused(READ_ONLY.to_owned()));
        }
        let encoding: String = identity.try_get("encoding").map_err(text)?;
        if encoding != "UTF8" {
            return Err(wrong_encoding(&encoding, &host));
        }
        let wal: String = identity.try_get("wal").map_err(text)?;
        let timeline = u32::from_str_radix(wal.get(..8).unwrap_or_default(), 16);
        let timeline = timeline.map_err(|_| away("does not report its timeline".to_owned()))?;
        let system: i64 = identity.try_get("system_identifier").map_err(text)?;
        let system = system.cast_unsigned();
        let next_era = self.check_timeline(system, timeline).map_err(|why| {
            tracing::error!("{} {why}", address(&host));
            away(why)
        })?;
        Ok(Connection {
            driver,
            system,
            timeline,
            process: Process {
                backend: Backend {
                    pid: identity.try_get("pid").map_err(text)?,
                    started: identity.try_get("started").map_err(text)?,
                },
                is_asked: false,
                given_up: self.given_up.clone(),
            },
            era: next_era.unwrap_or(era),
        })
    }
}

/// Whether a server does not support the functions that show its timeline, or forbids them.
fn hides_timeline(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("0A000" | "42501"))
}

/// Prepares a session and reads who answers, in one round trip.
async fn prepare(driver: &mut PgConnection, identity: &str) -> Result<PgRow, sqlx::Error> {
    let statements = sqlx::raw_sql(AssertSqlSafe(format!("{SESSION}; {identity}")));
    let mut rows = statements.fetch_all(driver).await?;
    rows.pop().ok_or(sqlx::Error::RowNotFound)
}

/// Whether the server has not answered, so that its process may still run.
fn is_silence(error: &sqlx::Error) -> bool {
    code(error).is_none()
        && !matches!(
            error,
            sqlx::Error::RowNotFound | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
        )
}

/// Why a server refuses to be used, and what to do.
fn refusal(error: sqlx::Error, host: &PgConnectOptions) -> StoreError {
    let text = words(&error);
    let is_named = |function: &&str| text.contains(function.split('(').next().unwrap_or_default());
    let of_timeline = TIMELINE_FUNCTIONS.into_iter().find(is_named);
    let function = of_timeline.or_else(|| FUNCTIONS.into_iter().find(is_named));
    let remedy = of_timeline.map_or(String::new(), |_| format!(". {HIDDEN_TIMELINE}"));
    match (code(&error).as_deref(), function) {
        (Some("42501"), Some(function)) => StoreError::Refused(format!(
            "{text}. A superuser must run in this database: {}{remedy}",
            grant(function, host.get_username())
        )),
        (Some("0A000"), Some(_)) => StoreError::Refused(format!("{text}{remedy}")),
        (Some("08P01"), _) if text.contains("startup parameter") => StoreError::Refused(format!(
            "{text}. Add this parameter to ignore_startup_parameters in pgbouncer.ini, or connect \
             directly to Postgres"
        )),
        _ => Failure::from(error).error,
    }
}

/// The statement that gives a role the right to call a function.
pub(super) fn grant(function: &str, role: &str) -> String {
    format!(
        "GRANT EXECUTE ON FUNCTION {function} TO \"{}\"",
        role.replace('"', "\"\"")
    )
}

fn wrong_encoding(encoding: &str, host: &PgConnectOptions) -> StoreError {
    let database = host.get_database().unwrap_or_default();
    StoreError::Refused(format!(
        "the encoding of the database {database} is {encoding}, which cannot store every text. \
         Create a database with UTF8: CREATE DATABASE {database} ENCODING 'UTF8' TEMPLATE template0"
    ))
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
