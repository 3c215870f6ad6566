//! Measures the CPU time of an instance for a cold Verify: each key is verified there for the first time,
//! with 64 calls in flight, and read from Postgres or from Redis. For comparison: the same keys again,
//! from memory, and an empty call of a default tonic server. Builds of `keyward` that are named as
//! arguments take turns; without arguments this one is measured.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark uses the real clock, prints results, and stops at the first error"
)]

#[path = "shared/empty.rs"]
mod empty;
#[expect(dead_code, reason = "other benchmarks use the rest")]
mod shared;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward_proto::v1;
use keyward_testkit::machine::cpu_time;
use keyward_testkit::{Client, Cluster, Options, Redis};

use empty::EmptyServer;
use shared::{CALLERS, clients, issue, verify_each};

const ROUNDS: usize = 5;
const KEYS: usize = 20_000;
/// The connections of the callers.
const CONNECTIONS: usize = 8;

/// A server: its address, its process, and the token of its callers.
type Server<'s> = (SocketAddr, u32, &'s str);

/// A figure of each round: microseconds of CPU for a call, and calls in a second.
#[derive(Default)]
struct Rounds(Vec<(f64, f64)>);

impl Rounds {
    fn median(&self, figure: impl Fn(&(f64, f64)) -> f64) -> f64 {
        let mut values: Vec<f64> = self.0.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    fn cpu(&self) -> f64 {
        self.median(|round| round.0)
    }

    /// Verifies each key once.
    async fn measure(&mut self, (address, process, token): Server<'_>, keys: &[Arc<Vec<String>>]) {
        let mut clients = Vec::new();
        for _ in keys {
            let client = Client::new(address, Some(token)).await;
            // The connection knows its caller after a call.
            client.verify("").await.unwrap();
            clients.push(client);
        }
        let (start, before) = (Instant::now(), cpu_time(process));
        let calls = clients.iter().zip(keys);
        let calls = calls.map(|(client, keys)| verify_each(client, keys, CALLERS / CONNECTIONS));
        futures_util::future::join_all(calls).await;
        let (used, elapsed) = (cpu_time(process) - before, start.elapsed());
        let calls = KEYS as f64;
        self.0.push((
            used.as_secs_f64() * 1e6 / calls,
            calls / elapsed.as_secs_f64(),
        ));
    }
}

/// One build, its store, and what was measured.
struct Build {
    binary: String,
    redis: Redis,
    cluster: Cluster,
    keys: Vec<Arc<Vec<String>>>,
    postgres: Rounds,
    filled: Rounds,
    memory: Rounds,
}

impl Build {
    async fn start(binary: String) -> Self {
        let (redis, options) = (
            Redis::start(),
            Options {
                variables: vec![("KEYWARD_WORKERS", "1".to_owned())],
                ..Options::default()
            },
        );
        let mut cluster = Cluster::start(&binary, 1, options);
        let (keys, _) = issue(&clients(&cluster).await, "cold", KEYS).await;
        let texts: Vec<_> = keys.into_iter().map(|(_, text)| text).collect();
        // An instance drops entries for Redis if they come too fast.
        let filling = cluster
            .add_with(1, &[("KEYWARD_REDIS", &redis.url())])
            .start;
        verify_each(&cluster.client(filling).await, &Arc::new(texts.clone()), 4).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.stop(filling);
        Self {
            binary,
            redis,
            cluster,
            keys: texts
                .chunks(KEYS / CONNECTIONS)
                .map(|keys| Arc::new(keys.to_vec()))
                .collect(),
            postgres: Rounds::default(),
            filled: Rounds::default(),
            memory: Rounds::default(),
        }
    }

    async fn round(&mut self) {
        let url = self.redis.url();
        let token = self.cluster.token().to_owned();
        let with_redis = [("KEYWARD_REDIS", url.as_str())];
        for (cold, variables) in [
            (&mut self.postgres, &[][..]),
            (&mut self.filled, &with_redis),
        ] {
            let number = self.cluster.add_with(1, variables).start;
            let instance = self.cluster.instance(number);
            let server = (instance.grpc, instance.id(), token.as_str());
            // Wait for its connection to Redis.
            tokio::time::sleep(Duration::from_millis(500)).await;
            cold.measure(server, &self.keys).await;
            self.memory.measure(server, &self.keys).await;
            self.cluster.stop(number);
        }
    }

    fn print(&self, empty: f64) {
        println!("{}", self.binary);
        let hit = self.memory.cpu();
        for (name, rounds) in [
            ("Verify from memory", &self.memory),
            ("Verify from Redis", &self.filled),
            ("Verify from Postgres", &self.postgres),
        ] {
            let cpu = rounds.cpu();
            println!(
                "  {name:<21} {cpu:>6.1} us of CPU, {:>5.2} x the empty call, {:>5.1} us above memory, {:>6.0}/s",
                cpu / empty,
                cpu - hit,
                rounds.median(|round| round.1)
            );
        }
    }
}

async fn run(binaries: Vec<String>) {
    let mut builds = Vec::new();
    for binary in binaries {
        builds.push(Build::start(binary).await);
    }
    let client = builds[0].cluster.client(0).await;
    let call = v1::VerifyRequest {
        api_key: builds[0].keys[0][0].clone(),
        ..Default::default()
    };
    let answer = client.keys.clone().verify(call).await.unwrap();
    let (server, mut empty) = (EmptyServer::start(&answer.into_inner()), Rounds::default());
    for _ in 0..ROUNDS {
        empty
            .measure((server.address, server.id(), ""), &builds[0].keys)
            .await;
        for build in &mut builds {
            build.round().await;
        }
    }
    let rate = empty.median(|round| round.1);
    println!("{CALLERS} calls in flight, medians of {ROUNDS} rounds");
    println!("empty call: {:.1} us of CPU, {rate:.0}/s", empty.cpu());
    builds.iter().for_each(|build| build.print(empty.cpu()));
}

fn main() {
    empty::serve_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs the program with `--test`.
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let mut builds = arguments;
    builds.retain(|argument| !argument.starts_with('-'));
    if builds.is_empty() {
        builds.push(env!("CARGO_BIN_EXE_keyward").to_owned());
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(builds));
}
