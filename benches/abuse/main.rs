//! Measures what an attacker can take from an instance and from its other callers. The server has one
//! core; the attackers, in a process of their own, and an honest caller share another. Writes the table
//! of `docs/reference/limits.md`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark uses the real clock, prints results, and stops at the first error"
)]

mod attacks;
#[path = "../shared/honest.rs"]
mod honest;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use keyward_proto::v1;
use keyward_testkit::machine::{cpu_time, memory, pin, write_between};
use keyward_testkit::{Client, Process};

use attacks::{ATTACKS, Kind, Target, attack_forever};
use honest::{freshness, honest};

const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/limits.md");

const QUIET: Duration = Duration::from_secs(10);
const ATTACK: Duration = Duration::from_secs(10);
/// The time after an attack at which its memory should have been returned.
const AFTER: Duration = Duration::from_secs(10);
/// The honest caller's pause between two calls.
const PAUSE: Duration = Duration::from_millis(5);
/// An attack that takes more memory is ended.
const MEMORY_GUARD: u64 = 4_000;

/// The resident memory of a process, in MB.
fn megabytes(process: u32) -> u64 {
    memory(process) / 1_000_000
}

/// What one phase costs.
struct Phase {
    p99: f64,
    failed: usize,
    freshness: f64,
    cpu: f64,
    peak: u64,
}

async fn phase(keyward: &Process, key: &str, length: Duration) -> Phase {
    let stop = Arc::new(AtomicBool::new(false));
    let client = keyward.client().await;
    let texts = (Arc::new(vec![key.to_owned()]), Arc::default());
    let calling = tokio::spawn(honest(client, texts, PAUSE, Arc::clone(&stop)));
    let watching = tokio::spawn(freshness(keyward.http, Arc::clone(&stop)));
    let (start, before, mut peak) = (Instant::now(), cpu_time(keyward.id()), 0);
    while start.elapsed() < length && peak < MEMORY_GUARD {
        tokio::time::sleep(Duration::from_millis(20)).await;
        peak = peak.max(megabytes(keyward.id()));
    }
    let used = (cpu_time(keyward.id()) - before).as_secs_f64() / start.elapsed().as_secs_f64();
    stop.store(true, Relaxed);
    let (mut times, failed) = calling.await.unwrap();
    Phase {
        p99: if times.0.is_empty() {
            f64::NAN
        } else {
            times.quantile(0.99)
        },
        failed,
        freshness: watching.await.unwrap(),
        cpu: 100.0 * used,
        peak,
    }
}

/// Issues the keys of the account that `Unread` lists: 1.5 MB.
async fn issue_many(client: &Client) {
    for n in 0..180 {
        let request = v1::IssueRequest {
            account_id: "many".to_owned(),
            name: n.to_string(),
            metadata: (0..16).map(|n| (n.to_string(), "x".repeat(500))).collect(),
            ..Default::default()
        };
        client.send(request).await.unwrap();
    }
}

/// Runs one attack on a new instance, and returns its row.
async fn run(index: usize) -> String {
    let attack = &ATTACKS[index];
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut command = Process::command(env!("CARGO_BIN_EXE_keyward"), &data);
    // As in `deploy/`.
    command
        .args(["--workers", "1"])
        .env("MIMALLOC_PURGE_DELAY", "0");
    let keyward = Process::start(command, &data);
    pin(keyward.id(), 0);
    let client = keyward.client().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    if matches!(attack.kind, Kind::Unread) {
        issue_many(&client).await;
    }
    let quiet = phase(&keyward, &key, QUIET).await;

    let own = std::env::current_exe().unwrap();
    // The soft limit of open files is too low for many connections.
    let mut attacker = Command::new("sh")
        .args([
            "-c",
            "ulimit -n $(ulimit -Hn); exec nice -n 10 taskset -c 1 \"$0\" \"$@\"",
        ])
        .arg(own)
        .args(["--attack", &index.to_string(), &keyward.grpc.to_string()])
        .args([&keyward.http.to_string(), &keyward.token()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(attacker.stdout.take().unwrap());
    let count = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines.last().and_then(|line| line.parse::<f64>().ok())
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    let during = phase(&keyward, &key, ATTACK).await;
    attacker.kill().unwrap();
    attacker.wait().unwrap();
    let rate = count.join().unwrap().unwrap_or_default() / (start.elapsed().as_secs_f64() + 0.5);
    tokio::time::sleep(AFTER).await;
    let after = megabytes(keyward.id());
    format!(
        "| {} | {rate:.0} | {:.0} % | {} | {} | {after} | {:.1} | {:.1} | {} | {:.2} |\n",
        attack.name,
        during.cpu,
        quiet.peak,
        during.peak,
        quiet.p99,
        during.p99,
        during.failed,
        during.freshness
    )
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--attack") {
        let target = Target {
            grpc: arguments[at + 2].parse().unwrap(),
            http: arguments[at + 3].parse().unwrap(),
            token: arguments[at + 4].clone(),
        };
        let index = arguments[at + 1].parse().unwrap();
        return runtime.block_on(attack_forever(index, target));
    }
    pin(std::process::id(), 1);
    let mut table = String::from(
        "| attack | per second | our CPU | MB before | MB peak | MB after | p99 ms quiet | p99 ms attacked | failed calls | freshness age s |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    // Arguments are the numbers of attacks; then only these run, and the document stays as it is.
    let chosen: Vec<usize> = arguments
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    for index in 0..ATTACKS.len() {
        if chosen.is_empty() || chosen.contains(&index) {
            let row = runtime.block_on(run(index));
            print!("{row}");
            table.push_str(&row);
        }
    }
    if chosen.is_empty() {
        write_between(RESULTS, "abuse", &table);
    }
}
