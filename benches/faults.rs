//! Measures the benefit of Redis and the cost of its faults: Verify on three instances during each fault;
//! Revoke with and without the change notice; the statements of a cold instance on Postgres with and without
//! Redis. Writes the tables of `docs/faults.md`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark uses the real clock, prints results, and stops at the first error"
)]

mod shared;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyward_proto::v1::Verdict;
use keyward_testkit::machine::{Times, write_between};
use keyward_testkit::{Client, Cluster, Options, Proxy, Redis, Reply, Swallowed};
use parking_lot::Mutex;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use shared::{CALLERS, clients, issue, verify_each};

const BINARY: &str = env!("CARGO_BIN_EXE_keyward");
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md");
/// The duration of each fault.
const FAULT: Duration = Duration::from_secs(8);
/// The number of callers that issue, verify, revoke and verify again.
const WRITERS: usize = 6;
/// The number of keys that a cold instance verifies.
const COLD: usize = 20_000;
/// The number of compared revocations.
const REVOKES: usize = 300;
/// The maximum time that a call may wait for Redis.
const BOUND: Duration = Duration::from_millis(50);

fn options(redis: Option<String>) -> Options {
    let mut variables = vec![("KEYWARD_WORKERS", "1".to_owned())];
    variables.extend(redis.map(|url| ("KEYWARD_REDIS", url)));
    Options {
        postgres: vec![("fsync", "on"), ("max_wal_size", "2GB")],
        variables,
        ..Options::default()
    }
}

/// The results of all callers during one fault.
#[derive(Default)]
struct Results {
    times: Mutex<Vec<Duration>>,
    /// The number of verifies that started after the Revoke of their key had returned.
    after: AtomicUsize,
    /// The number of these that were VALID.
    valid: AtomicUsize,
    unavailable: AtomicUsize,
}

impl Results {
    /// Verifies a key. `after` means that the Revoke of the key has returned.
    async fn verify(&self, client: &Client, text: &str, after: bool) {
        let start = Instant::now();
        let verdict = client.verify(text).await;
        self.times.lock().push(start.elapsed());
        self.after.fetch_add(usize::from(after), Ordering::Relaxed);
        match verdict {
            Ok(Verdict::Valid) if after => self.valid.fetch_add(1, Ordering::Relaxed),
            Ok(_) => 0,
            Err(_) => self.unavailable.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// Issues keys, verifies each twice on every instance (the first time is cold), revokes it and verifies
/// again.
async fn work(clients: Vec<Client>, results: Arc<Results>, n: usize, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let account = format!("{n}-{round}-{:?}", Instant::now());
        let Ok((id, text)) = clients[n % clients.len()].issue(&account, "").await else {
            continue;
        };
        for _ in 0..2 {
            for client in &clients {
                results.verify(client, &text, false).await;
            }
        }
        if clients[(n + round) % clients.len()]
            .revoke(&id)
            .await
            .is_ok()
        {
            let calls = clients
                .iter()
                .map(|client| results.verify(client, &text, true));
            futures_util::future::join_all(calls).await;
        }
    }
}

/// Runs the callers during one fault and adds a row to the table. `tick` runs every 10 ms. Returns the
/// number of VALID answers after a Revoke.
async fn measure(
    table: &mut String,
    name: &str,
    clients: &[Client],
    mut tick: impl FnMut(),
) -> usize {
    let results = Arc::new(Results::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for n in 0..WRITERS {
        let (results, stop) = (Arc::clone(&results), Arc::clone(&stop));
        tasks.spawn(work(clients.to_vec(), results, n, stop));
    }
    let start = Instant::now();
    while start.elapsed() < FAULT {
        tick();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    let valid = results.valid.load(Ordering::Relaxed);
    let (after, unavailable) = (
        results.after.load(Ordering::Relaxed),
        results.unavailable.load(Ordering::Relaxed),
    );
    let mut times = Times(std::mem::take(&mut *results.times.lock()));
    let count = times.0.len();
    let slow = times.0.iter().filter(|time| **time > BOUND).count();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| times.quantile(quantile));
    let share = 100.0 * slow as f64 / count as f64;
    let row = format!(
        "| {name} | {count} | {after} | {valid} | {unavailable} | {p50:.2} | {p99:.2} | {max:.1} | {share:.2} % |\n"
    );
    print!("{row}");
    table.push_str(&row);
    valid
}

async fn faults(table: &mut String) -> usize {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.address());
    let cluster = Cluster::start(
        BINARY,
        3,
        options(Some(format!("redis://{}", proxy.address()))),
    );
    let clients = clients(&cluster).await;
    let (warm, _) = issue(&clients, "warm", 300).await;
    for client in &clients {
        let texts = Arc::new(warm.iter().map(|(_, text)| text.clone()).collect());
        verify_each(client, &texts, CALLERS).await;
    }
    let mut valid = measure(table, "none", &clients, || {}).await;
    redis.kill();
    valid += measure(table, "killed", &clients, || {}).await;
    redis.restart();
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.pause();
    valid += measure(table, "paused (SIGSTOP)", &clients, || {}).await;
    redis.resume();
    tokio::time::sleep(Duration::from_secs(3)).await;
    valid += measure(table, "FLUSHALL 100 times per second", &clients, || {
        redis.query(&[b"FLUSHALL"]);
    })
    .await;
    type Fault = fn(&Proxy, bool);
    let network: [(&str, Fault); 3] = [
        ("all packets lost (black hole)", Proxy::black_hole),
        ("responses lost", |proxy, on| {
            proxy.half_open(on.then_some(Swallowed::Answers))
        }),
        ("responses replaced by random bytes", Proxy::garbage),
    ];
    for (name, fault) in network {
        fault(&proxy, true);
        valid += measure(table, name, &clients, || {}).await;
        fault(&proxy, false);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    redis.query(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    valid += measure(table, "out of memory", &clients, || {}).await;
    redis.query(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    valid += measure(
        table,
        "forged and huge change notices, 10,000 per second",
        &clients,
        || {
            if let Reply::Array(channels) = redis.query(&[b"PUBSUB", b"CHANNELS"]) {
                for channel in channels {
                    let Reply::Bulk(name) = channel else {
                        continue;
                    };
                    let mut connection = redis.connect().unwrap();
                    for _ in 0..100 {
                        connection.query(&[b"PUBLISH", &name, &[0xff; 24]]).unwrap();
                    }
                    redis.query(&[b"PUBLISH", &name, &vec![0; 100_000]]);
                }
            }
        },
    )
    .await;
    valid + without_redis(table).await
}

async fn without_redis(table: &mut String) -> usize {
    let cluster = Cluster::start(BINARY, 3, options(None));
    let clients = clients(&cluster).await;
    issue(&clients, "warm", 300).await;
    measure(table, "no Redis configured", &clients, || {}).await
}

/// The number of committed transactions on Postgres.
async fn statements(connection: &mut PgConnection) -> i64 {
    // Backends report their statistics with a delay.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(count)
        .fetch_one(connection)
        .await
        .unwrap()
}

/// Verifies many keys on a cold instance, and counts the statements on Postgres.
async fn cold_instances(text: &mut String) {
    text.push_str(
        "\n| a cold instance, 64 callers | Postgres statements per 100,000 verifies |\n|---|---|\n",
    );
    let redis = Redis::start();
    for (name, url) in [("with Redis", Some(redis.url())), ("without Redis", None)] {
        let mut cluster = Cluster::start(BINARY, 1, options(url));
        let clients = clients(&cluster).await;
        let (keys, _) = issue(&clients, "cold", COLD).await;
        let texts = Arc::new(keys.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
        // This fills Redis.
        verify_each(&clients[0], &texts, CALLERS).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let new = cluster.add();
        let client = cluster.client(new).await;
        let mut connection = PgConnection::connect(&cluster.postgres.superuser_url())
            .await
            .unwrap();
        let before = statements(&mut connection).await;
        verify_each(&client, &texts, CALLERS).await;
        let executed = statements(&mut connection).await - before;
        let per = 100_000.0 * executed as f64 / texts.len() as f64;
        let _ = writeln!(text, "| {name} | {per:.0} |");
    }
}

/// Compares Revoke on two clusters of three instances, which take turns.
async fn change_notices(text: &mut String) {
    let redis = Redis::start();
    let clusters = [
        ("with change notices on Redis", options(Some(redis.url()))),
        ("without Redis", options(None)),
    ];
    text.push_str(
        "\n| Revoke on three instances, 1 caller | calls | p50 ms | p99 ms |\n|---|---|---|---|\n",
    );
    let mut times = [Vec::new(), Vec::new()];
    let clusters = clusters.map(|(name, options)| (name, Cluster::start(BINARY, 3, options)));
    for _ in 0..3 {
        for ((_, cluster), times) in clusters.iter().zip(&mut times) {
            let clients = clients(cluster).await;
            let name = format!("{:?}", Instant::now());
            let (keys, _) = issue(&clients, &name, REVOKES / 3).await;
            for (id, key) in keys {
                for client in &clients {
                    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
                }
                let start = Instant::now();
                clients[0].revoke(&id).await.unwrap();
                times.push(start.elapsed());
            }
        }
    }
    for ((name, _), times) in clusters.iter().zip(times) {
        let mut times = Times(times);
        let count = times.0.len();
        let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
        let _ = writeln!(text, "| {name} | {count} | {p50:.2} | {p99:.2} |");
    }
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` runs the program with `--test`.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut text = String::from(
        "| fault of Redis | verifies | after Revoke returned | of these VALID | UNAVAILABLE | p50 ms | p99 ms | max ms | over 50 ms |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let valid = faults(&mut text).await;
    cold_instances(&mut text).await;
    change_notices(&mut text).await;
    println!("{text}");
    write_between(RESULTS, "faults", &text);
    assert_eq!(valid, 0);
}
