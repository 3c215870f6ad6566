//! Private Redis servers on free ports, which a test can kill and pause: a single server, with
//! sentinels, or a cluster. No files or processes remain, however this process ends.

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

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::deadline::{PATIENCE, wait_until};
use crate::guard::{Guard, KILL_ALL};
use crate::ports::draw_port;
use crate::processes::{self, id};
use crate::tls::{self, Identity};
pub use cluster::RedisCluster;
pub use sentinel::RedisSentinel;
pub use wire::{RedisConnection, Reply};

/// The harness's user on a server with an access list. The password is not secret: only this
/// machine can reach the server, and the server ends with the test.
const HARNESS: [&str; 2] = ["testkit", "testkit-secret"];

/// The options of a server.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Additional lines of the configuration, such as `maxmemory 2mb`. The last line for a name
    /// applies.
    pub lines: Vec<String>,
    /// The access list: one line for each user, such as `user default off`. The harness adds its
    /// own user, so that [`Redis::command`] still works.
    pub acl: Option<String>,
    /// Whether the port accepts only TLS, with a certificate for `localhost` and `127.0.0.1`. See
    /// [`Redis::ca`].
    pub tls: bool,
    /// With `tls`: another certificate, and the authority (PEM) that signed it.
    pub identity: Option<(String, Identity)>,
    /// The host and port of the primary, for a replica.
    pub replica_of: Option<(String, u16)>,
}

/// The role of a process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Sentinel,
    /// With the port of the cluster bus.
    Node,
}

/// A private server without persistence. It ends when this is dropped and when this process ends.
pub struct Redis {
    guard: Guard,
    kind: Kind,
    options: RedisOptions,
    port: u16,
    /// The port of the cluster bus.
    bus: u16,
    ca: Option<PathBuf>,
    server: Mutex<Option<Child>>,
}

impl Redis {
    /// Starts a server without access control.
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

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the server.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The directory of the server, which is removed with it.
    pub fn directory(&self) -> &Path {
        self.guard.home()
    }

    /// The URL: `redis://127.0.0.1:PORT`, with TLS `rediss://127.0.0.1:PORT?ca=PATH`.
    pub fn url(&self) -> String {
        self.url_via(self.address())
    }

    /// The URL through a proxy at `address`.
    pub fn url_via(&self, address: SocketAddr) -> String {
        match &self.ca {
            None => format!("redis://{address}"),
            Some(ca) => format!("rediss://{address}?ca={}", ca.display()),
        }
    }

    /// The path of the Unix socket, which never uses TLS.
    pub fn socket(&self) -> PathBuf {
        self.directory().join("socket")
    }

    /// The URL of the Unix socket: `redis+unix:///PATH`.
    pub fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The certificate of the authority that signed the server's certificate. Requires
    /// [`RedisOptions::tls`].
    pub fn ca(&self) -> &Path {
        self.ca.as_deref().expect("started with TLS")
    }

    /// The log since the start of the server.
    pub fn log(&self) -> String {
        // An unreadable log counts as empty.
        std::fs::read_to_string(self.directory().join("log")).unwrap_or_default()
    }

    /// Whether the server was started and not killed.
    pub fn is_running(&self) -> bool {
        self.server.lock().is_some()
    }

    /// Kills the server with SIGKILL, like a power failure.
    pub fn kill(&self) {
        if let Some(server) = self.server.lock().take() {
            processes::kill_family(server);
        }
    }

    /// Kills the server if it is running, and starts it again: empty, on the same port. Its
    /// configuration keeps later changes, such as roles that a sentinel set or the slots of a node.
    pub fn restart(&self) {
        self.kill();
        wait_until("Redis starts again", PATIENCE, || match self.launch() {
            Ok(()) => true,
            Err(log) if is_taken(&log) => false,
            Err(log) => panic!("Redis does not start again:\n{log}"),
        });
    }

    /// Pauses the server with SIGSTOP until [`Self::resume`].
    pub fn pause(&self) {
        let server = self.server.lock();
        processes::stop(id(server.as_ref().expect("the server runs")));
    }

    /// Resumes the server.
    pub fn resume(&self) {
        let server = self.server.lock();
        let pid = id(server.as_ref().expect("the server runs"));
        processes::send(pid, Signal::CONT);
    }

    /// Runs a command, such as `["SET", "key", "value"]`, and returns the response as text.
    ///
    /// # Panics
    ///
    /// The response is an error, or the server does not respond.
    pub fn command(&self, parts: &[&str]) -> String {
        self.try_command(parts)
            .unwrap_or_else(|error| panic!("{parts:?}: {error}"))
    }

    /// Runs a command. Returns the response as text, or the error of the server or the connection.
    pub fn try_command(&self, parts: &[&str]) -> Result<String, String> {
        let response = self.connect().and_then(|mut open| open.ask(parts));
        answer(response)
    }

    /// Runs a command as this user.
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

    /// Runs a command with arbitrary bytes. An error of the server is also a response.
    ///
    /// # Panics
    ///
    /// The server does not respond.
    pub fn query(&self, parts: &[&[u8]]) -> Reply {
        let response = self.connect().and_then(|mut open| open.query(parts));
        response.unwrap_or_else(|error| panic!("Redis does not respond: {error}\n{}", self.log()))
    }

    /// A connection over the Unix socket, with all rights.
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

    /// Waits until `ROLE` of the server is `master`, `slave` or `sentinel`.
    fn wait_for_role(&self, role: &str) {
        wait_until(&format!("Redis is a {role}"), PATIENCE, || {
            self.try_command(&["ROLE"])
                .is_ok_and(|text| text.lines().next() == Some(role))
        });
    }

    /// Waits until a replica has all data of its primary.
    pub fn wait_for_sync(&self) {
        wait_until("a replica follows", PATIENCE, || {
            self.try_command(&["INFO", "replication"])
                .is_ok_and(|info| info.contains("master_link_status:up"))
        });
    }

    /// Writes the configuration. Sentinels and cluster nodes can change it later.
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
            // A replica synchronises without a delay.
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

    /// Starts the server and waits until it responds. Returns its log if it ends instead.
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

fn answer(response: io::Result<Reply>) -> Result<String, String> {
    match response {
        Ok(Reply::Error(error)) => Err(error),
        Ok(reply) => Ok(reply.text()),
        Err(error) => Err(error.to_string()),
    }
}

fn is_taken(log: &str) -> bool {
    log.contains("Address already in use")
}
