//! A program as a process: start and wait until it is ready, stop, kill.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::deadline::{PATIENCE, wait_until};
use crate::process::spawn;
use crate::processes;

/// How often a program is started again, see [`was_too_late`].
pub(crate) const ATTEMPTS: usize = 10;

/// Whether a program says that a server did not answer in time, so that it may be started again: the
/// machine may be busy.
pub(crate) fn was_too_late(output: &str) -> bool {
    output.contains("no answer within")
}

/// A process. Killed when dropped.
pub struct Program {
    name: &'static str,
    child: Child,
    output: Arc<Mutex<String>>,
    lines: mpsc::Receiver<String>,
    ready: String,
}

impl Program {
    /// Starts `command` and waits until a line of its stderr starts with `ready`.
    ///
    /// # Panics
    ///
    /// The program ends or does not become ready. The message contains its output.
    pub fn start(name: &'static str, command: Command, ready: &'static str) -> Self {
        let program = Self::spawn(name, command, ready).until_ready();
        program.unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts `command` without waiting.
    pub(crate) fn spawn(name: &'static str, mut command: Command, ready: &'static str) -> Self {
        let (child, stderr) = spawn(&mut command);
        let output = Arc::<Mutex<String>>::default();
        let (sender, lines) = mpsc::channel();
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
        Self {
            name,
            child,
            output,
            lines,
            ready: String::new(),
        }
    }

    /// Waits until the program is ready. Returns why it is not.
    pub(crate) fn until_ready(mut self) -> Result<Self, String> {
        let Ok(rest) = self.lines.recv_timeout(PATIENCE) else {
            let (name, status, output) = (self.name, self.child.try_wait(), self.output());
            return Err(format!(
                "{name} did not become ready ({status:?}):\n{output}"
            ));
        };
        self.ready = rest;
        Ok(self)
    }

    /// The rest of the ready line.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
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

    /// Pauses the program. It answers nothing until [`Self::go_on`].
    pub fn pause(&self) {
        processes::stop(processes::id(&self.child));
    }

    /// Ends a pause.
    pub fn go_on(&self) {
        processes::send(processes::id(&self.child), Signal::CONT);
    }

    /// Asks the program to stop, and does not wait.
    pub fn begin_stop(&self) {
        processes::send(processes::id(&self.child), Signal::TERM);
    }

    /// Kills the program with SIGKILL, like a power failure.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process ends");
    }

    /// Stops the program and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.begin_stop();
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

/// A program that a test ends and starts again.
#[derive(Default)]
pub(crate) struct Restarted {
    running: Option<Program>,
    /// The output of the ended processes.
    past: String,
}

impl Restarted {
    /// Takes the running program. None may run before.
    pub(crate) fn start(&mut self, start: impl FnOnce() -> Program) {
        assert!(self.running.is_none(), "the program runs");
        self.running = Some(start());
    }

    /// The running program.
    pub(crate) fn running(&self) -> &Program {
        self.running.as_ref().expect("the program runs")
    }

    /// Whether the program has been started and has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.running.as_mut().is_some_and(Program::runs)
    }

    /// Kills the program with SIGKILL, like a power failure.
    pub(crate) fn kill(&mut self) {
        self.end(Program::kill);
    }

    /// Stops the program and waits for its end.
    ///
    /// # Panics
    ///
    /// The program ends with an error.
    pub(crate) fn stop(&mut self) {
        self.end(|program| {
            let status = program.stop();
            let (name, output) = (program.name, program.output());
            assert!(status.success(), "{name}: {status}\n{output}");
        });
    }

    fn end(&mut self, end: impl FnOnce(&mut Program)) {
        let mut program = self.running.take().expect("the program runs");
        end(&mut program);
        self.past += &program.output();
    }

    /// The output of all processes so far.
    pub(crate) fn output(&self) -> String {
        let running = self.running.as_ref().map(Program::output);
        self.past.clone() + &running.unwrap_or_default()
    }
}
