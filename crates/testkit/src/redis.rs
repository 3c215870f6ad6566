//! Redis: private servers on ports of their own, that can be killed and paused; alone, under
//! sentinels, or as a cluster. Nothing is left behind, however this process ends.

mod cluster;
mod program;
mod sentinel;
mod wire;

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::deadline::wait_until;
use crate::guard::{Guard, KILL_ALL};
use crate::ports::draw_port;
use crate::processes::{self, id};
use crate::tls::{self, Identity};
pub use cluster::RedisCluster;
pub use sentinel::RedisSentinel;
pub use wire::{RedisConnection, Reply};

/// A start or a change of roles that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who the harness is where there is an access list. The password is no secret: the server is
/// reached from this machine only, and gone after the test.
const HARNESS: [&str; 2] = ["testkit", "testkit-secret"];

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Lines of the configuration besides, such as `maxmemory 2mb`. The last one of a name holds.
    pub lines: Vec<String>,
    /// An access list: a line for each user, such as `user default off`. The harness adds a user of
    /// its own, so that [`Redis::command`] goes on.
    pub acl: Option<String>,
    /// Whether the port takes TLS, and nothing else, with a certificate for `localhost` and
    /// `127.0.0.1`; see [`Redis::ca`].
    pub tls: bool,
    /// With `tls`: another certificate, and that of the authority (in PEM) which signed it.
    pub identity: Option<(String, Identity)>,
    /// Host and port of a primary.
    pub replica_of: Option<(String, u16)>,
}

/// What a process is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Sentinel,
    /// With a port for the other nodes.
    Node,
}

/// A private server that keeps nothing. It ends when this is dropped, and when this process ends.
pub struct Redis {
    guard: Guard,
    kind: Kind,
    options: RedisOptions,
    port: u16,
    /// Where the nodes of a cluster speak with each other.
    bus: u16,
    ca: Option<PathBuf>,
    server: Mutex<Option<Child>>,
}

impl Redis {
    /// Starts a server that takes every command of everyone.
    pub fn start() -> Self {
        Self::with(RedisOptions::default())
    }

    /// Starts a server with these options.
    pub fn with(options: RedisOptions) -> Self {
        Self::run(Kind::Server, options)
    }

    fn run(kind: Kind, options: RedisOptions) -> Self {
        let guard = Guard::new("redis", KILL_ALL);
        let home = guard.home();
        let files = options.tls.then(|| match &options.identity {
            Some((authority, identity)) => tls::write_signed(home, authority, identity),
            None => tls::write(home, &["localhost", "127.0.0.1"]),
        });
        let ca = files.map(|files| files.authority);
        if let Some(acl) = &options.acl {
            let [name, password] = HARNESS;
            let acl = format!("{acl}\nuser {name} on >{password} ~* &* +@all\n");
            std::fs::write(home.join("acl"), acl).expect("the access list can be written");
        }
        let mut redis = Self {
            guard,
            kind,
            options,
            port: 0,
            bus: 0,
            ca,
            server: Mutex::new(None),
        };
        loop {
            redis.port = draw_port();
            if kind == Kind::Node {
                redis.bus = draw_port();
            }
            redis.configure();
            match redis.launch() {
                Ok(()) => return redis,
                Err(log) if is_taken(&log) => {}
                Err(log) => panic!("Redis does not start:\n{log}"),
            }
        }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Its directory, which goes with it.
    pub fn directory(&self) -> &Path {
        self.guard.home()
    }

    /// The URL: `redis://127.0.0.1:PORT`, with TLS `rediss://127.0.0.1:PORT?ca=PATH`.
    pub fn url(&self) -> String {
        self.url_via(self.address())
    }

    /// The URL through a proxy that listens at `address`.
    pub fn url_via(&self, address: SocketAddr) -> String {
        match &self.ca {
            None => format!("redis://{address}"),
            Some(ca) => format!("rediss://{address}?ca={}", ca.display()),
        }
    }

    /// The unix socket, which never takes TLS.
    pub fn socket(&self) -> PathBuf {
        self.directory().join("socket")
    }

    /// The URL of the unix socket: `redis+unix:///PATH`.
    pub fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The certificate of the authority that signed the server's, with [`RedisOptions::tls`].
    pub fn ca(&self) -> &Path {
        self.ca.as_deref().expect("started with TLS")
    }

    /// What it wrote into its log since it was started.
    pub fn log(&self) -> String {
        // It can be read by whom it was written for.
        std::fs::read_to_string(self.directory().join("log")).unwrap_or_default()
    }

    /// Whether it was started and not killed since.
    pub fn is_running(&self) -> bool {
        self.server.lock().is_some()
    }

    /// Kills it, as a power cut would.
    pub fn kill(&self) {
        if let Some(server) = self.server.lock().take() {
            processes::kill_family(server);
        }
    }

    /// Kills it if it runs, and starts it again: on the same port, and empty. What others changed in
    /// its configuration stays: roles that a sentinel gave, the slots of a node.
    pub fn restart(&self) {
        self.kill();
        wait_until("Redis starts again", PATIENCE, || match self.launch() {
            Ok(()) => true,
            Err(log) if is_taken(&log) => false,
            Err(log) => panic!("Redis does not start again:\n{log}"),
        });
    }

    /// Stops it, as SIGSTOP does, until [`Self::resume`].
    pub fn pause(&self) {
        let server = self.server.lock();
        processes::stop(id(server.as_ref().expect("the server runs")));
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let server = self.server.lock();
        let pid = id(server.as_ref().expect("the server runs"));
        processes::send(pid, Signal::CONT);
    }

    /// The answer to a command, such as `["SET", "key", "value"]`, as text.
    ///
    /// # Panics
    ///
    /// When the answer is an error, and when there is none.
    pub fn command(&self, parts: &[&str]) -> String {
        self.try_command(parts)
            .unwrap_or_else(|error| panic!("{parts:?}: {error}"))
    }

    /// The answer to a command as text, or the error: the server's, or that of the connection.
    pub fn try_command(&self, parts: &[&str]) -> Result<String, String> {
        let asked = self.connect().and_then(|mut open| open.ask(parts));
        answer(asked)
    }

    /// The answer to a command of this user.
    pub fn try_command_as(
        &self,
        user: &str,
        password: &str,
        parts: &[&str],
    ) -> Result<String, String> {
        let open = RedisConnection::connect_unix(&self.socket());
        let mut open = open.map_err(|error| error.to_string())?;
        answer(open.ask(&["AUTH", user, password]))?;
        answer(open.ask(parts))
    }

    /// The answer to a command with any bytes. An error of the server is an answer, too.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn query(&self, parts: &[&[u8]]) -> Reply {
        let asked = self.connect().and_then(|mut open| open.query(parts));
        asked.unwrap_or_else(|error| panic!("Redis does not answer: {error}\n{}", self.log()))
    }

    /// A connection over the unix socket, of someone who may everything.
    pub fn connect(&self) -> io::Result<RedisConnection> {
        let mut open = RedisConnection::connect_unix(&self.socket())?;
        if self.options.acl.is_some() {
            let [name, password] = HARNESS;
            let reply = open.ask(&["AUTH", name, password])?;
            if let Reply::Error(error) = reply {
                return Err(io::Error::other(error));
            }
        }
        Ok(open)
    }

    /// Waits until the server says so of itself: `ROLE` is `master`, `slave` or `sentinel`.
    fn wait_for_role(&self, role: &str) {
        wait_until(&format!("Redis is a {role}"), PATIENCE, || {
            self.try_command(&["ROLE"])
                .is_ok_and(|said| said.lines().next() == Some(role))
        });
    }

    /// Waits until a replica has what its primary has.
    pub fn wait_for_sync(&self) {
        wait_until("a replica follows", PATIENCE, || {
            self.try_command(&["INFO", "replication"])
                .is_ok_and(|info| info.contains("master_link_status:up"))
        });
    }

    /// Writes its configuration, which others may rewrite afterwards.
    fn configure(&self) {
        let home = self.directory();
        let path = |name: &str| format!("\"{}\"", home.join(name).display());
        let mut text = String::from("bind 127.0.0.1\ndaemonize no\n");
        let mut line = |name: &str, value: &str| {
            writeln!(text, "{name} {value}").expect("text takes text");
        };
        let port = self.port.to_string();
        line("unixsocket", &path("socket"));
        if self.options.tls {
            line("port", "0");
            line("tls-port", &port);
            line("tls-ca-cert-file", &path("ca.crt"));
            line("tls-cert-file", &path("server.crt"));
            line("tls-key-file", &path("server.key"));
            line("tls-auth-clients", "no");
        } else {
            line("port", &port);
        }
        if self.kind != Kind::Sentinel {
            line("save", "\"\"");
            line("appendonly", "no");
            // A replica has everything at once.
            line("repl-diskless-sync-delay", "0");
        }
        if self.kind == Kind::Node {
            line("cluster-enabled", "yes");
            line("cluster-port", &self.bus.to_string());
        }
        if self.options.acl.is_some() {
            line("aclfile", &path("acl"));
        }
        if let Some((host, port)) = &self.options.replica_of {
            line("replicaof", &format!("{host} {port}"));
        }
        for given in &self.options.lines {
            line(given, "");
        }
        std::fs::write(home.join("conf"), text).expect("the configuration can be written");
    }

    /// Starts the server and waits until it answers; its log when it ends instead.
    fn launch(&self) -> Result<(), String> {
        let home = self.directory();
        let log = File::create(home.join("log")).expect("the log can be written");
        let errors = log.try_clone().expect("a file can be shared");
        let mut command = program::command();
        command.arg(home.join("conf"));
        if self.kind == Kind::Sentinel {
            command.arg("--sentinel");
        }
        let mut server = command
            .current_dir(home)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("Redis can be started");
        let mut ended = None;
        wait_until("Redis is ready", PATIENCE, || {
            ended = server.try_wait().expect("it can be waited for");
            ended.is_some() || self.try_command(&["PING"]).is_ok()
        });
        match ended {
            None => {
                *self.server.lock() = Some(server);
                Ok(())
            }
            Some(_) => Err(self.log()),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn answer(asked: io::Result<Reply>) -> Result<String, String> {
    match asked {
        Ok(Reply::Error(error)) => Err(error),
        Ok(reply) => Ok(reply.text()),
        Err(error) => Err(error.to_string()),
    }
}

fn is_taken(log: &str) -> bool {
    log.contains("Address already in use")
}
