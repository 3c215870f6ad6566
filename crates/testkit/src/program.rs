//! Any program as a process: started, waited for until it says that it is ready, stopped, killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::deadline::wait_until;
use crate::processes;

/// A start or a stop that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process. Killed when dropped.
pub struct Program {
    name: &'static str,
    child: Child,
    output: Arc<Mutex<String>>,
    ready: String,
}

impl Program {
    /// Starts `command`, and waits until a line of its stderr begins with `ready`.
    ///
    /// # Panics
    ///
    /// When it ends or does not become ready; with what it said.
    pub fn start(name: &'static str, mut command: Command, ready: &'static str) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let stderr = child.stderr.take().expect("stderr is piped");
        let output = Arc::<Mutex<String>>::default();
        let (tell, told) = mpsc::channel();
        let gathered = Arc::clone(&output);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                gathered.lock().push_str(&format!("{line}\n"));
                if let Some(rest) = line.strip_prefix(ready) {
                    // The test may have stopped waiting.
                    let _ = tell.send(rest.to_owned());
                }
            }
        });
        let mut program = Self {
            name,
            child,
            output,
            ready: String::new(),
        };
        match told.recv_timeout(PATIENCE) {
            Ok(rest) => program.ready = rest,
            Err(_) => {
                let status = program.child.try_wait();
                panic!(
                    "{name} did not become ready ({status:?}):\n{}",
                    program.output()
                );
            }
        }
        program
    }

    /// What stood behind the beginning of the line that said it is ready.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// What it has said on stderr so far.
    pub fn output(&self) -> String {
        self.output.lock().clone()
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        let status = self.child.try_wait();
        status.expect("a process can be waited for").is_none()
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        processes::send(processes::id(&self.child), Signal::TERM);
        let name = self.name;
        wait_until(&format!("{name} stops"), PATIENCE, || !self.runs());
        self.child.wait().expect("the process has ended")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
