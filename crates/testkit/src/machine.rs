//! What benchmarks measure of a process, and where it runs. Linux only.

use std::process::{Command, Stdio};
use std::time::Duration;

/// The CPU time of a process, user and system, in steps of 10 ms.
pub fn cpu_time(process: u32) -> Duration {
    let stat = read(process, "stat");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<u64>().expect("ticks are a number");
    // Linux reports ticks of 10 ms on all architectures that we use.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// The resident memory of a process, in bytes.
pub fn memory(process: u32) -> u64 {
    let statm = read(process, "statm");
    let pages = statm.split_whitespace().nth(1).map(str::parse::<u64>);
    pages.expect("the resident pages").expect("a number") * 4_096
}

/// Binds all threads of a process to one core.
pub fn pin(process: u32, core: u32) {
    let pinned = Command::new("taskset")
        .args(["-acp", &core.to_string(), &process.to_string()])
        .stdout(Stdio::null())
        .status();
    let pinned = pinned.expect("taskset runs");
    assert!(pinned.success(), "taskset -acp {core} {process}");
}

fn read(process: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{process}/{file}")).expect("the process runs")
}
