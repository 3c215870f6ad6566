//! A private PgBouncer in session mode with its default settings, before a database.

use std::fs::{File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::deadline::{PATIENCE, wait_until};
use crate::guard::{Guard, KILL_ALL};
use crate::ports::draw_port;
use crate::postgres::{Database, User};
use crate::processes;

/// A pooler. It ends when this is dropped and when this process ends.
pub struct PgBouncer {
    server: Option<Child>,
    address: SocketAddr,
    // Dropped after the server is killed.
    _guard: Guard,
}

impl PgBouncer {
    /// Starts a pooler before `database`, for its serving role.
    ///
    /// # Panics
    ///
    /// This machine has no PgBouncer.
    pub fn start(database: &Database) -> Self {
        let guard = Guard::new("pgbouncer", KILL_ALL);
        let home = guard.home();
        // PgBouncer gives up the rights of root.
        std::fs::set_permissions(home, Permissions::from_mode(0o777)).expect("modes can be set");
        let user = match rustix::process::geteuid().is_root() {
            true => "user = nobody\n",
            false => "",
        };
        let (name, postgres) = (database.name(), database.address());
        let (role, password) = (User::Service.name(), User::Service.password());
        std::fs::write(home.join("users"), format!("\"{role}\" \"{password}\"\n"))
            .expect("the users can be written");
        loop {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, draw_port()));
            let settings = format!(
                "[databases]\n{name} = host={} port={}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
                 auth_type = md5\nauth_file = users\npool_mode = session\n{user}",
                postgres.ip(),
                postgres.port(),
                address.port()
            );
            std::fs::write(home.join("ini"), settings).expect("the settings can be written");
            let log = File::create(home.join("log")).expect("the log can be written");
            let mut server = Command::new(program())
                .arg("ini")
                .current_dir(home)
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("pgbouncer can be started");
            let mut ended = false;
            wait_until("PgBouncer is ready", PATIENCE, || {
                ended = server.try_wait().expect("it can be waited for").is_some();
                ended || TcpStream::connect(address).is_ok()
            });
            let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
            match ended {
                false => {
                    return Self {
                        server: Some(server),
                        address,
                        _guard: guard,
                    };
                }
                true => assert!(log.contains("Address already in use"), "PgBouncer:\n{log}"),
            }
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            processes::kill_family(server);
        }
    }
}

/// Debian installs the program where ordinary users do not look.
fn program() -> &'static str {
    let mut programs = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter();
    let found = programs.find(|program| std::path::Path::new(program).is_file());
    found.expect("the tests require PgBouncer; scripts/install-test-tools.sh installs it")
}
