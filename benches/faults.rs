//! What Redis gives, and what its faults cost: verifies on three instances with each fault going on; an
//! L2 hit beside a raw GET; a Revoke with and without its hint; what a cold instance asks of Postgres with
//! and without it. Writes the tables of `docs/faults.md`.
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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyward_proto::v1::Verdict;
use keyward_testkit::{Client, Cluster, Options, Proxy, Redis, Reply, Swallowed};
use parking_lot::Mutex;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use shared::{CALLERS, Times, clients, issue, verify_each, write_between};

const BINARY: &str = env!("CARGO_BIN_EXE_keyward");
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md");
/// How long each fault goes on.
const SPELL: Duration = Duration::from_secs(8);
/// Callers that issue, verify, revoke and verify again.
const WRITERS: usize = 6;
/// Keys that a cold instance is asked for.
const COLD: usize = 20_000;
/// Revocations that are compared.
const REVOKES: usize = 300;
/// What no call may wait longer for Redis.
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

/// What the callers saw while a fault went on.
#[derive(Default)]
struct Seen {
    times: Mutex<Vec<Duration>>,
    after: AtomicUsize,
    valid: AtomicUsize,
    unavailable: AtomicUsize,
}

impl Seen {
    /// One Verify; whether it began after its key's Revoke had returned.
    async fn verify(&self, client: &Client, text: &str, after: bool) {
        let begun = Instant::now();
        let verdict = client.verify(text).await;
        self.times.lock().push(begun.elapsed());
        self.after.fetch_add(usize::from(after), Ordering::Relaxed);
        match verdict {
            Ok(Verdict::Valid) if after => self.valid.fetch_add(1, Ordering::Relaxed),
            Ok(_) => 0,
            Err(_) => self.unavailable.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// Issues keys, verifies each on every instance, where it is cold at first, revokes it and verifies again.
async fn work(clients: Vec<Client>, seen: Arc<Seen>, n: usize, stop: Arc<AtomicBool>) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let account = format!("{n}-{round}-{:?}", Instant::now());
        let Ok((id, text)) = clients[n % clients.len()].issue(&account, "").await else {
            continue;
        };
        for _ in 0..2 {
            for client in &clients {
                seen.verify(client, &text, false).await;
            }
        }
        if clients[(n + round) % clients.len()]
            .revoke(&id)
            .await
            .is_ok()
        {
            let asks = clients
                .iter()
                .map(|client| seen.verify(client, &text, true));
            futures_util::future::join_all(asks).await;
        }
    }
}

async fn spell(
    table: &mut String,
    what: &str,
    clients: &[Client],
    mut tick: impl FnMut(),
) -> usize {
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for n in 0..WRITERS {
        tasks.spawn(work(
            clients.to_vec(),
            Arc::clone(&seen),
            n,
            Arc::clone(&stop),
        ));
    }
    let begun = Instant::now();
    while begun.elapsed() < SPELL {
        tick();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    let valid = seen.valid.load(Ordering::Relaxed);
    let (after, unavailable) = (
        seen.after.load(Ordering::Relaxed),
        seen.unavailable.load(Ordering::Relaxed),
    );
    let mut times = Times(std::mem::take(&mut *seen.times.lock()));
    let count = times.0.len();
    let slow = times.0.iter().filter(|time| **time > BOUND).count();
    let (p50, p99, most) = (times.at(0.5), times.at(0.99), times.at(1.0));
    let share = 100.0 * slow as f64 / count as f64;
    let row = format!(
        "| {what} | {count} | {after} | {valid} | {unavailable} | {p50:.2} | {p99:.2} | {most:.1} | {share:.2} % |\n"
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
    let mut valid = spell(table, "none", &clients, || {}).await;
    redis.kill();
    valid += spell(table, "killed", &clients, || {}).await;
    redis.restart();
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.pause();
    valid += spell(table, "paused (SIGSTOP)", &clients, || {}).await;
    redis.resume();
    tokio::time::sleep(Duration::from_secs(3)).await;
    valid += spell(table, "FLUSHALL 100 times a second", &clients, || {
        redis.query(&[b"FLUSHALL"]);
    })
    .await;
    type Fault = fn(&Proxy, bool);
    let network: [(&str, Fault); 3] = [
        ("a black hole before it", Proxy::black_hole),
        ("its answers lost", |proxy, on| {
            proxy.half_open(on.then_some(Swallowed::Answers))
        }),
        ("its answers garbage", Proxy::garbage),
    ];
    for (what, fault) in network {
        fault(&proxy, true);
        valid += spell(table, what, &clients, || {}).await;
        fault(&proxy, false);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    redis.query(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    valid += spell(table, "full", &clients, || {}).await;
    redis.query(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    valid += spell(
        table,
        "false and huge hints, 10,000 a second",
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
    valid + without(table).await
}

async fn without(table: &mut String) -> usize {
    let cluster = Cluster::start(BINARY, 3, options(None));
    let clients = clients(&cluster).await;
    issue(&clients, "warm", 300).await;
    spell(table, "no Redis at all", &clients, || {}).await
}

/// User and system time that a process has taken.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split(' ').collect();
    let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

async fn statements(hand: &mut PgConnection) -> i64 {
    // Backends tell what they did with some delay.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";
    sqlx::query_scalar(count).fetch_one(hand).await.unwrap()
}

/// A cold instance is asked for many keys, then for the same again: CPU of each, and what Postgres got.
async fn cold(
    cluster: &mut Cluster,
    texts: &Arc<Vec<String>>,
    what: &str,
    table: &mut String,
) -> f64 {
    let new = cluster.add();
    let client = cluster.client(new).await;
    let process = cluster.instance(new).id();
    let mut hand = PgConnection::connect(&cluster.postgres.superuser_url())
        .await
        .unwrap();
    let before = statements(&mut hand).await;
    let begun = (Instant::now(), cpu(process));
    verify_each(&client, texts, CALLERS).await;
    let first = cpu(process) - begun.1;
    let took = begun.0.elapsed().as_secs_f64();
    let asked = statements(&mut hand).await - before;
    let begun = cpu(process);
    verify_each(&client, texts, CALLERS).await;
    let second = cpu(process) - begun;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / texts.len() as f64;
    let (cold, hot) = (each(first), each(second));
    let per = 100_000.0 * asked as f64 / texts.len() as f64;
    let row = format!(
        "| {what} | {:.0} | {cold:.1} | {hot:.1} | {per:.0} |\n",
        texts.len() as f64 / took
    );
    print!("{row}");
    table.push_str(&row);
    cold - hot
}

/// What a GET costs whoever sends it, at as many in flight.
async fn raw_gets(redis: &Redis) -> f64 {
    let size = 300;
    redis.query(&[b"SET", b"raw", &vec![b'x'; size]]);
    let client = redis::Client::open(redis.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let (next, before) = (Arc::new(AtomicUsize::new(0)), cpu(std::process::id()));
    let mut tasks = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut connection, next) = (connection.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < 5 * COLD {
                let got: Vec<u8> = redis::cmd("GET")
                    .arg("raw")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                assert_eq!(got.len(), size);
            }
        });
    }
    tasks.join_all().await;
    (cpu(std::process::id()) - before).as_secs_f64() * 1e6 / (5 * COLD) as f64
}

async fn caches(text: &mut String) {
    text.push_str(
        "\n| a cold instance, 64 callers | verifies/s | CPU us each | the same again, CPU us each | statements of Postgres per 100,000 verifies |\n|---|---|---|---|---|\n",
    );
    let redis = Redis::start();
    let mut cluster = Cluster::start(BINARY, 1, options(Some(redis.url())));
    let clients = clients(&cluster).await;
    let (keys, _) = issue(&clients, "cold", COLD).await;
    let texts = Arc::new(keys.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
    // Fills Redis.
    verify_each(&clients[0], &texts, CALLERS).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let hit = cold(&mut cluster, &texts, "with Redis", text).await;
    drop(cluster);
    let mut cluster = Cluster::start(BINARY, 1, options(None));
    let clients = shared::clients(&cluster).await;
    let (keys, _) = issue(&clients, "cold", COLD).await;
    let texts = Arc::new(keys.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
    let read = cold(&mut cluster, &texts, "without", text).await;
    let raw = raw_gets(&redis).await;
    let _ = writeln!(
        text,
        "\n- CPU of an instance for an L2 hit, over that of a hit in memory: {hit:.1} us; for a read of \
         Postgres: {read:.1} us; of a client for a raw GET of 300 bytes, 64 in flight: {raw:.1} us"
    );
}

/// The same Revokes on two sets of three instances, in turns.
async fn hints(text: &mut String) {
    let redis = Redis::start();
    let sets = [
        ("with the hint of Redis", options(Some(redis.url()))),
        ("without", options(None)),
    ];
    text.push_str(
        "\n| Revoke on three instances, 1 caller | calls | p50 ms | p99 ms |\n|---|---|---|---|\n",
    );
    let mut times = [Vec::new(), Vec::new()];
    let sets = sets.map(|(what, options)| (what, Cluster::start(BINARY, 3, options)));
    for _ in 0..3 {
        for ((_, cluster), times) in sets.iter().zip(&mut times) {
            let clients = clients(cluster).await;
            let name = format!("{:?}", Instant::now());
            let (keys, _) = issue(&clients, &name, REVOKES / 3).await;
            for (id, key) in keys {
                for client in &clients {
                    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
                }
                let begun = Instant::now();
                clients[0].revoke(&id).await.unwrap();
                times.push(begun.elapsed());
            }
        }
    }
    for ((what, _), times) in sets.iter().zip(times) {
        let mut times = Times(times);
        let (count, p50, p99) = (times.0.len(), times.at(0.5), times.at(0.99));
        let _ = writeln!(text, "| {what} | {count} | {p50:.2} | {p99:.2} |");
    }
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` builds it, and asks for nothing.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut text = String::from(
        "| what is wrong with Redis | verifies | after a Revoke's return | VALID of these | UNAVAILABLE | p50 ms | p99 ms | most ms | over 50 ms |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let valid = faults(&mut text).await;
    caches(&mut text).await;
    hints(&mut text).await;
    println!("{text}");
    write_between(RESULTS, "faults", &text);
    assert_eq!(valid, 0);
}
