//! One slot holds one key, even if callers ask all instances at the same time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use keyward_proto::v1::{ApiKey, IssueResponse, RevokeResponse};
use keyward_testkit::requests::{replacing, slot};
use keyward_testkit::{Client, Cluster, Options, patiently};

use super::{BINARY, clients};

const ROUNDS: usize = 50;

/// Two callers on each instance.
fn callers(clients: &[Client]) -> impl Iterator<Item = &Client> {
    clients.iter().chain(clients)
}

async fn issue(client: &Client, account: &str) -> IssueResponse {
    patiently(async || client.send(slot(account)).await).await
}

async fn replace(client: &Client, key_id: &str) -> RevokeResponse {
    patiently(async || client.send(replacing(key_id)).await).await
}

/// All keys of an account, revoked keys too.
async fn keys(client: &Client, account: &str) -> Vec<ApiKey> {
    patiently(async || client.list(account).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_issues_for_one_slot_on_three_instances_give_one_key() {
    let cluster = Cluster::start(BINARY, 3, Options::default());
    let clients = clients(&cluster).await;
    let mut told = 0;
    for round in 0..ROUNDS {
        let account = format!("slot-{round}");
        let answers = join_all(callers(&clients).map(|client| issue(client, &account))).await;
        let ids: BTreeSet<_> = answers
            .iter()
            .map(|answer| answer.key.as_ref().unwrap().key_id.clone())
            .collect();
        assert_eq!(ids.len(), 1, "{answers:?}");
        let stored = keys(&clients[0], &account).await;
        assert_eq!(stored.len(), 1, "{stored:?}");
        let created = answers.iter().filter(|answer| answer.created).count();
        let secrets = answers.iter().filter(|answer| !answer.api_key.is_empty());
        assert_eq!(secrets.count(), created, "who made it is told the secret");
        assert!(created <= 1, "{answers:?}");
        told += created;
    }
    // A call that had to be made again may have made the key the first time.
    assert!(told > ROUNDS / 2, "{told} of {ROUNDS}");
}

/// All replace the same key; what must come of it.
async fn replaced_at_once(clients: &[Client], key_id: &str) -> (String, usize) {
    let answers = join_all(callers(clients).map(|client| replace(client, key_id))).await;
    let successors: BTreeSet<_> = answers
        .iter()
        .map(|answer| answer.replacement.as_ref().unwrap().key_id.clone())
        .collect();
    assert_eq!(successors.len(), 1, "{answers:?}");
    let secrets = answers.iter().filter(|answer| !answer.api_key.is_empty());
    let told = secrets.count();
    assert!(told <= 1, "{answers:?}");
    (successors.into_iter().next().unwrap(), told)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_replaces_of_one_key_on_three_instances_give_one_successor() {
    let cluster = Cluster::start(BINARY, 3, Options::default());
    let clients = clients(&cluster).await;
    let mut told = 0;
    for round in 0..ROUNDS {
        let account = format!("replaced-{round}");
        let old = issue(&clients[0], &account).await.key.unwrap().key_id;
        let (successor, secrets) = replaced_at_once(&clients, &old).await;
        told += secrets;
        let stored = keys(&clients[1], &account).await;
        assert_eq!(stored.len(), 2, "{stored:?}");
        // Ids that two instances draw in one millisecond sort by chance, and List by the id.
        let found = |key_id: &str| stored.iter().find(|key| key.key_id == key_id).unwrap();
        assert_eq!(found(&old).replaced_by, successor);
        assert!(found(&successor).revoke_time.is_none(), "{stored:?}");
    }
    assert!(told > ROUNDS / 2, "{told} of {ROUNDS}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_replaced_while_it_is_asked_for_has_one_live_key() {
    let cluster = Cluster::start(BINARY, 3, Options::default());
    let clients = clients(&cluster).await;
    for round in 0..ROUNDS / 2 {
        let account = format!("asked-{round}");
        let old = issue(&clients[0], &account).await.key.unwrap().key_id;
        let over = AtomicBool::new(false);
        let ask = async |client: &Client| {
            let mut seen = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let answer = issue(client, &account).await;
                assert!(!answer.created, "the slot was never free");
                seen.insert(answer.key.unwrap().key_id);
            }
            seen
        };
        let asked = join_all(clients.iter().map(ask));
        let replaced = async {
            let replaced = replaced_at_once(&clients, &old).await;
            over.store(true, Ordering::Relaxed);
            replaced
        };
        let (asked, (successor, _)) = tokio::join!(asked, replaced);
        let known = BTreeSet::from([old.clone(), successor.clone()]);
        for seen in asked {
            assert!(seen.is_subset(&known), "{seen:?}: {known:?}");
        }
        let stored = keys(&clients[2], &account).await;
        let live: Vec<_> = stored
            .iter()
            .filter(|key| key.revoke_time.is_none())
            .collect();
        assert_eq!(stored.len(), 2, "{stored:?}");
        assert_eq!(live.len(), 1, "{stored:?}");
        assert_eq!(live[0].key_id, successor);
    }
}
