//! A program as a process: start and wait until it is ready, stop, kill.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::deadline::wait_until;
use crate::process::spawn;
use crate::processes;

/// The time limit for a start or a stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process. Killed when dropped.
pub struct Program {
    name: &'static str,
    child: Child,
    output: Arc<Mutex<String>>,
    ready: String,
}

impl Program {
    /// Starts `command` and waits until a line of its stderr starts with `ready`.
    ///
    /// # Panics
    ///
    /// The program ends or does not become ready. The message contains its output.
    pub fn start(name: &'static str, mut command: Command, ready: &'static str) -> Self {
        let (child, stderr) = spawn(&mut command);
        let output = Arc::<Mutex<String>>::default();
        let (sender, receiver) = mpsc::channel();
        let gathered = Arc::clone(&output);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                gathered.lock().push_str(&format!("{line}\n"));
                if let Some(rest) = line.strip_prefix(ready) {
                    // The test may have stopped waiting.
                    let _ = sender.send(rest.to_owned());
                }
            }
        });
        let mut program = Self {
            name,
            child,
            output,
            ready: String::new(),
        };
        match receiver.recv_timeout(PATIENCE) {
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

    /// The rest of the ready line.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// The output on stderr so far.
    pub fn output(&self) -> String {
        self.output.lock().clone()
    }

    /// Whether the program is still running.
    pub fn runs(&mut self) -> bool {
        let status = self.child.try_wait();
        status.expect("a process can be waited for").is_none()
    }

    /// Kills the program with SIGKILL, like a power failure.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Stops the program and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        processes::send(processes::id(&self.child), Signal::TERM);
        let name = self.name;
        wait_until(&format!("{name} stops"), PATIENCE, || !self.runs());
        self.child.wait().expect("the process has ended")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
