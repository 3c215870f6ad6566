//! What benchmarks measure, where its process runs, and where the results go. Linux only.

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

/// The durations of calls.
pub struct Times(pub Vec<Duration>);

impl Times {
    /// A quantile of the durations, in milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "nobody measures 2^52 calls")]
    pub fn quantile(&mut self, quantile: f64) -> f64 {
        self.0.sort_unstable();
        let last = self.0.len() - 1;
        let rank = (last as f64 * quantile).round();
        let distance = |n: &usize| (*n as f64 - rank).abs();
        let index = (0..=last).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        self.0[index.unwrap_or(last)].as_secs_f64() * 1_000.0
    }
}

/// Replaces the text between the marker `name` and the end marker in a document.
pub fn write_between(path: &str, name: &str, text: &str) {
    let document = std::fs::read_to_string(path).expect("the document is there");
    let (begin, end) = (format!("<!-- {name} -->\n"), "<!-- end -->");
    let from = document.find(&begin).expect("the document has the marker") + begin.len();
    let to = from + document[from..].find(end).expect("the marker has an end");
    let new = format!("{}{text}{}", &document[..from], &document[to..]);
    std::fs::write(path, new).expect("the document can be written");
}
