//! An import of a million keys, and its undo: how long they take, and what they take from an honest caller.
//! The service has one core; the command, the caller and Postgres share the other.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use keyward_testkit::machine::{memory, pin};
use keyward_testkit::{Cluster, Options, Process, now};

use super::flood::{PAUSE, another};
use super::honest::{freshness, honest};
use super::publish;

const KEYS: usize = 1_000_000;
/// How long the honest caller is measured before the import.
const QUIET: Duration = Duration::from_secs(10);
const BATCH: &str = "01900000-0000-7000-8000-000000000001";
const FORMATS: (&str, &str) = ("KEYWARD_FOREIGN_FORMATS", "uuid");
const BINARY: &str = env!("CARGO_BIN_EXE_keyward");

/// One row of the table for each store and step.
pub(super) async fn measure() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys.csv");
    write_keys(&file);
    let mut table = String::from(
        "| store | step | s | keys/s | MB, peak | Verify p50, p99 ms | failed | oldest freshness, s |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let data = directory.path().join("data");
    let mut command = Process::command(BINARY, &data);
    command.args(["--workers", "1"]).env(FORMATS.0, FORMATS.1);
    let embedded = Process::start(command, &data);
    let token = embedded.token();
    table += &rows("SQLite", &embedded, &token, &file).await;
    drop(embedded);
    let variables = [("KEYWARD_WORKERS", "1"), FORMATS];
    let options = Options {
        variables: variables
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
        ..Options::default()
    };
    let cluster = Cluster::start(BINARY, 1, options);
    table += &rows("Postgres", cluster.instance(0), cluster.token(), &file).await;
    publish("import", &table);
}

fn write_keys(file: &Path) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
    writeln!(out, "account_id,api_key").unwrap();
    for n in 0..KEYS {
        writeln!(out, "imported-{n},{}", another()).unwrap();
    }
    out.flush().unwrap();
}

async fn rows(store: &str, keyward: &Process, token: &str, file: &Path) -> String {
    pin(keyward.id(), 0);
    let token_file = file.with_extension("token");
    std::fs::write(&token_file, token).unwrap();
    let client = keyward_testkit::Client::new(keyward.grpc, Some(token)).await;
    let key = Arc::new(vec![client.issue("42", "").await.unwrap().1]);
    let command = |arguments: &[&str]| {
        let mut command = Command::new("taskset");
        command.args(["-c", "1", BINARY]).args(arguments);
        let endpoint = format!("http://{}", keyward.grpc);
        command
            .args(["--endpoint", &endpoint])
            .env("KEYWARD_TOKEN_FILE", &token_file);
        command
    };
    let import = command(&["import", file.to_str().unwrap(), "--batch", BATCH]);
    let undo = command(&["import", "undo", BATCH]);
    let mut rows = String::new();
    for (step, work) in [
        ("before", None),
        ("import", Some(import)),
        ("undo", Some(undo)),
    ] {
        let stop = Arc::new(AtomicBool::new(false));
        let texts = (Arc::clone(&key), Arc::default());
        let calling = tokio::spawn(honest(client.clone(), texts, PAUSE, Arc::clone(&stop)));
        let watching = tokio::spawn(freshness(keyward.http, Arc::clone(&stop)));
        let is_quiet = work.is_none();
        let (seconds, peak) = run(work, keyward.id()).await;
        stop.store(true, Relaxed);
        let (mut times, failed) = calling.await.unwrap();
        let rate = match is_quiet {
            true => "|".to_owned(),
            false => {
                let keys = f64::from(u32::try_from(KEYS).unwrap());
                format!("{seconds:.0} | {:.0}", keys / seconds)
            }
        };
        let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
        let (peak, age) = (peak / 1_000_000, watching.await.unwrap());
        let row = format!(
            "| {store} | {step} | {rate} | {peak} | {p50:.2}, {p99:.2} | {failed} | {age:.2} |"
        );
        println!("{row}");
        let _ = writeln!(rows, "{row}");
    }
    rows
}

/// Runs a command to its end, or waits for a while. Returns the seconds, and the most memory of `process`.
async fn run(work: Option<Command>, process: u32) -> (f64, u64) {
    let mut running = work.map(|mut work| work.spawn().unwrap());
    let (start, mut peak) = (now(), 0);
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        peak = peak.max(memory(process));
        let is_over = match &mut running {
            None => start.elapsed() > QUIET,
            Some(running) => match running.try_wait().unwrap() {
                None => false,
                Some(status) => {
                    assert!(status.success(), "{status}");
                    true
                }
            },
        };
        if is_over {
            return (start.elapsed().as_secs_f64(), peak);
        }
    }
}
