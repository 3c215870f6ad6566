//! Measures a Revoke on three instances and Postgres: in normal operation, with slow commits, with a
//! paused instance, and with a reaped instance. Also measures the throughput on Postgres. For comparison
//! each run measures a bare commit. Writes the table of `docs/results.md`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark uses the real clock, prints results, and stops at the first error"
)]

mod shared;
#[path = "shared/timeline.rs"]
mod timeline;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward_proto::v1::Verdict;
use keyward_testkit::machine::{Times, write_between};
use keyward_testkit::{Client, Cluster, Options};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use shared::{CALLERS, clients, issue, verify_each};

const BINARY: &str = env!("CARGO_BIN_EXE_keyward");
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/results.md");
const INSTANCES: usize = 3;
/// The number of revocations by one caller, and by many.
const ONE_CALLER_REVOKES: usize = 400;
const MANY_CALLERS_REVOKES: usize = 3_000;
/// The number of keys that a cold instance verifies.
const COLD: usize = 20_000;
/// The duration of the measurement of an idle instance.
const IDLE: Duration = Duration::from_secs(10);
/// How long an instance has been up before it counts as idle: it has written its first seal of the audit, and
/// each page that it changes has been written whole since the checkpoint.
const SETTLED: Duration = Duration::from_secs(8);

/// What a Revoke is compared with: statements on one connection without Keyward.
const BARE: [(&str, &str); 2] = [
    ("a bare round trip", "SELECT n FROM bare LIMIT 1"),
    ("a bare commit", "UPDATE bare SET n = n + 1"),
];

/// The table of results.
#[derive(Default)]
struct Table {
    text: String,
    /// The number of verifies that started after the Revoke of their key had returned.
    verified: usize,
    /// The number of these that were VALID.
    valid: usize,
}

impl Table {
    fn row(&mut self, name: &str, mut times: Times) {
        let count = times.0.len();
        let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
        let row = format!("| {name} | {count} | {p50:.2} | {p99:.2} |\n");
        print!("{row}");
        self.text += &row;
    }

    fn note(&mut self, note: &str) {
        println!("{note}");
        let _ = writeln!(self.text, "- {note}");
    }
}

fn options(postgres: &[(&'static str, &'static str)]) -> Options {
    let mut settings = vec![("fsync", "on"), ("max_wal_size", "2GB")];
    settings.extend_from_slice(postgres);
    Options {
        postgres: settings,
        variables: vec![("KEYWARD_WORKERS", "1".to_owned())],
        ..Options::default()
    }
}

/// Revokes `keys` on all instances with this number of callers. With `verify`, each key is verified on
/// each instance before and after its revocation. Returns the duration of each Revoke, the number of
/// verifies after a return, the number of these that were VALID, and the total duration.
async fn revoke(
    clients: &[Client],
    keys: Vec<(String, String)>,
    callers: usize,
    verify: bool,
) -> (Times, usize, usize, Duration) {
    let keys = Arc::new(parking_lot::Mutex::new(keys));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..callers {
        let (clients, keys) = (clients.to_vec(), Arc::clone(&keys));
        tasks.spawn(async move {
            let (mut times, mut verified, mut valid) = (Vec::new(), 0, 0);
            loop {
                let Some((id, text)) = keys.lock().pop() else {
                    return (times, verified, valid);
                };
                if verify {
                    for client in &clients {
                        assert_eq!(client.verify(&text).await.unwrap(), Verdict::Valid);
                    }
                }
                let start = Instant::now();
                clients[n % clients.len()].revoke(&id).await.unwrap();
                times.push(start.elapsed());
                if verify {
                    let calls = clients.iter().map(|client| client.verify(&text));
                    for verdict in futures_util::future::join_all(calls).await {
                        verified += 1;
                        valid += usize::from(verdict.unwrap() == Verdict::Valid);
                    }
                }
            }
        });
    }
    let (mut all, mut verified, mut valid) = (Vec::new(), 0, 0);
    for (times, more_verified, more_valid) in tasks.join_all().await {
        all.extend(times);
        verified += more_verified;
        valid += more_valid;
    }
    (Times(all), verified, valid, start.elapsed())
}

async fn measure(
    table: &mut Table,
    name: &str,
    clients: &[Client],
    (count, callers): (usize, usize),
    verify: bool,
) {
    let (keys, _) = issue(clients, name, count).await;
    let (times, verified, valid, _) = revoke(clients, keys, callers, verify).await;
    table.row(name, times);
    table.verified += verified;
    table.valid += valid;
}

/// Measures one statement on Postgres without Keyward.
async fn bare(cluster: &Cluster, statement: &'static str) -> Times {
    let mut connection = PgConnection::connect(&cluster.postgres.superuser_url())
        .await
        .unwrap();
    let make = "CREATE TABLE IF NOT EXISTS bare AS SELECT 0 AS n";
    sqlx::raw_sql(make).execute(&mut connection).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..ONE_CALLER_REVOKES {
        let start = Instant::now();
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .unwrap();
        times.push(start.elapsed());
    }
    Times(times)
}

/// Measures a bare commit and Revoke on Postgres with additional settings.
async fn commits(table: &mut Table, prefix: &str, postgres: &[(&'static str, &'static str)]) {
    let cluster = Cluster::start(BINARY, INSTANCES, options(postgres));
    let clients = clients(&cluster).await;
    // The first calls prepare statements and open connections: do not measure them.
    let (warm, _) = issue(&clients, "warm", 200).await;
    revoke(&clients, warm, CALLERS, true).await;
    let name = |name: &str| format!("{prefix}{name}");
    for (label, statement) in BARE {
        table.row(&name(label), bare(&cluster, statement).await);
    }
    for (label, load) in [
        ("1 caller", (ONE_CALLER_REVOKES, 1)),
        ("64 callers", (MANY_CALLERS_REVOKES, CALLERS)),
    ] {
        let revokes = format!("{prefix}Revoke, {label}");
        measure(table, &revokes, &clients, load, false).await;
        let verified = format!("{revokes}, each key verified 6 times");
        measure(table, &verified, &clients, load, true).await;
    }
}

async fn paused(table: &mut Table) {
    let cluster = Cluster::start(BINARY, INSTANCES, options(&[]));
    let clients = clients(&cluster).await;
    let (keys, _) = issue(&clients, "paused", CALLERS).await;
    cluster.instance(2).pause();
    let others = &clients[..2];
    let (times, ..) = revoke(others, keys, CALLERS, false).await;
    table.row("one instance paused (max_staleness 2 s), 64 callers", times);
    let mut connection = PgConnection::connect(&cluster.postgres.superuser_url())
        .await
        .unwrap();
    let count = "SELECT count(*) FROM instances";
    let start = Instant::now();
    while sqlx::query_scalar::<_, i64>(count)
        .fetch_one(&mut connection)
        .await
        .unwrap()
        > 2
    {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the paused instance was not reaped"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let name = "one instance reaped, 1 caller";
    measure(table, name, others, (ONE_CALLER_REVOKES, 1), true).await;
    cluster.instance(2).go_on();
}

async fn throughput(table: &mut Table) {
    let mut cluster = Cluster::start(BINARY, INSTANCES, options(&[]));
    let clients = clients(&cluster).await;
    let (keys, duration) = issue(&clients, "many", COLD).await;
    table.note(&format!(
        "Issue: {:.0}/s by {CALLERS} callers",
        COLD as f64 / duration.as_secs_f64()
    ));
    let new = cluster.add();
    let cold = cluster.client(new).await;
    let texts: Arc<Vec<String>> = Arc::new(keys.iter().map(|(_, text)| text.clone()).collect());
    let start = Instant::now();
    verify_each(&cold, &texts, 2 * CALLERS).await;
    let seconds = start.elapsed().as_secs_f64();
    table.note(&format!(
        "cold Verify, each key for the first time, on one instance: {:.0}/s by {} callers",
        COLD as f64 / seconds,
        2 * CALLERS
    ));
    let count = keys.len();
    let (_, _, _, duration) = revoke(&clients, keys, 4 * CALLERS, false).await;
    table.note(&format!(
        "Revoke: {:.0}/s by {} callers",
        count as f64 / duration.as_secs_f64(),
        4 * CALLERS
    ));
}

async fn idle(table: &mut Table) {
    let mut cluster = Cluster::start(BINARY, 1, options(&[("autovacuum", "off")]));
    let mut connection = PgConnection::connect(&cluster.postgres.superuser_url())
        .await
        .unwrap();
    let mut rates = Vec::new();
    for instances in [1, 0] {
        if instances == 0 {
            cluster.stop(0);
        }
        sqlx::raw_sql("CHECKPOINT")
            .execute(&mut connection)
            .await
            .unwrap();
        tokio::time::sleep(SETTLED).await;
        let before: i64 = wal(&mut connection).await;
        tokio::time::sleep(IDLE).await;
        rates.push((wal(&mut connection).await - before) as f64 / IDLE.as_secs_f64());
    }
    table.note(&format!(
        "WAL with one idle instance: {:.0} bytes/s (without an instance: {:.0})",
        rates[0], rates[1]
    ));
}

/// The position of the WAL, in bytes.
async fn wal(connection: &mut PgConnection) -> i64 {
    let position = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    sqlx::query_scalar(position)
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` runs the program with `--test`.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let is_wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut table = Table::default();
    table.text +=
        "| three instances on one machine | calls | p50 ms | p99 ms |\n|---|---|---|---|\n";
    if is_wanted("commits") {
        commits(&mut table, "", &[]).await;
    }
    if is_wanted("slow") {
        let slow = [("commit_delay", "2000"), ("commit_siblings", "0")];
        commits(&mut table, "2 ms slower commits: ", &slow).await;
    }
    if is_wanted("paused") {
        paused(&mut table).await;
    }
    table.text.push('\n');
    let (verified, valid) = (table.verified, table.valid);
    table.note(&format!(
        "VALID answers to a Verify that started after the Revoke of its key had returned, on all \
         instances concurrently: {valid} of {verified}"
    ));
    if is_wanted("throughput") {
        throughput(&mut table).await;
    }
    if is_wanted("idle") {
        idle(&mut table).await;
    }
    let timeline = match is_wanted("timeline") {
        true => timeline::measure().await,
        false => String::new(),
    };
    print!("{timeline}");
    if only.is_none() {
        write_between(RESULTS, "revoke", &table.text);
        write_between(RESULTS, "timeline", &timeline);
    }
    assert_eq!(table.valid, 0);
}
