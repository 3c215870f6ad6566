//! A private Postgres server on a free port, which a test can stop, kill and pause. No files or
//! processes remain, however this process ends.

mod database;
mod installation;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::Mutex;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::deadline::{PATIENCE, eventually, wait_until};
use crate::guard::{END_POSTGRES, Guard};
use crate::ports::draw_port;
use crate::processes::{self, id};
use crate::tls::{self, Files, Identity};
use database::DATABASE;
pub use database::{Database, User};
use installation::Installation;

/// A private server. It ends when this is dropped and when this process ends.
pub struct Postgres {
    guard: Guard,
    installation: Installation,
    settings: Vec<(String, String)>,
    database: Database,
    authority: Option<PathBuf>,
    server: Mutex<Option<Child>>,
}

impl Postgres {
    /// Starts a server, without fsync.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with these additional settings, such as `("fsync", "on")`.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let installation = Installation::find();
        let guard = Guard::new("postgres", END_POSTGRES);
        installation.prepare(guard.home());
        Self::run(installation, guard, settings, None)
    }

    /// Starts a server with TLS and a certificate for `localhost`. See [`Self::tls_url`].
    pub fn start_tls() -> Self {
        let installation = Installation::find();
        let guard = Guard::new("postgres", END_POSTGRES);
        installation.prepare(guard.home());
        let files = tls::write(guard.home(), &["localhost"]);
        Self::run_tls(installation, guard, files)
    }

    /// Starts a server with this certificate, which the authority (PEM) has signed.
    pub fn start_tls_as(authority: &str, identity: &Identity) -> Self {
        let installation = Installation::find();
        let guard = Guard::new("postgres", END_POSTGRES);
        installation.prepare(guard.home());
        let files = tls::write_signed(guard.home(), authority, identity);
        Self::run_tls(installation, guard, files)
    }

    fn run_tls(installation: Installation, guard: Guard, files: Files) -> Self {
        for path in [&files.authority, &files.certificate, &files.key] {
            installation.give(path);
        }
        let text = |path: &Path| path.to_str().expect("a path is text").to_owned();
        let settings = [
            ("ssl", "on"),
            ("ssl_cert_file", &text(&files.certificate)),
            ("ssl_key_file", &text(&files.key)),
        ];
        Self::run(installation, guard, &settings, Some(files.authority))
    }

    /// The server that all tests of this process share. Each test creates its own database.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn run(
        installation: Installation,
        guard: Guard,
        settings: &[(&str, &str)],
        authority: Option<PathBuf>,
    ) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut postgres = Self {
            guard,
            installation,
            settings: settings.iter().map(own).collect(),
            database: Database::new(DATABASE, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            authority,
            server: Mutex::new(None),
        };
        loop {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, draw_port()));
            postgres.database = Database::new(DATABASE, address);
            match postgres.launch() {
                Ok(()) => return postgres,
                Err(log) if is_taken(&log) => {}
                Err(log) => panic!("Postgres does not start:\n{log}"),
            }
        }
    }

    /// Starts a standby of this server, which follows it asynchronously until [`Self::promote`]. As a
    /// synchronous standby, its name is `standby`. This server restarts for a moment.
    pub fn standby(&self) -> Self {
        let (installation, guard) = (
            self.installation.clone(),
            Guard::new("postgres", END_POSTGRES),
        );
        installation.give(guard.home());
        let data = guard.home().join("data");
        self.stop();
        installation.copy(&self.guard.home().join("data"), &data);
        self.start_again();
        let upstream = format!(
            "primary_conninfo = 'host=127.0.0.1 port={} user=postgres password={} \
             application_name=standby'\n",
            self.port(),
            User::Superuser.password()
        );
        // In this file, so that `ALTER SYSTEM` on the standby can change it.
        for (file, text) in [("postgresql.auto.conf", &*upstream), ("standby.signal", "")] {
            installation.write(&data.join(file), text);
        }
        Self::run(installation, guard, &[], None)
    }

    /// Cuts this standby off from its primary, so that it misses what is committed from now on.
    pub async fn stop_following(&self) {
        self.configure("primary_conninfo", "").await;
        let receivers = "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)";
        self.wait_for(receivers).await;
    }

    /// Makes this standby a primary.
    pub async fn promote(&self) {
        self.wait_for("SELECT pg_promote()").await;
    }

    /// Changes a setting of the running server.
    pub async fn configure(&self, name: &str, value: &str) {
        self.execute(&format!("ALTER SYSTEM SET {name} = '{value}'"))
            .await;
        self.execute("SELECT pg_reload_conf()").await;
        let shown = format!("SELECT current_setting('{name}') = '{value}'");
        self.wait_for(&shown).await;
    }

    /// Waits until a query of one boolean, each time in a new session, is true.
    pub async fn wait_for(&self, query: &str) {
        eventually(query, PATIENCE, async || {
            let mut session = Self::connect(&self.superuser_url()).await;
            let query = sqlx::query_scalar(AssertSqlSafe(query.to_owned()));
            let is_so = query.fetch_one(&mut session).await;
            // Closing cannot lose anything here.
            let _ = session.close().await;
            is_so.expect("the query is answered")
        })
        .await;
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        self.database.address()
    }

    /// The database `keyward`, which always exists.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The URL of `keyward` for the owner.
    pub fn owner_url(&self) -> String {
        self.database.owner_url()
    }

    /// The URL of `keyward` for the serving role.
    pub fn service_url(&self) -> String {
        self.database.service_url()
    }

    /// The URL of `keyward` for the superuser.
    pub fn superuser_url(&self) -> String {
        self.database.superuser_url()
    }

    /// The URL of `keyward` for `user` through a proxy at `address`.
    pub fn url_via(&self, user: User, address: SocketAddr) -> String {
        self.database.url_via(user, address)
    }

    /// The certificate of the authority that signed the server's certificate. Requires
    /// [`Self::start_tls`].
    pub fn authority(&self) -> &Path {
        self.authority.as_deref().expect("started with start_tls")
    }

    /// The URL for `user` with the certificate's host name and full verification.
    pub fn tls_url(&self, user: User) -> String {
        let (name, password, port) = (user.name(), user.password(), self.port());
        let authority = self.authority().display();
        format!(
            "postgres://{name}:{password}@localhost:{port}/{DATABASE}\
             ?sslmode=verify-full&sslrootcert={authority}"
        )
    }

    /// Creates an empty database that belongs to the owner. Its name is `name`, in lower case, and
    /// a number.
    pub async fn fresh_database(&self, name: &str) -> Database {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}_{number}");
        let owner = User::Owner.name();
        self.execute(&format!("CREATE DATABASE {name} OWNER {owner}"))
            .await;
        Database::new(&name, self.address())
    }

    /// A connection.
    pub async fn connect(url: &str) -> PgConnection {
        PgConnection::connect(url)
            .await
            .expect("Postgres takes the connection")
    }

    /// Runs statements in `keyward` as the superuser.
    pub async fn execute(&self, statements: &str) {
        self.database.execute(statements).await;
    }

    /// Sets the clock of the server ahead by an interval, for Keyward alone.
    pub async fn clock_ahead(&self, interval: &str) {
        let ahead = format!(
            "CREATE OR REPLACE FUNCTION server_time() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE
             AS $$SELECT clock_timestamp() + interval '{interval}'$$"
        );
        self.execute(&ahead).await;
    }

    /// Kills all processes of the server with SIGKILL, like a power failure.
    pub fn kill(&self) {
        let mut server = self.server.lock();
        let Some(postmaster) = server.take() else {
            return;
        };
        processes::kill_family(postmaster);
        self.clear_up();
    }

    /// Removes the files of a killed server: its pid file and its shared memory.
    fn clear_up(&self) {
        let file = self.guard.home().join("data/postmaster.pid");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if let Some(memory) = text
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1))
        {
            // The next start would also remove it.
            let _ = Command::new("ipcrm")
                .args(["-m", memory])
                .stderr(Stdio::null())
                .status();
        }
        // The server may have been killed before it wrote the file.
        let _ = std::fs::remove_file(file);
    }

    /// Pauses all processes with SIGSTOP until [`Self::resume`].
    pub fn pause(&self) {
        let server = self.server.lock();
        let pid = id(server.as_ref().expect("the server runs"));
        processes::stop(pid);
        for child in processes::children(pid) {
            processes::stop(child);
        }
    }

    /// Resumes all processes.
    pub fn resume(&self) {
        let server = self.server.lock();
        let pid = id(server.as_ref().expect("the server runs"));
        for child in processes::children(pid) {
            processes::send(child, Signal::CONT);
        }
        processes::send(pid, Signal::CONT);
    }

    /// Stops the server cleanly: it closes connections and rolls back open transactions.
    pub fn stop(&self) {
        let Some(mut postmaster) = self.server.lock().take() else {
            return;
        };
        processes::send(id(&postmaster), Signal::INT);
        wait_until("Postgres stops", PATIENCE, || {
            postmaster
                .try_wait()
                .expect("it can be waited for")
                .is_some()
        });
    }

    /// Starts the server again after [`Self::stop`] or [`Self::kill`], with the same data and port.
    pub fn start_again(&self) {
        assert!(self.server.lock().is_none(), "the server runs");
        wait_until("Postgres starts again", PATIENCE, || match self.launch() {
            Ok(()) => true,
            Err(log) if is_taken(&log) => false,
            Err(log) => panic!("Postgres does not start again:\n{log}"),
        });
    }

    /// Stops the server cleanly and starts it again.
    pub fn restart(&self) {
        self.stop();
        self.start_again();
    }

    /// Keeps a copy of the data for [`Self::restore`]. The server restarts for a moment.
    pub fn back_up(&self) {
        let home = self.guard.home();
        self.stop();
        self.installation
            .copy(&home.join("data"), &home.join("backup"));
        self.start_again();
    }

    /// Kills the server and starts it with the data of [`Self::back_up`]. `recovered`: like a base backup
    /// that was recovered, on a new timeline; otherwise like a volume snapshot, on the same timeline.
    pub async fn restore(&self, recovered: bool) {
        self.kill();
        let data = self.guard.home().join("data");
        std::fs::remove_dir_all(&data).expect("the data can be removed");
        self.installation
            .copy(&self.guard.home().join("backup"), &data);
        if recovered {
            // The copy holds all of its WAL.
            self.installation.write(
                &data.join("postgresql.auto.conf"),
                "restore_command = 'false'\n",
            );
            self.installation.write(&data.join("recovery.signal"), "");
        }
        self.start_again();
        self.wait_for("SELECT NOT pg_is_in_recovery()").await;
    }

    /// Starts the server and waits until it accepts connections. Returns its log if it ends
    /// instead.
    fn launch(&self) -> Result<(), String> {
        let home = self.guard.home();
        let data = home.join("data");
        let log = home.join("log");
        let file = File::create(&log).expect("the log can be written");
        let mut command = self.installation.command("postgres", home);
        command.arg("-D").arg(&data);
        let port = self.port().to_string();
        let ours = [
            ("port", port.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("dynamic_shared_memory_type", "mmap"),
            ("max_connections", "200"),
            ("fsync", "off"),
        ];
        let given = self.settings.iter();
        let given = given.map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in ours.into_iter().chain(given) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut postmaster = command
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("postgres can be started");
        let mut ended = None;
        wait_until("Postgres is ready", PATIENCE, || {
            ended = postmaster.try_wait().expect("it can be waited for");
            ended.is_some() || is_ready(&data)
        });
        match ended {
            None => {
                *self.server.lock() = Some(postmaster);
                Ok(())
            }
            Some(_) => Err(std::fs::read_to_string(&log).unwrap_or_default()),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The eighth line of this file is the state of the server, `standby` for one that accepts reads.
fn is_ready(data: &Path) -> bool {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    text.lines()
        .nth(7)
        .is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
}

fn is_taken(log: &str) -> bool {
    log.contains("Address already in use")
}
