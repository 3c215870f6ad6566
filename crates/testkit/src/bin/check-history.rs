//! Checks a history of the promise tests: `check-history FILE`. Exits with 0 if the history keeps
//! the promise, with 1 if it violates the promise, and with 2 if it cannot be checked.

use std::io::{Write, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use keyward_testkit::{Report, check};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let judged = match arguments.as_slice() {
        [path] => check(Path::new(path)).map_err(|error| error.to_string()),
        _ => Err("check-history takes one argument, the file of a history".to_owned()),
    };
    match judged {
        Ok(report) => print(&report),
        Err(error) => {
            // A failure to write the reason does not change the exit status.
            let _ = writeln!(stderr(), "{error}");
            ExitCode::from(2)
        }
    }
}

fn print(report: &Report) -> ExitCode {
    let mut text = format!("{report}\n");
    for (instance, counts) in &report.instances {
        text += &format!(
            "instance {instance}: {} verifies, {} after the key's death, {} VALID, {} UNAVAILABLE\n",
            counts.verifies, counts.after_death, counts.valid, counts.unavailable
        );
    }
    for violation in &report.violations {
        text += &format!("{violation}\n");
    }
    if stdout().write_all(text.as_bytes()).is_err() {
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(!report.violations.is_empty()))
}
