//! Concurrent callers: a slot gets one key, and a key gets one successor.

use std::collections::BTreeSet;

use keyward_proto::v1::{self, Verdict};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::*;

/// Whether a call was refused before any change, so that it must be repeated.
fn nothing_changed(status: &Status) -> bool {
    let said = |text| status.message().contains(text);
    let unchanged = said("nothing was changed") || said("cannot check the token");
    status.code() == Code::Unavailable && unchanged
}

/// Issues the key of one slot and repeats refused calls.
async fn issue(client: &Client) -> v1::IssueResponse {
    loop {
        match client.send(slot("42")).await {
            Err(status) if nothing_changed(&status) => {}
            reply => return reply.unwrap(),
        }
    }
}

/// Revokes one key, with or without a successor, and repeats refused calls.
async fn revoke(client: &Client, key_id: &str, replace: bool) -> v1::RevokeResponse {
    let request = v1::RevokeRequest {
        replace,
        ..by_id(key_id)
    };
    loop {
        match client.send(request.clone()).await {
            Err(status) if nothing_changed(&status) => {}
            reply => return reply.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_issues_for_one_slot_give_one_key() {
    let (_local, client) = start().await;
    let mut calls = JoinSet::new();
    for _ in 0..1_000 {
        let client = client.clone();
        calls.spawn(async move { issue(&client).await });
    }
    let replies = calls.join_all().await;
    let ids: BTreeSet<_> = replies
        .iter()
        .map(|reply| &reply.key.as_ref().unwrap().key_id)
        .collect();
    assert_eq!((replies.len(), ids.len()), (1_000, 1));
    let created: Vec<_> = replies.iter().filter(|reply| reply.created).collect();
    assert_eq!(created.len(), 1);
    let secrets = replies.iter().filter(|reply| !reply.api_key.is_empty());
    assert_eq!(secrets.count(), 1);
    assert_eq!(
        client.verify(&created[0].api_key).await.unwrap(),
        Verdict::Valid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_replacements_of_one_key_make_one_successor() {
    let (_local, client) = start().await;
    let (id, old) = client.issue("42", "").await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let (client, id) = (client.clone(), id.clone());
        calls.spawn(async move { revoke(&client, &id, true).await });
    }
    let replies = calls.join_all().await;
    let successors: BTreeSet<_> = replies
        .iter()
        .map(|reply| &reply.replacement.as_ref().unwrap().key_id)
        .collect();
    assert_eq!((replies.len(), successors.len()), (100, 1));
    let mut secrets = replies.iter().map(|reply| &reply.api_key);
    let secret = secrets.find(|secret| !secret.is_empty()).unwrap();
    assert!(secrets.all(String::is_empty), "its secret is shown once");
    assert_eq!(client.verify(secret).await.unwrap(), Verdict::Valid);
    assert_eq!(client.verify(&old).await.unwrap(), Verdict::Revoked);

    let all = client.send(listing_all("42")).await.unwrap();
    assert_eq!(all.keys.len(), 2);
}

/// Concurrent Issue and Revoke of one slot, with and without successors: the slot never has two
/// keys.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_calls_never_leave_two_keys_in_a_slot() {
    let (_local, client) = start().await;
    let mut calls = JoinSet::new();
    for n in 0..200 {
        let client = client.clone();
        calls.spawn(async move {
            let key = issue(&client).await.key.unwrap();
            revoke(&client, &key.key_id, n % 2 == 0).await;
        });
    }
    calls.join_all().await;
    let all = client.send(listing_all("42")).await.unwrap().keys;
    let live = all.iter().filter(|key| key.revoke_time.is_none()).count();
    assert!(live <= 1, "{live} live keys");
    let ids: BTreeSet<_> = all.iter().map(|key| &key.key_id).collect();
    let successors: Vec<_> = all
        .iter()
        .map(|key| &key.replaced_by)
        .filter(|id| !id.is_empty())
        .collect();
    assert!(successors.iter().all(|id| ids.contains(id)));
    let distinct: BTreeSet<_> = successors.iter().collect();
    assert_eq!(distinct.len(), successors.len(), "nobody succeeds two keys");
}
