//! The shell that runs the README's commands.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::BINARY;

const END_OF_OUTPUT: &str = "--- end of output ---";

/// One shell for all commands, so that its variables and `$?` are as they would be.
pub(super) struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    pub(super) fn start(directory: &Path) -> Self {
        let binaries = PathBuf::from(BINARY).parent().unwrap().to_path_buf();
        let venv = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin");
        let mut path = vec![binaries];
        if let Some(python) = std::env::var_os("KEYWARD_TEST_PYTHON").filter(|p| !p.is_empty()) {
            // `python` must mean that very interpreter.
            let bin = directory.join(".bin");
            std::fs::create_dir(&bin).unwrap();
            let script = format!("#!/bin/sh\nexec '{}' \"$@\"\n", python.to_string_lossy());
            std::fs::write(bin.join("python"), script).unwrap();
            let made = Command::new("chmod")
                .arg("+x")
                .arg(bin.join("python"))
                .status()
                .unwrap();
            assert!(made.success());
            path.push(bin);
        }
        path.push(venv);
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("KEYWARD_") || name.to_lowercase().ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["--norc", "--noprofile"])
            .env("PATH", std::env::join_paths(path).unwrap())
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash can be started");
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "exec 2>&1").unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    /// What the command prints, on either stream.
    pub(super) fn execute(&mut self, command: &str) -> String {
        let script = format!(
            "(exit ${{last:-0}}); {{ {command}\n}} </dev/null; last=$?; printf '%s\\n' '{END_OF_OUTPUT}'\n"
        );
        self.input.write_all(script.as_bytes()).unwrap();
        let mut printed = String::new();
        loop {
            let before = printed.len();
            assert_ne!(
                self.output.read_line(&mut printed).unwrap(),
                0,
                "the shell ended: {printed}"
            );
            if printed[before..].trim_end() == END_OF_OUTPUT {
                printed.truncate(before);
                return printed;
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
