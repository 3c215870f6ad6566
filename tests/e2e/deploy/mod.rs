//! deploy/ without a container engine: the tests start the commands of compose.yaml and of the
//! systemd units as processes. These serve and survive the loss of an instance, and every service
//! is hardened.

use std::path::Path;

use keyward_proto::v1::Verdict;
use keyward_testkit::requests::{recoverable, replacing};
use keyward_testkit::{Client, Deployment, PATIENCE, eventually, metric};

mod files;
mod package;
mod secrets;
mod story;
mod unit;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn start() -> Deployment {
    Deployment::start(repository(), Path::new(crate::BINARY))
}

/// The value of a metric at each instance.
async fn metrics(deployment: &Deployment, name: &str) -> Vec<u64> {
    let mut values = Vec::new();
    for port in deployment.side_ports() {
        values.push(metric(port, name).await.unwrap_or_default());
    }
    values
}

async fn verify(client: &Client, key: &str, times: usize) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for _ in 0..times {
        verdicts.push(client.verify(key).await.unwrap());
    }
    verdicts
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_of_compose_yaml_serve_behind_the_balancer() {
    let mut deployment = start();
    let admin = deployment.token("operator/admin.token");
    let client = deployment.client(&admin).await;
    let (id, key) = client.issue("42", "").await.unwrap();
    assert_eq!(verify(&client, &key, 60).await, [Verdict::Valid; 60]);
    // One connection, and calls on every instance.
    let calls = "keyward_rpc_total{method=\"Verify\",code=\"OK\"}";
    let calls = metrics(&deployment, calls).await;
    assert!(calls.iter().all(|calls| *calls > 0), "{calls:?}");
    // What one has verified the others need not ask Postgres for.
    let shared = metrics(&deployment, "keyward_l2_total{outcome=\"hit\"}").await;
    assert!(shared.iter().sum::<u64>() > 0, "{shared:?}");

    let revoked = client.revoke(&id).await.unwrap();
    assert_eq!(revoked.confirmed_instances, 3);
    assert_eq!(verify(&client, &key, 30).await, [Verdict::Revoked; 30]);

    // A client that does not trust the authority cannot connect.
    let stranger = keyward_testkit::Authority::new();
    let refused = keyward_testkit::connect_tls(deployment.address(), stranger.pem()).await;
    refused.unwrap_err();

    // An instance that is gone gets no calls, and one that comes back gets some again.
    let (_, key) = client.issue("43", "").await.unwrap();
    deployment.kill("keyward-b");
    eventually("the other two serve", PATIENCE, async || {
        let mut all = true;
        for _ in 0..20 {
            all &= client.verify(&key).await.is_ok();
        }
        all
    })
    .await;
    deployment.up("keyward-b");
    let calls = "keyward_rpc_total{method=\"Verify\",code=\"OK\"}";
    eventually("it gets calls again", PATIENCE, async || {
        let _ = client.verify(&key).await;
        metrics(&deployment, calls).await[1] > 0
    })
    .await;
    assert!(deployment.stop("keyward-c").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_once_may_run_again_and_the_bot_may_do_what_it_needs() {
    let mut deployment = start();
    let (admin, bot) = (
        deployment.token("operator/admin.token"),
        deployment.token("bot/token"),
    );
    let said = deployment.up("init");
    assert!(
        said.contains("the keyring and the tokens already exist"),
        "{said}"
    );
    let said = deployment.up("bot-token");
    assert!(said.contains("no token was created"), "{said}");
    assert_eq!(deployment.token("operator/admin.token"), admin);
    assert_eq!(deployment.token("bot/token"), bot);

    let client = deployment.client(&bot).await;
    let first = client.send(recoverable("tg-1")).await.unwrap();
    let again = client.send(recoverable("tg-1")).await.unwrap();
    assert_eq!(first.api_key, again.api_key);
    let replaced = client.send(replacing(&first.key.unwrap().key_id)).await;
    assert!(!replaced.unwrap().api_key.is_empty());
    let denied = client.verify(&again.api_key).await.unwrap_err();
    assert_eq!(denied.code(), tonic::Code::PermissionDenied);
}
