//! The promise on many instances: processes on a Postgres, under load, during each fault.
//! `KEYWARD_SOAK_ROUNDS` sets the number of rounds for each fault.

mod attacker;
mod calls;
mod hand;
mod instances;
mod load;
mod login;
mod lost_log;
mod membership;
mod operator;
mod outcome;
mod redis;
mod redis_refusals;
mod server;
mod slots;

use std::time::Duration;

use keyward_testkit::{Client, Cluster, Options, eventually, now};
use load::Load;

use crate::BINARY;

/// Longer than an instance with the shortest `max_staleness` may answer without news.
const TOO_LONG: Duration = Duration::from_millis(2_600);
/// An instance recovers within two seconds; a busy machine needs longer.
const RECOVERY: Duration = Duration::from_secs(10);

/// How a fault scenario runs.
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

    /// Puts a load on three instances during `fault`, and checks that the promise was kept.
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

/// Prints a measurement for the reader of the test's output.
fn tell(what: &str, value: impl std::fmt::Debug) {
    println!("{what}: {value:?}");
}

/// A new key in a new account: its id and its secret.
async fn issued(client: &Client) -> (String, String) {
    // Different in each call of a test.
    let account = format!("{:?}", now());
    calls::patiently(async || client.issue(&account, "").await).await
}

/// Waits until an instance gives any verdict on a key, and returns how long that took.
async fn recovery(client: &Client, api_key: &str) -> Duration {
    eventually("an instance is fresh again", RECOVERY, async || {
        client.verify(api_key).await.is_ok()
    })
    .await
}
