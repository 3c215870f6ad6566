//! Webhooks over the ends of processes: every acknowledged change arrives, also after `kill -9`, and instances
//! share the work.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use keyward_proto::v1;
use keyward_testkit::{
    Authority, Client, Cluster, Message, Options, PATIENCE, Process, Reaction, Receiver,
    WEBHOOK_SECRET, eventually, now,
};
use parking_lot::Mutex;

use crate::{BINARY, fresh_directory};

/// A claim that was lost ends 10 seconds after this.
const TIMEOUT: (&str, &str) = ("KEYWARD_WEBHOOK_TIMEOUT", "1s");

/// What callers have got acknowledged, as receivers see it: type and key.
type Acknowledged = Arc<Mutex<Vec<(String, String)>>>;

/// Issues and revokes keys until a call fails.
async fn change_until_it_fails(client: Client, caller: String, acknowledged: Acknowledged) {
    for number in 0.. {
        let Ok((id, _)) = client.issue(&caller, &number.to_string()).await else {
            return;
        };
        acknowledged
            .lock()
            .push(("key.issued".to_owned(), id.clone()));
        if client.revoke(&id).await.is_err() {
            return;
        }
        acknowledged.lock().push(("key.revoked".to_owned(), id));
    }
}

/// Changes keys through each client for a time, then calls `end`.
async fn traffic(
    clients: &[Client],
    round: usize,
    acknowledged: &Acknowledged,
    end: impl FnOnce(),
) {
    let callers = (0..4).map(|number| {
        let client = clients[number % clients.len()].clone();
        let caller = format!("{round}-{number}");
        tokio::spawn(change_until_it_fails(
            client,
            caller,
            Arc::clone(acknowledged),
        ))
    });
    let callers: Vec<_> = callers.collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    end();
    for caller in callers {
        caller.await.unwrap();
    }
}

/// Waits until all that was acknowledged has arrived, and checks signatures and the order for each key. Returns
/// how many messages came more than once.
async fn all_arrive(receiver: &Receiver, acknowledged: &Acknowledged) -> usize {
    let expected: BTreeSet<_> = acknowledged.lock().iter().cloned().collect();
    eventually(
        "every acknowledged change arrives",
        2 * PATIENCE,
        || async {
            let messages = receiver.messages();
            let known: BTreeSet<_> = messages.iter().map(|message| message.about()).collect();
            expected.is_subset(&known)
        },
    )
    .await;
    let messages = receiver.messages();
    let mut first = BTreeMap::new();
    for (number, message) in messages.iter().enumerate() {
        assert!(message.is_signed_by(WEBHOOK_SECRET));
        first.entry(message.about()).or_insert(number);
    }
    for ((kind, id), number) in &first {
        if kind == "key.revoked" {
            let issued = first[&("key.issued".to_owned(), id.clone())];
            assert!(issued < *number, "the events of {id} are in order");
        }
    }
    messages.len() - first.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_change_arrives_although_the_service_is_killed() {
    let (directory, data) = fresh_directory();
    let receiver = Receiver::start();
    let start = || {
        let mut command = Process::command(BINARY, &data);
        command.env("KEYWARD_WEBHOOKS", receiver.webhook("a", directory.path()));
        command.env(TIMEOUT.0, TIMEOUT.1);
        Process::start(command, &data)
    };
    let acknowledged = Acknowledged::default();
    for round in 0..6 {
        let mut process = start();
        let client = process.client().await;
        if round % 2 == 1 {
            receiver.react(Reaction::Silence);
        }
        traffic(&[client], round, &acknowledged, || process.kill()).await;
        receiver.react(Reaction::Status(200));
    }
    let mut process = start();
    let changes = acknowledged.lock().len();
    let repeated = all_arrive(&receiver, &acknowledged).await;
    println!("{changes} acknowledged changes arrived, {repeated} messages more than once");
    assert!(changes > 100, "{changes}");
    let client = process.client().await;
    eventually("nothing waits any more", PATIENCE, || async {
        let listed = client.send(v1::ListWebhooksRequest {}).await.unwrap();
        listed.webhooks[0].waiting_count == 0 && listed.webhooks[0].dead_count == 0
    })
    .await;
    assert!(process.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_events_and_one_of_them_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let options = Options {
        variables: vec![
            ("KEYWARD_WEBHOOKS", receiver.webhook("a", directory.path())),
            (TIMEOUT.0, TIMEOUT.1.to_owned()),
        ],
        ..Options::default()
    };
    let mut cluster = Cluster::start(BINARY, 3, options);
    let clients = [cluster.client(0).await, cluster.client(1).await];
    let calm = Acknowledged::default();
    for number in 0..100 {
        let name = number.to_string();
        let (id, _) = clients[number % 2].issue("calm", &name).await.unwrap();
        calm.lock().push(("key.issued".to_owned(), id.clone()));
        clients[1 - number % 2].revoke(&id).await.unwrap();
        calm.lock().push(("key.revoked".to_owned(), id));
    }
    let repeated = all_arrive(&receiver, &calm).await;
    assert_eq!(repeated, 0, "without faults each event is sent once");

    let acknowledged = Acknowledged::default();
    traffic(&clients[..1], 1, &acknowledged, || cluster.kill(0)).await;
    let repeated = all_arrive(&receiver, &acknowledged).await;
    let changes = acknowledged.lock().len();
    println!("{changes} acknowledged changes arrived, {repeated} messages more than once");
    assert!(changes > 10, "{changes}");
    cluster.stop_all();
}

/// What a webhook costs a change: the receiver never answers, and its events are claimed all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_does_not_slow_revoke_on_postgres() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    receiver.react(Reaction::Silence);
    let variables = [
        vec![],
        vec![("KEYWARD_WEBHOOKS", receiver.webhook("a", directory.path()))],
    ];
    let mut medians = Vec::new();
    for variables in variables {
        let options = Options {
            variables,
            ..Options::default()
        };
        let mut cluster = Cluster::start(BINARY, 2, options);
        let client = cluster.client(0).await;
        let mut times = Vec::new();
        for number in 0..200 {
            let (id, _) = client.issue("42", &number.to_string()).await.unwrap();
            let begun = now();
            client.revoke(&id).await.unwrap();
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        println!("Revoke: median {:?}, 99 % {:?}", times[100], times[198]);
        medians.push(times[100]);
        cluster.stop_all();
    }
    assert!(!receiver.messages().is_empty());
    assert!(
        medians[1] < medians[0] * 3 + Duration::from_millis(20),
        "{medians:?}"
    );
}

/// What the library of Standard Webhooks for Python says to a message.
fn verified_by_the_library(message: &Message) -> String {
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers = names.map(|name| (name, message.header(name)));
    let headers: BTreeMap<_, _> = headers.into();
    let input = serde_json::json!({ "headers": headers, "body": message.body });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/webhook.py");
    let mut python = crate::python::client()
        .args([script, WEBHOOK_SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).unwrap();
    drop(stdin);
    String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorities_of_the_system_are_trusted() {
    let (directory, data) = fresh_directory();
    let authority = Authority::new();
    let receiver = Receiver::start_tls(&authority.sign(&["127.0.0.1", "localhost"]));
    let trusted = directory.path().join("ca.pem");
    std::fs::write(&trusted, authority.pem()).unwrap();
    let mut command = Process::command(BINARY, &data);
    command.env("KEYWARD_WEBHOOKS", receiver.webhook("a", directory.path()));
    // A proxy would see the traffic, so none is used.
    command
        .env("SSL_CERT_FILE", trusted)
        .env("HTTPS_PROXY", "http://127.0.0.1:1");
    let mut process = Process::start(command, &data);
    let client = process.client().await;
    client.issue("42", "").await.unwrap();
    let has_one = || async { !receiver.messages().is_empty() };
    eventually("the event arrives", PATIENCE, has_one).await;
    let message = receiver.messages().remove(0);
    assert!(message.is_signed_by(WEBHOOK_SECRET));
    assert_eq!(verified_by_the_library(&message), "all is well\n");
    assert!(!process.output().contains(WEBHOOK_SECRET));
    assert!(process.stop().success());
}
