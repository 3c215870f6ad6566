//! The limit of `max_key_age`: no key lives longer, and a successor begins a life of its own.

use keyward_proto::v1;
use keyward_testkit::{Local, refused};
use tonic::{Code, Status};

use super::*;

const DAY: i64 = 24 * 3_600;

async fn limited(seconds: i64) -> (Local, Client) {
    let limit = Duration::from_secs(seconds.unsigned_abs());
    let local = Local::start_with(move |settings| settings.max_key_age = Some(limit), |s| s).await;
    let client = local.client().await;
    (local, client)
}

/// The lifetime of a key in seconds.
fn lifetime(key: Option<v1::ApiKey>) -> i64 {
    let key = key.unwrap();
    key.expire_time.unwrap().seconds - key.create_time.unwrap().seconds
}

fn too_long<T: std::fmt::Debug>(outcome: Result<T, Status>) {
    let message = outcome.as_ref().unwrap_err().message().to_owned();
    assert!(message.contains("at most 90 days"), "{message}");
    refused(outcome, Code::InvalidArgument, "INVALID_FIELD");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_lives_at_most_as_long_as_the_limit() {
    let (_local, client) = limited(90 * DAY).await;
    let unlimited = client.send(slot("none")).await.unwrap().key;
    assert_eq!(lifetime(unlimited.clone()), 90 * DAY);
    for ttl in [1, 90 * DAY] {
        let issued = client.send(living(&ttl.to_string(), ttl)).await.unwrap();
        assert_eq!(lifetime(issued.key), ttl);
    }
    too_long(client.send(living("42", 90 * DAY + 1)).await);
    let created = unlimited.unwrap().create_time.unwrap();
    let until = |seconds| v1::IssueRequest {
        expire_time: Some(later(created, seconds)),
        ..slot("until")
    };
    too_long(client.send(until(91 * DAY)).await);
    let issued = client.send(until(90 * DAY - 60)).await.unwrap();
    assert!(issued.created, "the refused call left the slot free");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_makes_a_key_older_than_the_limit() {
    let (local, client) = limited(90 * DAY).await;
    let key = client.send(living("42", DAY)).await.unwrap().key.unwrap();
    pass(&local, DAY / 2).await;
    let created = key.create_time.unwrap();
    let update = async |end| {
        let key = v1::ApiKey {
            expire_time: end,
            ..bare(&key.key_id)
        };
        client.send(changing(key, ["expire_time"])).await
    };
    let full = Some(later(created, 90 * DAY));
    assert_eq!(update(full).await.unwrap().key.unwrap().expire_time, full);
    too_long(update(Some(later(created, 90 * DAY + 1))).await);
    update(Some(later(created, DAY))).await.unwrap();
    let reset = update(None).await.unwrap().key.unwrap();
    assert_eq!(
        reset.expire_time, full,
        "a removed expiry becomes the limit"
    );
    let unknown = v1::ApiKey {
        expire_time: full,
        ..bare(UNKNOWN)
    };
    let outcome = client.send(changing(unknown, ["expire_time"])).await;
    refused(outcome, Code::NotFound, "KEY_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_begins_a_life_of_its_own() {
    let (local, client) = limited(90 * DAY).await;
    for (ttl, expected) in [(7 * DAY, 7 * DAY), (90 * DAY, 90 * DAY)] {
        let key = client.send(living("42", ttl)).await.unwrap().key.unwrap();
        pass(&local, DAY).await;
        let replaced = client.send(replacing(&key.key_id)).await.unwrap();
        assert_eq!(lifetime(replaced.replacement.clone()), expected);
        client
            .revoke(&replaced.replacement.unwrap().key_id)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_before_the_limit_is_found_by_its_age_and_replaced() {
    let (local, client) = start().await;
    let key = client.send(slot("42")).await.unwrap().key.unwrap();
    let limit = Duration::from_secs(DAY.unsigned_abs());
    let local = local
        .restart_with(|settings| settings.max_key_age = Some(limit))
        .await;
    pass(&local, 2 * DAY).await;
    let client = local.client().await;
    let old = v1::ListRequest {
        older_than: seconds(DAY),
        ..listing("42")
    };
    let found = client.send(old).await.unwrap().keys;
    assert_eq!(found[0].key_id, key.key_id);
    let outcome = client
        .send(changing(bare(&key.key_id), ["expire_time"]))
        .await;
    assert!(
        outcome
            .as_ref()
            .unwrap_err()
            .message()
            .contains("replace the key")
    );
    refused(outcome, Code::InvalidArgument, "INVALID_FIELD");
    let replaced = client.send(replacing(&key.key_id)).await.unwrap();
    assert_eq!(lifetime(replaced.replacement), DAY);
}
