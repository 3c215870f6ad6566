//! What a Revoke costs on three instances and a real Postgres: healthy, with slow commits, with an
//! instance paused, with one reaped; and what Postgres carries. Writes the table of
//! `docs/results.md`. Beside the times of a Revoke stands that of a bare commit in the same run.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark measures by the real clock, prints figures, and stops at the first fault"
)]

mod shared;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward_proto::v1::Verdict;
use keyward_testkit::{Client, Cluster, Options};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use shared::{CALLERS, Times, clients, issue, verify_each, write_between};

const BINARY: &str = env!("CARGO_BIN_EXE_keyward");
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/results.md");
const INSTANCES: usize = 3;
/// Revocations by one caller, and by many.
const ALONE: usize = 400;
const TOGETHER: usize = 3_000;
/// Keys that a cold instance is asked for.
const COLD: usize = 20_000;
/// How long an idle instance is watched.
const IDLE: Duration = Duration::from_secs(10);

/// The table as it grows.
#[derive(Default)]
struct Table {
    text: String,
    looked: usize,
    valid: usize,
}

impl Table {
    fn row(&mut self, what: &str, mut times: Times) {
        let (count, p50, p99) = (times.0.len(), times.at(0.5), times.at(0.99));
        let row = format!("| {what} | {count} | {p50:.2} | {p99:.2} |\n");
        print!("{row}");
        self.text += &row;
    }

    fn note(&mut self, what: &str) {
        println!("{what}");
        let _ = writeln!(self.text, "- {what}");
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

/// Revokes `keys`, so many at a time, over all instances; every key is verified on each instance
/// before and after. What each Revoke took, how many answers came after a return, how many of
/// them were VALID, and how long all of it took.
async fn revoke(
    clients: &[Client],
    keys: Vec<(String, String)>,
    callers: usize,
    look: bool,
) -> (Times, usize, usize, Duration) {
    let keys = Arc::new(parking_lot::Mutex::new(keys));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..callers {
        let (clients, keys) = (clients.to_vec(), Arc::clone(&keys));
        tasks.spawn(async move {
            let (mut times, mut looked, mut valid) = (Vec::new(), 0, 0);
            loop {
                let Some((id, text)) = keys.lock().pop() else {
                    return (times, looked, valid);
                };
                if look {
                    for client in &clients {
                        assert_eq!(client.verify(&text).await.unwrap(), Verdict::Valid);
                    }
                }
                let begun = Instant::now();
                clients[n % clients.len()].revoke(&id).await.unwrap();
                times.push(begun.elapsed());
                if look {
                    let asks = clients.iter().map(|client| client.verify(&text));
                    for verdict in futures_util::future::join_all(asks).await {
                        looked += 1;
                        valid += usize::from(verdict.unwrap() == Verdict::Valid);
                    }
                }
            }
        });
    }
    let (mut all, mut looked, mut valid) = (Vec::new(), 0, 0);
    for (times, l, v) in tasks.join_all().await {
        all.extend(times);
        looked += l;
        valid += v;
    }
    (Times(all), looked, valid, begun.elapsed())
}

async fn measure(table: &mut Table, what: &str, clients: &[Client], count: usize, callers: usize) {
    let (keys, _) = issue(clients, what, count).await;
    let (times, looked, valid, _) = revoke(clients, keys, callers, true).await;
    table.row(what, times);
    table.looked += looked;
    table.valid += valid;
}

/// One row changed and committed, again and again: what Postgres itself takes for that.
async fn bare_commits(cluster: &Cluster) -> Times {
    let mut connection = PgConnection::connect(&cluster.postgres.superuser_url())
        .await
        .unwrap();
    let make = "CREATE TABLE IF NOT EXISTS bare (n int); INSERT INTO bare VALUES (0)";
    sqlx::raw_sql(make).execute(&mut connection).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..ALONE {
        let begun = Instant::now();
        sqlx::query("UPDATE bare SET n = n + 1")
            .execute(&mut connection)
            .await
            .unwrap();
        times.push(begun.elapsed());
    }
    Times(times)
}

async fn healthy(table: &mut Table) {
    let cluster = Cluster::start(BINARY, INSTANCES, options(&[]));
    let clients = clients(&cluster).await;
    // Whatever is prepared or connected at the first call.
    let (warm, _) = issue(&clients, "warm", 200).await;
    revoke(&clients, warm, CALLERS, true).await;
    table.row("a bare commit", bare_commits(&cluster).await);
    measure(table, "Revoke, 1 caller", &clients, ALONE, 1).await;
    measure(table, "Revoke, 64 callers", &clients, TOGETHER, CALLERS).await;
}

async fn slow_commits(table: &mut Table) {
    let slow = [("commit_delay", "2000"), ("commit_siblings", "0")];
    let cluster = Cluster::start(BINARY, INSTANCES, options(&slow));
    let clients = clients(&cluster).await;
    let (warm, _) = issue(&clients, "warm", 200).await;
    revoke(&clients, warm, CALLERS, true).await;
    table.row(
        "2 ms more a commit: a bare commit",
        bare_commits(&cluster).await,
    );
    measure(
        table,
        "2 ms more a commit: Revoke, 1 caller",
        &clients,
        ALONE,
        1,
    )
    .await;
    measure(
        table,
        "2 ms more a commit: Revoke, 64 callers",
        &clients,
        TOGETHER,
        CALLERS,
    )
    .await;
}

async fn paused(table: &mut Table) {
    let cluster = Cluster::start(BINARY, INSTANCES, options(&[]));
    let clients = clients(&cluster).await;
    let (keys, _) = issue(&clients, "paused", CALLERS).await;
    cluster.instance(2).signal("STOP");
    let rest = &clients[..2];
    let (times, ..) = revoke(rest, keys, CALLERS, false).await;
    table.row("one instance paused (max_staleness 2 s), 64 callers", times);
    let mut hand = PgConnection::connect(&cluster.postgres.superuser_url())
        .await
        .unwrap();
    let count = "SELECT count(*) FROM instances";
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(count)
        .fetch_one(&mut hand)
        .await
        .unwrap()
        > 2
    {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it is not reaped"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    measure(table, "one instance reaped, 1 caller", rest, ALONE, 1).await;
    cluster.instance(2).signal("CONT");
}

async fn carried(table: &mut Table) {
    let mut cluster = Cluster::start(BINARY, INSTANCES, options(&[]));
    let clients = clients(&cluster).await;
    let (keys, took) = issue(&clients, "many", COLD).await;
    table.note(&format!(
        "Issue: {:.0}/s by {CALLERS} callers",
        COLD as f64 / took.as_secs_f64()
    ));
    let new = cluster.add();
    let cold = cluster.client(new).await;
    let texts: Arc<Vec<String>> = Arc::new(keys.iter().map(|(_, text)| text.clone()).collect());
    let begun = Instant::now();
    verify_each(&cold, &texts, 2 * CALLERS).await;
    let took = begun.elapsed().as_secs_f64();
    table.note(&format!(
        "cold Verify, each key for the first time, on one instance: {:.0}/s by {} callers",
        COLD as f64 / took,
        2 * CALLERS
    ));
    let count = keys.len();
    let (_, _, _, took) = revoke(&clients, keys, 4 * CALLERS, false).await;
    table.note(&format!(
        "Revoke: {:.0}/s by {} callers",
        count as f64 / took.as_secs_f64(),
        4 * CALLERS
    ));
}

async fn idle(table: &mut Table) {
    let mut cluster = Cluster::start(BINARY, 1, options(&[("autovacuum", "off")]));
    let mut hand = PgConnection::connect(&cluster.postgres.superuser_url())
        .await
        .unwrap();
    let mut rates = Vec::new();
    for instances in [1, 0] {
        if instances == 0 {
            cluster.stop(0);
        }
        sqlx::raw_sql("CHECKPOINT")
            .execute(&mut hand)
            .await
            .unwrap();
        let before: i64 = wal(&mut hand).await;
        tokio::time::sleep(IDLE).await;
        rates.push((wal(&mut hand).await - before) as f64 / IDLE.as_secs_f64());
    }
    table.note(&format!(
        "WAL of an idle instance: {:.0} bytes/s (without one: {:.0})",
        rates[0], rates[1]
    ));
}

async fn wal(hand: &mut PgConnection) -> i64 {
    let place = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
    sqlx::query_scalar(place).fetch_one(hand).await.unwrap()
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` builds it, and asks for nothing.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut table = Table::default();
    table.text +=
        "| three instances on one machine | calls | p50 ms | p99 ms |\n|---|---|---|---|\n";
    healthy(&mut table).await;
    slow_commits(&mut table).await;
    paused(&mut table).await;
    table.text.push('\n');
    let (looked, valid) = (table.looked, table.valid);
    table.note(&format!(
        "VALID to a Verify that began after its key's Revoke had returned, asked on every instance at \
         once: {valid} of {looked}"
    ));
    carried(&mut table).await;
    idle(&mut table).await;
    write_between(RESULTS, "revoke", &table.text);
    assert_eq!(table.valid, 0);
}
