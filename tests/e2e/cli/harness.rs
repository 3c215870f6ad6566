//! Runs the binary, alone or against its own service.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use keyward_testkit::{Process, without_settings};
use serde_json::Value;
use tempfile::TempDir;

use super::names::same_names;

use crate::BINARY;

/// The result of a command.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Outcome {
    /// Stdout of a command that succeeded. Stderr may hold only a note.
    #[track_caller]
    pub(super) fn done(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        let only_a_note = self.err.is_empty() || self.err.starts_with("note: ");
        assert!(only_a_note, "{}", self.err);
        self.out
    }

    /// Stderr of a command that failed with `code`. Stdout must be empty.
    #[track_caller]
    pub(super) fn refused(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        self.err
    }
}

/// The command in `directory`, without the KEYWARD variables of the environment.
pub(super) fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = without_settings(BINARY);
    command.current_dir(directory).args(arguments);
    command
}

/// Runs the command to its end. Stderr must never hold a key or a token.
pub(super) fn run(mut command: Command, input: &str) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // This fails if the command ends without reading stdin.
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

/// A running service, and the directory of its callers.
pub(super) struct Service {
    pub(super) process: Process,
    pub(super) directory: TempDir,
}

impl Service {
    pub(super) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts with these variables.
    pub(super) fn start_with(variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("keyward-data");
        let mut command = Process::command(BINARY, &data);
        command.envs(variables.iter().copied());
        let process = Process::start(command, &data);
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

    /// The output as JSON, which must have the field names of the wire's `message`.
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

    /// Issues a key. Returns its ID and its text.
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
        .unwrap_or_else(|| panic!("{value} is not a string"))
        .to_owned()
}
