//! What happens to the store and its instances: an upgrade under load, a restore, a lost Redis.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyward_client::{Client, Secret, Verdict, VerifyRequest};
use keyward_proto::v1;
use keyward_testkit::{Cluster, Options, PATIENCE, Process, Redis, eventually, patiently};

use super::{BACKUP, Operator, RUNBOOKS, UPGRADE, blocks};
use crate::failover::{assert_unsettled, settle};
use crate::{BINARY, fresh_directory, serve};

fn operator(cluster: &Cluster) -> Operator {
    let mut operator = Operator::new(cluster.directory());
    operator.set("KEYWARD_STORE", cluster.postgres.owner_url());
    operator.set("KEYWARD_KEYRING", cluster.keyring().display());
    operator
}

/// What several tasks saw that verified one key without a pause.
#[derive(Default)]
struct Seen {
    done: AtomicBool,
    valid: AtomicUsize,
    failed: AtomicUsize,
}

async fn verify(client: Client, key: String, seen: Arc<Seen>) {
    while !seen.done.load(Ordering::Relaxed) {
        let verdict = client.verify(VerifyRequest::new(Secret::new(&key))).await;
        let count = match verdict {
            Ok(Verdict::Valid(_)) => &seen.valid,
            other => {
                eprintln!("a failed Verify: {other:?}");
                &seen.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_under_load_fails_no_verify() {
    const INSTANCES: usize = 3;
    let cluster = Cluster::start(BINARY, 0, Options::default());
    let mut operator = operator(&cluster);
    let store = cluster.postgres.service_url();
    let data = |number: usize| cluster.directory().join(format!("upgraded-{number}"));
    let mut processes: Vec<_> = (0..INSTANCES)
        .map(|number| {
            let data = data(number);
            Process::start(cluster.command(&data, &store), &data)
        })
        .collect();
    operator.write("token", cluster.token());
    let urls = processes
        .iter()
        .map(|process| format!("http://{}", process.grpc));
    let client = Client::builder()
        .endpoints(urls)
        .token_file(operator.path("token"))
        .build()
        .unwrap();
    let issue = v1::IssueRequest {
        account_id: "42".to_owned(),
        ..v1::IssueRequest::default()
    };
    let key = client.issue(issue).await.unwrap().api_key;
    let seen = Arc::new(Seen::default());
    let tasks: Vec<_> = (0..8)
        .map(|_| tokio::spawn(verify(client.clone(), key.clone(), Arc::clone(&seen))))
        .collect();

    let migrate = &blocks(UPGRADE, "# Upgrade")[0];
    let health = &blocks(UPGRADE, "# Upgrade")[1];
    let printed = operator.does(migrate);
    assert!(printed.contains("schema: up to date"), "{printed}");
    for (number, process) in processes.iter_mut().enumerate() {
        let before = seen.valid.load(Ordering::Relaxed);
        eventually("there is load", PATIENCE, async || {
            seen.valid.load(Ordering::Relaxed) > before + 200
        })
        .await;
        let address = process.grpc;
        assert!(process.stop().success());
        let mut command = Process::command_on(BINARY, &data(number), address);
        command
            .env("KEYWARD_STORE", &store)
            .env("KEYWARD_KEYRING", cluster.keyring())
            .env("KEYWARD_MAX_STALENESS", "2s");
        *process = Process::start(command, &data(number));
        operator.set("INSTANCE", format!("http://{address}"));
        operator.does(health);
    }
    let before = seen.valid.load(Ordering::Relaxed);
    eventually("there is load afterwards", PATIENCE, async || {
        seen.valid.load(Ordering::Relaxed) > before + 200
    })
    .await;
    seen.done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let counts = (&seen.valid, &seen.failed);
    println!("{counts:?} verifies succeeded and failed");
    assert_eq!(seen.failed.load(Ordering::Relaxed), 0, "{counts:?}");
    assert!(seen.valid.load(Ordering::Relaxed) > 800, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_restored_by_the_book() {
    let mut cluster = Cluster::start(BINARY, 2, Options::default());
    let operator = operator(&cluster);
    let client = cluster.client(0).await;
    let (before, dead) = client.issue("1", "").await.unwrap();
    let (id, key) = client.issue("2", "").await.unwrap();
    client.revoke(&before).await.unwrap();
    let dump = "pg_dump --format=custom --file=keyward.dump --dbname=\"$KEYWARD_STORE\"";
    operator.does(dump);
    client.revoke(&id).await.unwrap();
    cluster.stop_all();
    let steps = blocks(BACKUP, "## Restore");
    let [restore, advance] = &steps[..2] else {
        panic!("{steps:?}")
    };
    operator.does(restore);
    let printed = operator.does(advance);
    assert!(printed.contains("the epoch is now"), "{printed}");
    for number in cluster.add_with(2, &[]) {
        let client = cluster.client(number).await;
        assert_eq!(client.verify(&dead).await.unwrap(), v1::Verdict::Revoked);
        // The restore has undone the later Revoke, as the page says.
        assert_eq!(client.verify(&key).await.unwrap(), v1::Verdict::Valid);
    }
    let client = cluster.client(cluster.running()[0]).await;
    assert_unsettled(client.revoke(&id).await);
    settle(&cluster.postgres).await;
    patiently(async || client.revoke(&id).await).await;
    for number in cluster.running() {
        let client = cluster.client(number).await;
        assert_eq!(client.verdict(&key).await, v1::Verdict::Revoked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_redis_changes_no_verdict() {
    let redis = Redis::start();
    let mut cluster = Cluster::start(BINARY, 2, Options::with_redis(redis.url()));
    let mut operator = operator(&cluster);
    operator.set("KEYWARD_REDIS", redis.url());
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let (id, key) = clients[0].issue("1", "").await.unwrap();
    let (other, dead) = clients[0].issue("2", "").await.unwrap();
    clients[0].revoke(&other).await.unwrap();
    redis.kill();
    for client in &clients {
        assert_eq!(client.verify(&key).await.unwrap(), v1::Verdict::Valid);
        assert_eq!(client.verify(&dead).await.unwrap(), v1::Verdict::Revoked);
    }
    clients[0].revoke(&id).await.unwrap();
    assert_eq!(clients[1].verify(&key).await.unwrap(), v1::Verdict::Revoked);
    let doctor = &blocks(RUNBOOKS, "## Redis is lost")[0];
    let (_, printed) = operator.runs(doctor);
    assert!(printed.contains("cannot be used"), "{printed}");
    redis.restart();
    let (_, printed) = operator.runs(doctor);
    assert!(!printed.contains("cannot be used"), "{printed}");
    let added = cluster.add();
    let added = cluster.client(added).await;
    assert_eq!(added.verify(&key).await.unwrap(), v1::Verdict::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_embedded_store_that_serves_is_whole_and_private() {
    let (_directory, data) = fresh_directory();
    let mut process = serve(&data);
    let client = process.client().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let writer = tokio::spawn(async move {
        let mut slot = 0;
        while client.issue("43", &slot.to_string()).await.is_ok() {
            slot += 1;
        }
        slot
    });
    let (_, command) = BACKUP.split_once("`(umask").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    let operator = Operator::new(&data);
    for _ in 0..5 {
        let _ = fs::remove_file(data.join("copy.db"));
        operator.does(&format!("(umask{command}"));
    }
    process.kill();
    assert!(writer.await.unwrap() > 0);
    let copy = data.join("copy.db");
    assert_eq!(
        fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
        0o600
    );
    for left in ["keyward.db-wal", "keyward.db-shm"] {
        let _ = fs::remove_file(data.join(left));
    }
    fs::rename(copy, data.join("keyward.db")).unwrap();
    let restored = serve(&data);
    let restored = restored.client().await.verify(&key).await;
    assert_eq!(restored.unwrap(), v1::Verdict::Valid);
}
