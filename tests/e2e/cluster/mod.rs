//! The promise on many instances: real processes on a real Postgres, under load, with each fault
//! going on. `KEYWARD_SOAK_ROUNDS` says how often each fault is gone through.

mod attacker;
mod calls;
mod hand;
mod instances;
mod load;
mod lost_log;
mod membership;
mod operator;
mod outcome;
mod redis;
mod server;
mod slots;

use std::time::Duration;

use keyward_testkit::{Client, Cluster, Options, eventually, now};
use load::Load;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::BINARY;

/// Longer than an instance with the shortest `max_staleness` may answer without news.
const TOO_LONG: Duration = Duration::from_millis(2_600);
/// Within two seconds an instance is to recover; on a machine with much else to do it takes longer.
const RECOVERY: Duration = Duration::from_secs(10);

/// How a fault is gone through.
struct Plan {
    name: &'static str,
    /// Whether instances reach Postgres through proxies.
    proxies: bool,
    /// Whether instances come and go, so that calls may end without an answer.
    coming_and_going: bool,
    /// The Redis that instances share, if they do.
    redis: Option<String>,
}

impl Plan {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            proxies: false,
            coming_and_going: false,
            redis: None,
        }
    }

    /// Puts a load on three instances while `fault` goes on, and holds what was seen to the promise.
    async fn run(self, fault: impl AsyncFn(&mut Cluster, &Load)) {
        let redis = self.redis.into_iter();
        let options = Options {
            proxies: self.proxies,
            variables: redis.map(|url| ("KEYWARD_REDIS", url)).collect(),
            ..Options::default()
        };
        let mut cluster = Cluster::start(BINARY, 3, options);
        for round in 0..rounds() {
            let path = cluster.directory().join(format!("history-{round}.jsonl"));
            let load = Load::start(&cluster, &path, self.coming_and_going).await;
            fault(&mut cluster, &load).await;
            load.end().await.assert_kept(self.name);
        }
        for number in cluster.running() {
            cluster.stop(number);
        }
    }
}

fn rounds() -> usize {
    match std::env::var("KEYWARD_SOAK_ROUNDS") {
        Ok(rounds) => rounds.parse().unwrap(),
        Err(_) => 1,
    }
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Says how long something took, for whoever reads the output of a test.
#[expect(clippy::print_stdout, reason = "a measurement is for a person")]
fn tell(what: &str, value: impl std::fmt::Debug) {
    println!("{what}: {value:?}");
}

/// A new key of an account of its own: its id and its secret.
async fn issued(client: &Client) -> (String, String) {
    // The same in no two calls of a test.
    let account = format!("{:?}", now());
    calls::patiently(async || client.issue(&account, "").await).await
}

async fn health(client: &Client) -> ServingStatus {
    let request = HealthCheckRequest::default();
    let answer = HealthClient::new(client.channel.clone())
        .check(request)
        .await;
    answer.unwrap().get_ref().status()
}

/// Waits until an instance gives a verdict on a key, whichever: how long that took.
async fn recovery(client: &Client, api_key: &str) -> Duration {
    eventually("an instance is fresh again", RECOVERY, async || {
        client.verify(api_key).await.is_ok()
    })
    .await
}
