//! A cold Verify: each key is verified on an instance for the first time, and read from Postgres or from
//! Redis.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use keyward_proto::v1;
use keyward_testkit::machine::{cpu_time, pin};
use keyward_testkit::{Client, Cluster, Options, Redis, now};

use super::empty::{Answers, EmptyServer};
use super::h2load::median;
use super::shared::{CALLERS, clients, issue, verify_each};
use super::{ROUNDS, publish};

const KEYS: usize = 20_000;
/// The connections of the callers.
const CONNECTIONS: usize = 8;

/// Microseconds of CPU for a call, and calls in a second.
type Figures = (f64, f64);

/// Compares a Verify from memory, from Redis and from Postgres with the empty call, and writes the table.
pub(super) async fn measure() {
    let redis = Redis::start();
    let options = Options {
        variables: vec![("KEYWARD_WORKERS", "1".to_owned())],
        ..Options::default()
    };
    let mut cluster = Cluster::start(env!("CARGO_BIN_EXE_keyward"), 1, options);
    let (keys, _) = issue(&clients(&cluster).await, "cold", KEYS).await;
    let texts: Vec<_> = keys.into_iter().map(|(_, text)| text).collect();
    let url = redis.url();
    let with_redis = [("KEYWARD_REDIS", url.as_str())];
    fill(&mut cluster, &with_redis, &texts).await;
    let client = cluster.client(0).await;
    let request = v1::VerifyRequest {
        api_key: texts[0].clone(),
        ..Default::default()
    };
    let answer = client.keys.clone().verify(request).await.unwrap();
    let answers = Answers {
        verify: answer.into_inner(),
        ..Answers::default()
    };
    let empty = EmptyServer::start(&answers, None);
    cluster.stop(0);

    let parts = texts.chunks(KEYS / CONNECTIONS);
    let keys: Vec<_> = parts.map(|keys| Arc::new(keys.to_vec())).collect();
    let mut rounds: [Vec<Figures>; 4] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(call(empty.grpc, empty.id(), "", &keys).await);
        for (n, variables) in [(2, &with_redis[..]), (3, &[])] {
            let instance = cluster.add_with(1, variables).start;
            let process = cluster.instance(instance);
            pin(process.id(), 0);
            // Wait for its connection to Redis.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let token = cluster.token();
            rounds[n].push(call(process.grpc, process.id(), token, &keys).await);
            rounds[1].push(call(process.grpc, process.id(), token, &keys).await);
            cluster.stop(instance);
        }
    }
    let cpu = |n: usize| median(rounds[n].iter().map(|round| round.0));
    let mut table = String::from(
        "| call | us of CPU | x the empty call | us above memory | calls/s |\n|---|---|---|---|---|\n",
    );
    for (n, name) in [
        "empty call",
        "Verify from memory",
        "Verify from Redis",
        "Verify from Postgres",
    ]
    .into_iter()
    .enumerate()
    {
        let (used, times, above) = (cpu(n), cpu(n) / cpu(0), cpu(n) - cpu(1));
        let rate = median(rounds[n].iter().map(|round| round.1));
        let _ = writeln!(
            table,
            "| {name} | {used:.1} | {times:.2} | {above:.1} | {rate:.0} |"
        );
    }
    publish("cold", &table);
}

/// Puts all keys into Redis. An instance drops entries if they come too fast.
async fn fill(cluster: &mut Cluster, with_redis: &[(&str, &str)], texts: &[String]) {
    let filling = cluster.add_with(1, with_redis).start;
    let client = cluster.client(filling).await;
    verify_each(&client, &Arc::new(texts.to_vec()), 4).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.stop(filling);
}

/// Verifies each key once, and measures the server.
async fn call(
    address: std::net::SocketAddr,
    process: u32,
    token: &str,
    keys: &[Arc<Vec<String>>],
) -> Figures {
    let mut clients = Vec::new();
    for _ in keys {
        let client = Client::new(address, Some(token)).await;
        // The connection knows its caller after a call.
        client.verify("").await.unwrap();
        clients.push(client);
    }
    let (begun, before) = (now(), cpu_time(process));
    let calls = clients.iter().zip(keys);
    let calls = calls.map(|(client, keys)| verify_each(client, keys, CALLERS / CONNECTIONS));
    futures_util::future::join_all(calls).await;
    let (used, elapsed) = (cpu_time(process) - before, begun.elapsed());
    let calls = f64::from(u32::try_from(KEYS).unwrap());
    (
        used.as_secs_f64() * 1e6 / calls,
        calls / elapsed.as_secs_f64(),
    )
}
