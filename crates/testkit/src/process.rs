//! Keyward as a process: start, stop, kill, pause.

use std::borrow::BorrowMut;
use std::ffi::OsStr;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use crate::deadline::PATIENCE;
use crate::{Client, Program};

/// The constant part of the ready line.
pub(crate) const READY: &str = "keyward is ready: gRPC on ";

/// A running `keyward serve`. Killed when dropped.
pub struct Process {
    program: Program,
    /// The gRPC address.
    pub grpc: SocketAddr,
    /// The address of the JSON port, if there is one.
    pub rest: Option<SocketAddr>,
    /// The address of the side port.
    pub http: SocketAddr,
    data_dir: PathBuf,
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
            .args(["--rest-listen", "127.0.0.1:0"])
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
    pub fn spawn(command: Command, data_dir: &Path) -> Starting {
        Starting {
            program: Program::spawn("keyward", command, READY),
            data_dir: data_dir.to_path_buf(),
        }
    }

    /// Runs `command` to its end. Returns its status and its stderr. A process that does not end is
    /// killed, which its status shows.
    pub fn run_to_end(mut command: impl BorrowMut<Command>) -> (ExitStatus, String) {
        let (mut child, mut stderr) = spawn(command.borrow_mut());
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
}

impl Deref for Process {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

/// A started process that may not be ready. Killed when dropped.
pub struct Starting {
    program: Program,
    data_dir: PathBuf,
}

impl Starting {
    /// Waits until the process is ready.
    ///
    /// # Panics
    ///
    /// The process ends or does not become ready. The message contains its output.
    pub fn ready(self) -> Process {
        self.try_ready().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Waits until the process is ready. Returns why it is not.
    pub(crate) fn try_ready(self) -> Result<Process, String> {
        let program = self.program.until_ready()?;
        let addresses = program.ready().split_once(", metrics and probes on ");
        let (others, http) = addresses.expect("the ready line names the side port");
        let addresses = others.split_once(", JSON ");
        let (grpc, rest) = addresses.expect("the ready line names the JSON port");
        let address = |text: &str| text.parse().expect("an address");
        Ok(Process {
            grpc: address(grpc),
            rest: rest.strip_prefix("on ").map(address),
            http: address(http),
            program,
            data_dir: self.data_dir,
        })
    }

    /// The output on stderr so far.
    pub fn output(&self) -> String {
        self.program.output()
    }
}

/// The command `binary` without the KEYWARD variables of this process.
pub fn without_settings(binary: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEYWARD_") {
            command.env_remove(name);
        }
    }
    command
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
