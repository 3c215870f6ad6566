//! Programs of others that listen on a port of this machine.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::deadline::{PATIENCE, wait_until};
use crate::files::{read, write};
use crate::guard::{Guard, KILL_ALL};
use crate::ports::draw_port;
use crate::process::without_settings;
use crate::processes;

/// The file of a collector.
const RECEIVED: &str = "received.json";

/// The root of this repository.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A running program. It ends when this is dropped and when this process ends.
pub struct PortServer {
    server: Option<Child>,
    address: SocketAddr,
    // Dropped after the server is killed.
    guard: Guard,
}

impl PortServer {
    /// Starts a Prometheus that scrapes `targets` five times a second, and evaluates the alerts of
    /// `deploy/prometheus` as often.
    ///
    /// # Panics
    ///
    /// This machine lacks Prometheus, or it does not start.
    pub fn prometheus(targets: &[SocketAddr]) -> Self {
        let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
        let rules = Path::new(ROOT).join("deploy/prometheus/keyward.rules.yml");
        let settings = format!(
            "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }}\n\
             rule_files: [{rules:?}]\n\
             scrape_configs: [{{ job_name: keyward, static_configs: [{{ targets: {targets:?} }}] }}]\n"
        );
        let guard = Guard::new("prometheus", KILL_ALL);
        Self::start("Prometheus", guard, |home, port| {
            write(&home.join("prometheus.yml"), &settings);
            let mut command = without_settings(program("prometheus"));
            command
                .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
                .arg(format!("--web.listen-address=127.0.0.1:{port}"));
            command
        })
    }

    /// Starts an OpenTelemetry collector. It writes what it receives to [`Self::received`].
    ///
    /// # Panics
    ///
    /// This machine lacks the collector of `tests/e2e/collector`, or it does not start.
    pub fn collector() -> Self {
        let guard = Guard::new("collector", KILL_ALL);
        Self::start("the collector", guard, |home, port| {
            let settings = format!(
                "receivers: {{ otlp: {{ protocols: {{ grpc: {{ endpoint: '127.0.0.1:{port}' }} }} }} }}\n\
                 exporters: {{ file: {{ path: {RECEIVED}, flush_interval: 100ms }} }}\n\
                 service:\n  \
                   telemetry: {{ metrics: {{ level: none }} }}\n  \
                   pipelines:\n    \
                     traces: {{ receivers: [otlp], exporters: [file] }}\n    \
                     metrics: {{ receivers: [otlp], exporters: [file] }}\n    \
                     logs: {{ receivers: [otlp], exporters: [file] }}\n"
            );
            write(&home.join("collector.yml"), &settings);
            let mut command = without_settings(program("otelcol"));
            command.arg("--config=collector.yml");
            command
        })
    }

    /// What a collector has received: a line of JSON for each request.
    pub fn received(&self) -> String {
        read(&self.guard.home().join(RECEIVED))
    }

    /// Starts what `command` returns for the home of `guard` and a free port, until the port is still
    /// free when the program takes it.
    pub(crate) fn start(
        name: &str,
        guard: Guard,
        mut command: impl FnMut(&Path, u16) -> Command,
    ) -> Self {
        let home = guard.home();
        loop {
            let port = draw_port();
            let log = home.join("log");
            let output = File::create(&log).expect("a log can be written");
            let mut server = command(home, port)
                .current_dir(home)
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(output.try_clone().expect("a file can be shared"))
                .stderr(output)
                .spawn()
                .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut ended = false;
            wait_until(&format!("{name} is ready"), PATIENCE, || {
                ended = server.try_wait().expect("it can be waited for").is_some();
                ended || TcpStream::connect(address).is_ok()
            });
            if !ended {
                return Self {
                    server: Some(server),
                    address,
                    guard,
                };
            }
            let log = read(&log).to_lowercase();
            assert!(log.contains("address already in use"), "{name}:\n{log}");
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PortServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            processes::kill_family(server);
        }
    }
}

/// The path of a program: installed by `scripts/install-test-tools.sh`, or of this machine.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<_> = std::env::split_paths(&path).collect();
    let installed = Path::new(ROOT).join("target/servers/bin");
    let mut places = [vec![installed], path, vec!["/usr/sbin".into()]]
        .concat()
        .into_iter();
    let found = places.find_map(|place| {
        let program = place.join(name);
        program.is_file().then_some(program)
    });
    found.unwrap_or_else(|| {
        panic!("the tests require {name}; scripts/install-test-tools.sh installs it")
    })
}
