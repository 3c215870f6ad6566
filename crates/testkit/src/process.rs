//! Keyward as a process: start, stop, kill, pause.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Client;

/// The time limit for a start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `keyward serve`. Killed when dropped.
pub struct Process {
    child: Child,
    /// The gRPC address.
    pub grpc: SocketAddr,
    /// The address of the side port.
    pub http: SocketAddr,
    data_dir: PathBuf,
    output: Arc<Mutex<String>>,
}

impl Process {
    /// The command that starts `binary` on `data_dir` and free ports, without the KEYWARD variables
    /// of this process.
    pub fn command(binary: &str, data_dir: &Path) -> Command {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::command_on(binary, data_dir, any)
    }

    /// Like [`Self::command`], with gRPC on `listen`, for example the address of an earlier
    /// process.
    pub fn command_on(binary: &str, data_dir: &Path, listen: SocketAddr) -> Command {
        let mut command = without_settings(binary);
        command
            .current_dir(data_dir.parent().unwrap_or(data_dir))
            .args(["serve", "--listen", &listen.to_string()])
            .args(["--http-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data_dir);
        command
    }

    /// Starts `command` (see [`Self::command`]) and waits until it is ready.
    pub fn start(command: Command, data_dir: &Path) -> Self {
        Self::spawn(command, data_dir).ready()
    }

    /// Starts `command` without waiting.
    pub fn spawn(mut command: Command, data_dir: &Path) -> Starting {
        let (child, stderr) = spawn(&mut command);
        let output = Arc::new(Mutex::new(String::new()));
        let (sender, ready) = mpsc::channel();
        let gathered = Arc::clone(&output);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(addresses) = addresses(&line) {
                    // The test may have stopped waiting.
                    let _ = sender.send(addresses);
                }
                gathered.lock().push_str(&(line + "\n"));
            }
        });
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let process = Self {
            child,
            grpc: nowhere,
            http: nowhere,
            data_dir: data_dir.to_path_buf(),
            output,
        };
        Starting { process, ready }
    }

    /// Runs `command` to its end. Returns its status and its stderr. A process that does not end is
    /// killed, which its status shows.
    pub fn run_to_end(mut command: Command) -> (ExitStatus, String) {
        let (mut child, mut stderr) = spawn(&mut command);
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // Unreadable output is ignored.
            let _ = stderr.read_to_end(&mut bytes);
            // The test may have stopped waiting.
            let _ = sender.send(bytes);
        });
        let bytes = ended.recv_timeout(PATIENCE).or_else(|_| {
            child.kill().expect("the process can be killed");
            ended.recv()
        });
        let bytes = bytes.expect("stderr was read");
        (
            child.wait().expect("the process ends"),
            String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// A client with every role.
    pub async fn client(&self) -> Client {
        Client::new(self.grpc, Some(&self.token())).await
    }

    /// The first token.
    pub fn token(&self) -> String {
        super::local::token_in(&self.data_dir)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The output on stderr so far.
    pub fn output(&self) -> String {
        self.output.lock().clone()
    }

    /// Sends a signal, such as `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .expect("kill can be started");
        assert!(sent.success(), "kill -s {name}");
    }

    /// Kills the process with SIGKILL, like a power failure.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Stops the process and waits for its end.
    #[expect(
        clippy::disallowed_methods,
        reason = "a deadline of the harness, not of the service"
    )]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let begun = Instant::now();
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .expect("the process can be waited for")
            {
                return status;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "keyward did not stop:\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A started process that may not be ready. Killed when dropped.
pub struct Starting {
    process: Process,
    ready: mpsc::Receiver<(SocketAddr, SocketAddr)>,
}

impl Starting {
    /// Waits until the process is ready.
    pub fn ready(mut self) -> Process {
        let Ok((grpc, http)) = self.ready.recv_timeout(PATIENCE) else {
            let status = self.process.child.try_wait();
            panic!(
                "keyward did not become ready ({status:?}):\n{}",
                self.process.output()
            );
        };
        (self.process.grpc, self.process.http) = (grpc, http);
        self.process
    }

    /// The output on stderr so far.
    pub fn output(&self) -> String {
        self.process.output()
    }
}

/// The command `binary` without the KEYWARD variables of this process.
pub(crate) fn without_settings(binary: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEYWARD_") {
            command.env_remove(name);
        }
    }
    command
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `command` with a piped stderr.
pub(crate) fn spawn(command: &mut Command) -> (Child, ChildStderr) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
    let stderr = child.stderr.take().expect("stderr is piped");
    (child, stderr)
}

/// The addresses in the ready line.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let rest = line.strip_prefix("keyward is ready: gRPC on ")?;
    let (grpc, http) = rest.split_once(", metrics and probes on ")?;
    Some((grpc.parse().ok()?, http.parse().ok()?))
}
