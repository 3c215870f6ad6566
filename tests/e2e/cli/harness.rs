//! Runs the binary, alone or against its own service.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use keyward_testkit::Process;
use serde_json::Value;
use tempfile::TempDir;

use super::names::same_names;

use crate::BINARY;

/// What a command did.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Outcome {
    /// The lines that it printed, which must be all that it said but for a note on stderr.
    #[track_caller]
    pub(super) fn done(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        let only_a_note = self.err.is_empty() || self.err.starts_with("note: ");
        assert!(only_a_note, "{}", self.err);
        self.out
    }

    /// What it said on stderr, which must be all that it said.
    #[track_caller]
    pub(super) fn refused(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        self.err
    }
}

/// The command in `directory`, without the KEYWARD variables of the environment.
pub(super) fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEYWARD_") {
            command.env_remove(name);
        }
    }
    command.current_dir(directory).args(arguments);
    command
}

/// Runs it to its end. stderr must contain no key and no token.
pub(super) fn run(mut command: Command, input: &str) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no stdin may have ended before this is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let outcome = Outcome {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!holds_secret(&outcome.err), "{}", outcome.err);
    outcome
}

pub(super) fn holds_secret(text: &str) -> bool {
    let secret = regex::Regex::new(r"kwt?_[0-9A-Za-z]{20}").unwrap();
    secret.is_match(text)
}

pub(super) fn alone(arguments: &[&str]) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    run(command(directory.path(), arguments), "")
}

/// A running service, and a directory to call it from.
pub(super) struct Service {
    pub(super) process: Process,
    pub(super) directory: TempDir,
}

impl Service {
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("keyward-data");
        let process = Process::start(Process::command(BINARY, &data), &data);
        Self { process, directory }
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.directory.path(), arguments);
        command.env("KEYWARD_ENDPOINT", format!("http://{}", self.process.grpc));
        command
    }

    pub(super) fn call(&self, arguments: &[&str], input: &str) -> Outcome {
        run(self.command(arguments), input)
    }

    /// The answer as JSON, which must have the names of the wire's `message`.
    #[track_caller]
    pub(super) fn json(&self, message: &str, arguments: &[&str], input: &str) -> Value {
        let text = self.json_of(arguments, input).done();
        let json = serde_json::from_str(&text).unwrap();
        same_names(&json, message);
        json
    }

    pub(super) fn json_of(&self, arguments: &[&str], input: &str) -> Outcome {
        self.call(&[arguments, &["--output", "json"]].concat(), input)
    }

    /// Issues a key: its id and its text.
    #[track_caller]
    pub(super) fn issue(&self, account: &str) -> (String, String) {
        let json = self.json("IssueResponse", &["issue", "--account", account], "");
        (text(&json["key"]["key_id"]), text(&json["api_key"]))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.process.stop().success());
            let log = self.process.output();
            assert!(!holds_secret(&log), "{log}");
        }
    }
}

pub(super) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}
