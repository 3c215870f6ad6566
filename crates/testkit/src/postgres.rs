//! A private Postgres server: started from the installed binaries in a directory of its own, on a
//! free port, so that a test can kill, pause and restart it. It goes with this process, however
//! that ends.

mod binaries;
mod template;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};

use binaries::Binaries;
use template::Template;

/// A server that takes longer to start or stop has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waits for the end of this process, which closes its stdin; then ends the server and removes
/// its directory. (A parent-death signal would come when the thread that started it ends.)
const WATCHDOG: &str = "read -r _; kill -QUIT $(head -n 1 \"$0/data/postmaster.pid\") 2>/dev/null; \
                        sleep 0.2; rm -rf \"$0\"";

/// The owner of the schema, the role that serves, and the superuser; their passwords are their
/// names.
pub(crate) const OWNER: &str = "keyward_owner";
pub(crate) const SERVICE: &str = "keyward_service";
pub(crate) const SUPERUSER: &str = "postgres";

/// A running server.
pub struct Postgres {
    binaries: Binaries,
    directory: PathBuf,
    port: u16,
    server: Mutex<Option<Child>>,
    watchdog: Child,
    /// Closed when this process ends.
    _lifeline: ChildStdin,
    databases: AtomicU32,
}

/// How to reach one database of a server.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    address: SocketAddr,
}

impl Database {
    /// A URL for the owner of the schema.
    pub fn owner_url(&self) -> String {
        self.url(OWNER)
    }

    /// A URL for the role that serves.
    pub fn service_url(&self) -> String {
        self.url(SERVICE)
    }

    /// A URL for the superuser.
    pub fn superuser_url(&self) -> String {
        self.url(SUPERUSER)
    }

    /// The same database at another address, a proxy's.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self {
            name: self.name.clone(),
            address,
        }
    }

    fn url(&self, user: &str) -> String {
        format!("postgres://{user}:{user}@{}/{}", self.address, self.name)
    }

    /// A connection of the superuser.
    pub async fn connect(&self) -> PgConnection {
        connect(&self.superuser_url()).await
    }

    /// Runs SQL as the superuser.
    pub async fn execute(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// A connection that passes the service by.
pub async fn connect(url: &str) -> PgConnection {
    url.parse::<PgConnectOptions>()
        .expect("a test's URL is right")
        .disable_statement_logging()
        .connect()
        .await
        .expect("the private Postgres takes connections")
}

impl Postgres {
    /// Starts a server that loses what a crash of the machine would lose, and is fast.
    pub fn start() -> Self {
        Self::start_with(&[("fsync", "off")])
    }

    /// Starts a server with these settings.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let binaries = Binaries::find();
        let template = Template::of(&binaries);
        let directory = tempfile::Builder::new()
            .prefix("keyward-postgres-")
            .tempdir()
            .expect("a temporary directory can be made")
            .keep();
        template.copy_to(&directory);
        let mut lines = String::new();
        for (name, value) in settings {
            lines += &format!("{name} = '{value}'\n");
        }
        let configuration = directory.join("data/postgresql.auto.conf");
        fs::write(&configuration, lines).expect("the settings can be written");
        binaries.give(&configuration);
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh can be started");
        let lifeline = watchdog.stdin.take().expect("stdin is piped");
        let mut postgres = Self {
            binaries,
            directory,
            port: 0,
            server: Mutex::default(),
            watchdog,
            _lifeline: lifeline,
            databases: AtomicU32::new(0),
        };
        postgres.take_a_port();
        postgres
    }

    /// Starts on a free port; another process may be quicker to take it.
    fn take_a_port(&mut self) {
        for _ in 0..20 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
            self.port = free.local_addr().expect("it has an address").port();
            drop(free);
            if self.try_start() {
                return;
            }
        }
        panic!("Postgres does not start:\n{}", self.log());
    }

    fn try_start(&self) -> bool {
        let data = self.directory.join("data");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("the log can be opened");
        let errors = log.try_clone().expect("the log can be shared");
        let mut child = self
            .binaries
            .command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-p", &self.port.to_string()])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("postgres can be started");
        let begun = begin();
        loop {
            let pid_file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if pid_file
                .lines()
                .nth(7)
                .is_some_and(|line| line.trim() == "ready")
            {
                *self.server.lock() = Some(child);
                return true;
            }
            if child.try_wait().expect("it can be waited for").is_some() {
                return false;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "Postgres does not become ready:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(5));
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The database `keyward`, which is there from the beginning.
    pub fn database(&self) -> Database {
        Database {
            name: "keyward".to_owned(),
            address: self.address(),
        }
    }

    /// A new empty database of the owner's.
    pub async fn new_database(&self) -> Database {
        let n = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("keyward_{n}");
        self.database()
            .execute(&format!("CREATE DATABASE {name} OWNER {OWNER}"))
            .await;
        Database {
            name,
            address: self.address(),
        }
    }

    /// What the server has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Ends every process of it at once, as a power cut would.
    pub fn kill(&self) {
        self.signal_all("KILL");
        self.wait();
        match fs::remove_file(self.directory.join("data/postmaster.pid")) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    /// Stops every process of it; connections stay open, and nothing answers.
    pub fn pause(&self) {
        self.signal_all("STOP");
    }

    /// Lets all go on after [`Self::pause`].
    pub fn resume(&self) {
        self.signal_all("CONT");
    }

    /// Stops it; its clients are cut off.
    pub fn stop(&self) {
        signal("INT", &[self.pid()]);
        self.wait();
    }

    /// Starts it again, on the same data and port.
    pub fn start_again(&self) {
        let begun = begin();
        while !self.try_start() {
            assert!(
                begun.elapsed() < PATIENCE,
                "it does not start:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// The process id of the postmaster.
    fn pid(&self) -> u32 {
        let server = self.server.lock();
        server.as_ref().expect("Postgres is running").id()
    }

    fn wait(&self) {
        let mut server = self.server.lock().take().expect("Postgres is running");
        server.wait().expect("it can be waited for");
    }

    /// Backends have sessions of their own, so each process is told.
    fn signal_all(&self, name: &str) {
        let postmaster = self.pid();
        // First the one that could start others.
        signal(name, &[postmaster]);
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
        let children = children.unwrap_or_default();
        let children: Vec<u32> = children
            .split(' ')
            .filter_map(|id| id.parse().ok())
            .collect();
        signal(name, &children);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.lock().is_some() {
            self.signal_all("CONT");
            self.signal_all("KILL");
            self.wait();
        }
        // Both may be gone already.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A process that has ended meanwhile needs no signal.
fn signal(name: &str, ids: &[u32]) {
    if !ids.is_empty() {
        let _ = Command::new("kill")
            .args(["-s", name])
            .args(ids.iter().map(u32::to_string))
            .stderr(Stdio::null())
            .status();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a deadline of the harness, not of the service"
)]
fn begin() -> Instant {
    Instant::now()
}

/// Where files that outlive a run are kept.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testkit")
}
