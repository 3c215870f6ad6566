//! Compares calls of Keyward with an empty call of a default tonic server that carries the same bytes.
//!
//! The servers run in their own processes on one core, `h2load` on another, and they take turns. The cost
//! is the server's CPU time for a call, which other load on the machine affects little. Writes tables of
//! `docs/speed.md`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints results, and stops at the first error"
)]

mod agent;
mod cold;
mod doors;
mod empty;
mod flood;
mod h2load;
#[path = "../shared/honest.rs"]
mod honest;
mod import;
mod near;
mod scale;
#[path = "../shared/mod.rs"]
mod shared;

use std::fmt::Write as _;
use std::net::SocketAddr;

use keyward_proto::v1;
use keyward_testkit::machine::{memory, pin, write_between};
use keyward_testkit::{Authority, Client, Process, connect, connect_tls};

use empty::{Answers, EmptyServer};
use h2load::{Call, costs, median};

/// The page with the results.
const SPEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/speed.md");

const VERIFY: &str = "/keyward.v1.ApiKeyService/Verify";
const VERIFY_BATCH: &str = "/keyward.v1.ApiKeyService/VerifyBatch";

const ROUNDS: usize = 5;
/// The keys of one round, and the part of them that is verified before it.
const KEYS: u32 = 300_000;
const WARM_UP: u32 = 10;
/// The calls of a round that measures latency.
const TIMED: u32 = 100_000;
/// The keys of a batch.
const BATCH: u32 = 64;
/// The connections whose memory is measured.
const IDLE: usize = 1_000;

/// A running Keyward with a live key.
struct Keyward {
    process: Process,
    key: String,
    answer: v1::VerifyResponse,
    _directory: tempfile::TempDir,
}

impl Keyward {
    async fn start(tls: Option<(&Authority, &keyward_testkit::Identity)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let mut command = Process::command(env!("CARGO_BIN_EXE_keyward"), &data);
        command.args(["--workers", "1"]);
        if let Some((_, identity)) = tls {
            let (certificate, key) = identity.write(directory.path());
            command.arg("--tls-cert").arg(certificate);
            command.arg("--tls-key").arg(key);
        }
        let process = Process::start(command, &data);
        let channel = match tls {
            Some((authority, _)) => connect_tls(process.grpc, authority.pem()).await.unwrap(),
            None => connect(process.grpc).await,
        };
        let client = Client::over(channel, Some(&process.token()));
        let (_, key) = client.issue("42", "").await.unwrap();
        let answer = client.keys.clone().verify(verifying(&key)).await;
        pin(process.id(), 0);
        Self {
            process,
            key,
            answer: answer.unwrap().into_inner(),
            _directory: directory,
        }
    }
}

fn verifying(key: &str) -> v1::VerifyRequest {
    v1::VerifyRequest {
        api_key: key.to_owned(),
        ..Default::default()
    }
}

/// Measures the parts that the arguments name, or all.
async fn measure(parts: Vec<String>) {
    let is_asked = |part: &str| parts.is_empty() || parts.iter().any(|asked| asked == part);
    if is_asked("calls") {
        measure_calls().await;
    }
    if is_asked("doors") {
        doors::measure().await;
    }
    if is_asked("cold") {
        cold::measure().await;
    }
    if is_asked("flood") {
        flood::measure().await;
    }
    if is_asked("near") {
        near::measure().await;
    }
    if is_asked("agent") || is_asked("near") {
        agent::measure().await;
    }
    if is_asked("import") {
        import::measure().await;
    }
    if is_asked("scale") {
        scale::measure().await;
    }
}

async fn measure_calls() {
    let authority = Authority::new();
    let identity = authority.sign(&["127.0.0.1"]);
    let plain = Keyward::start(None).await;
    let secure = Keyward::start(Some((&authority, &identity))).await;
    let answers = Answers {
        verify: plain.answer.clone(),
        ..Answers::default()
    };
    let empty = EmptyServer::start(&answers, None);
    let empty_secure = EmptyServer::start(&answers, Some(&identity));

    let hit = verifying(&plain.key);
    let malformed = verifying(&plain.key.replace('_', "-"));
    let batch = v1::VerifyBatchRequest {
        requests: vec![hit.clone(); BATCH as usize],
    };
    let keyward = ("http", plain.process.grpc, plain.process.id());
    let tls = ("https", secure.process.grpc, secure.process.id());
    let token = plain.process.token();
    let one = (VERIFY, 1);
    let calls = [
        Call::grpc(
            "empty call",
            ("http", empty.grpc, empty.id()),
            one,
            &token,
            &hit,
        ),
        Call::grpc("Verify, key in memory", keyward, one, &token, &hit),
        Call::grpc("Verify, malformed key", keyward, one, &token, &malformed),
        Call::grpc(
            "VerifyBatch of 64, per key",
            keyward,
            (VERIFY_BATCH, BATCH),
            &token,
            &batch,
        ),
        Call::grpc(
            "empty call, TLS",
            ("https", empty_secure.grpc, empty_secure.id()),
            one,
            &token,
            &hit,
        ),
        Call::grpc(
            "Verify, key in memory, TLS",
            tls,
            one,
            &secure.process.token(),
            &verifying(&secure.key),
        ),
    ];
    let costs = costs(&calls, KEYS);
    compare(&calls, &costs);
    let per_connection = [
        (
            calls[0].name,
            idle(empty.grpc, empty.id(), &token, &hit).await,
        ),
        ("Verify", idle(keyward.1, keyward.2, &token, &hit).await),
    ];
    latencies(&calls[..2], &costs);
    connections(&per_connection);
}

/// Writes what each call costs, compared with the first.
fn compare(calls: &[Call], costs: &[(f64, f64)]) {
    let mut table = String::from(
        "| call | us of CPU | x the empty call | calls/s on one core |\n|---|---|---|---|\n",
    );
    for (call, (used, rate)) in calls.iter().zip(costs) {
        let times = used / costs[0].0;
        let _ = writeln!(
            table,
            "| {} | {used:.2} | {times:.2} | {rate:.0} |",
            call.name
        );
    }
    publish("cost", &table);
}

/// Writes how long calls take when the server is half busy.
fn latencies(calls: &[Call], costs: &[(f64, f64)]) {
    const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
    let mut rounds = vec![Vec::new(); calls.len()];
    for _ in 0..ROUNDS {
        for (n, call) in calls.iter().enumerate() {
            let mut times = call.at_rate(TIMED, costs[n].1 / 2.0);
            rounds[n].push(QUANTILES.map(|quantile| times.quantile(quantile)));
        }
    }
    let mut table =
        String::from("| call | calls/s | p50 ms | p99 ms | p99.9 ms |\n|---|---|---|---|---|\n");
    for (n, call) in calls.iter().enumerate() {
        let [p50, p99, p999] = [0, 1, 2].map(|q| median(rounds[n].iter().map(|round| round[q])));
        let rate = costs[n].1 / 2.0;
        let _ = writeln!(
            table,
            "| {} | {rate:.0} | {p50:.3} | {p99:.3} | {p999:.3} |",
            call.name
        );
    }
    publish("latency", &table);
}

/// The memory of one connection after a call, in bytes.
async fn idle(server: SocketAddr, process: u32, token: &str, hit: &v1::VerifyRequest) -> u64 {
    let before = memory(process);
    let mut open = Vec::new();
    for _ in 0..IDLE {
        let client = Client::new(server, Some(token)).await;
        client.keys.clone().verify(hit.clone()).await.unwrap();
        open.push(client);
    }
    (memory(process) - before) / IDLE as u64
}

fn connections(rows: &[(&str, u64)]) {
    let mut table = String::from("| connection with | KiB of memory |\n|---|---|\n");
    for (name, bytes) in rows {
        let _ = writeln!(table, "| {name} | {} |", bytes >> 10);
    }
    publish("connections", &table);
}

fn publish(name: &str, table: &str) {
    println!("{table}");
    write_between(SPEED, name, table);
}

fn main() {
    if !flood::is_flood() {
        empty::main(measure);
    }
}
