//! Near-caches: a Verify without a call, what it takes in memory, and what many of them cost an instance and
//! a Revoke.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use keyward_client::near::{NearCache, NearCacheOptions};
use keyward_client::{self as client, Secret, VerifyRequest};
use keyward_crypto::{Active, Keyring, keyring_files};
use keyward_testkit::machine::{Times, cpu_time, memory, pin};
use keyward_testkit::requests::by_id;
use keyward_testkit::{Cluster, Options, PATIENCE, Postgres, eventually, now};
use tokio::task::JoinSet;

use super::h2load::median;
use super::scale::insert;
use super::shared::{clients, issue};
use super::{ROUNDS, publish};

/// The keys in a near-cache, and the hits that are measured in a round.
const SIZES: [usize; 2] = [1_000, 1_000_000];
const HITS: usize = 1_000_000;
/// The calls that hits are compared with.
const CALLS: usize = 2_000;
const IN_FLIGHT: usize = 64;
/// The near-caches of an instance, and the Revokes with each number of them.
const NEAR_CACHES: [usize; 4] = [0, 1, 100, 1_000];
const REVOKES: usize = 200;
/// How long an instance with idle near-caches is watched.
const IDLE: Duration = Duration::from_secs(10);

pub(super) async fn measure() {
    let variables = [
        ("KEYWARD_WORKERS", "1"),
        ("KEYWARD_MAX_NEAR_CACHES", "2000"),
    ];
    let options = Options {
        max_staleness: Duration::from_secs(15),
        postgres: vec![("max_wal_size", "1GB")],
        variables: variables
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
        ..Options::default()
    };
    let cluster = Cluster::start(env!("CARGO_BIN_EXE_keyward"), 1, options);
    hits(&cluster).await;
    revokes(&cluster).await;
}

fn client(cluster: &Cluster) -> client::Client {
    let builder = client::Client::builder()
        .endpoint(format!("http://{}", cluster.grpc(0)))
        .token(Secret::new(cluster.token().to_owned()));
    builder.timeout(PATIENCE).build().unwrap()
}

async fn near_cache(cluster: &Cluster) -> NearCache {
    let mut options = NearCacheOptions::default();
    options.max_bytes = 2 << 30;
    let near = client(cluster).near_cache(options).unwrap();
    let is_fresh = async || near.is_fresh();
    eventually("a near-cache is fresh", PATIENCE, is_fresh).await;
    near
}

async fn hits(cluster: &Cluster) {
    let mut owner = Postgres::connect(&cluster.postgres.superuser_url()).await;
    let keyring = keyring_files::load(&cluster.keyring()).unwrap();
    let keyring = Keyring::new(&keyring, Active::default()).unwrap();
    let texts = insert(&mut owner, &keyring, SIZES[1]).await;
    let asking = |text: String| VerifyRequest::new(Secret::new(text));
    let requests: Arc<Vec<VerifyRequest>> = Arc::new(texts.into_iter().map(asking).collect());
    let call = call_time(&client(cluster), &requests[..SIZES[0]]).await;
    let mut table = format!(
        "| | keys | ns | x a call | million/s | MiB |\n|---|---|---|---|---|---|\n\
         | a call of the client | {} | {:.0} | 1 | {:.4} | |\n",
        SIZES[0],
        call * 1e9,
        1e-6 / call
    );
    let cores = std::thread::available_parallelism().unwrap().get();
    let cores = u32::try_from(cores).unwrap();
    for size in SIZES {
        let near = near_cache(cluster).await;
        let before = memory(std::process::id());
        fill(&near, &requests, size).await;
        let megabytes = (memory(std::process::id()) - before) >> 20;
        for threads in [1, cores] {
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let (near, requests) = (near.clone(), Arc::clone(&requests));
                let measured = tokio::task::spawn_blocking(move || {
                    hit_time(&near, &requests[..size], threads)
                });
                times.push(measured.await.unwrap());
            }
            let time = median(times);
            let _ = writeln!(
                table,
                "| a hit, threads: {threads} | {size} | {:.0} | {:.5} | {:.2} | {megabytes} |",
                time * 1e9,
                time / call,
                1e-6 * f64::from(threads) / time
            );
        }
        near.close().await;
    }
    publish("near", &table);
}

/// The seconds of a call, one after the other.
async fn call_time(client: &client::Client, requests: &[VerifyRequest]) -> f64 {
    let mut times = Vec::new();
    for n in 0..CALLS {
        let start = now();
        let request = requests[n % requests.len()].clone();
        let _verdict = client.verify(request).await.unwrap();
        times.push(start.elapsed());
    }
    Times(times).quantile(0.5) / 1_000.0
}

async fn fill(near: &NearCache, requests: &Arc<Vec<VerifyRequest>>, size: usize) {
    let mut callers = JoinSet::new();
    for first in 0..IN_FLIGHT {
        let (near, requests) = (near.clone(), Arc::clone(requests));
        callers.spawn(async move {
            for request in requests[..size].iter().skip(first).step_by(IN_FLIGHT) {
                let _verdict = near.verify(request.clone()).await.unwrap();
            }
        });
    }
    callers.join_all().await;
}

/// The seconds that a hit takes a thread, while all have hits.
fn hit_time(near: &NearCache, requests: &[VerifyRequest], threads: u32) -> f64 {
    let hit = |first: u32| {
        let first = usize::try_from(first).unwrap();
        let start = now();
        let mut hits = 0_u32;
        for n in 0..HITS {
            // Far apart, so that each is in another place of the memory.
            let request = &requests[(first + n * 7_919) % requests.len()];
            hits += u32::from(near.cached(request).is_some());
        }
        assert!(
            f64::from(hits) > 0.99 * f64::from(u32::try_from(HITS).unwrap()),
            "{hits}"
        );
        start.elapsed().as_secs_f64() / f64::from(hits)
    };
    std::thread::scope(|scope| {
        let hit = &hit;
        let running: Vec<_> = (0..threads)
            .map(|n| scope.spawn(move || hit(n * 331)))
            .collect();
        let times = running.into_iter().map(|thread| thread.join().unwrap());
        times.fold(0.0, f64::max)
    })
}

async fn revokes(cluster: &Cluster) {
    let keyward = cluster.instance(0).id();
    pin(keyward, 0);
    let clients = clients(cluster).await;
    let mut table = String::from(
        "| near-caches | Revoke p50 ms | p99 ms | CPU of the idle instance, % of a core |\n|---|---|---|---|\n",
    );
    let mut open: Vec<NearCache> = Vec::new();
    for count in NEAR_CACHES {
        while open.len() < count {
            open.push(near_cache(cluster).await);
        }
        let (keys, _) = issue(&clients, &format!("near-{count}"), REVOKES).await;
        let mut times = Vec::new();
        for (id, _) in keys {
            let start = now();
            clients[0].send(by_id(&id)).await.unwrap();
            times.push(start.elapsed());
        }
        let mut times = Times(times);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = cpu_time(keyward);
        tokio::time::sleep(IDLE).await;
        let busy = (cpu_time(keyward) - before).as_secs_f64() / IDLE.as_secs_f64();
        let _ = writeln!(
            table,
            "| {count} | {:.1} | {:.1} | {:.1} |",
            times.quantile(0.5),
            times.quantile(0.99),
            100.0 * busy
        );
    }
    publish("near-revokes", &table);
}
