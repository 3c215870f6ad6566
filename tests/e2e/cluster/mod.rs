//! The promise on many instances: processes on a Postgres, under load, during each fault.
//! `KEYWARD_SOAK_ROUNDS` sets the number of rounds for each fault.

mod attacker;
mod hand;
mod imports;
mod instances;
mod locks;
mod login;
mod lost_log;
mod membership;
mod operator;
mod pages;
mod redis;
mod redis_refusals;
mod server;
mod slots;
mod standby;

use std::time::Duration;

use keyward_testkit::{
    Client, Cluster, End, Least, Load, LoadOptions, Options, PATIENCE, eventually, now, patiently,
};

use crate::{BINARY, rounds};

/// Longer than an instance with the shortest `max_staleness` may answer without news.
const TOO_LONG: Duration = Duration::from_millis(2_600);

const LOAD: LoadOptions = LoadOptions {
    writers: 3,
    verifiers: 2,
    verify_pause: Duration::from_millis(4),
    write_pause: Duration::from_millis(20),
    ends: End::AT_ONCE,
    imports: false,
    coming_and_going: false,
};
const LEAST: Least = Least {
    ended: 15,
    valid: 100,
    after_death: 60,
};

/// How a fault scenario runs.
struct Plan {
    name: &'static str,
    options: Options,
    /// Whether instances come and go, so that calls may end without an answer.
    coming_and_going: bool,
    /// Whether keys are imported instead of issued.
    imports: bool,
}

impl Plan {
    fn new(name: &'static str) -> Self {
        Self::with(name, Options::default())
    }

    const fn with(name: &'static str, options: Options) -> Self {
        Self {
            name,
            options,
            coming_and_going: false,
            imports: false,
        }
    }

    /// A plan in which instances reach Postgres through proxies.
    fn with_proxies(name: &'static str) -> Self {
        let options = Options {
            proxies: true,
            ..Options::default()
        };
        Self::with(name, options)
    }

    /// Puts a load on three instances during `fault`, and checks that the promise was kept.
    async fn run(self, fault: impl AsyncFn(&mut Cluster, &Load)) {
        let mut cluster = Cluster::start(BINARY, 3, self.options);
        for round in 0..rounds(1) {
            let path = cluster.directory().join(format!("history-{round}.jsonl"));
            let options = LoadOptions {
                coming_and_going: self.coming_and_going,
                imports: self.imports,
                ..LOAD
            };
            let load = Load::new(&path, options);
            for number in cluster.running() {
                load.join(number, cluster.client(number).await);
            }
            fault(&mut cluster, &load).await;
            let report = load.end().await.assert_kept(self.name, LEAST);
            tell(self.name, format_args!("{report}"));
        }
        cluster.stop_all();
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
    patiently(async || client.issue(&account, "").await).await
}

/// Waits until an instance gives any verdict on a key, and returns how long that took.
async fn recovery(client: &Client, api_key: &str) -> Duration {
    eventually("an instance is fresh again", PATIENCE, async || {
        client.verify(api_key).await.is_ok()
    })
    .await
}

/// A client of each instance.
async fn clients(cluster: &Cluster) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in cluster.running() {
        clients.push(cluster.client(number).await);
    }
    clients
}
