//! The wall clock set back an hour: what has ended stays ended, and stored time does not fall.

use std::sync::Arc;
use std::time::Duration;

use keyward::app::{App, Parts};
use keyward_proto::v1::{self, State, Verdict};
use keyward_testkit::{ManualClock, refused, settings_in};
use tonic::Code;

use super::*;

const HOUR: i64 = 3_600;

/// Waits until the instance is fresh again after a step of a clock.
async fn settled(client: &Client) {
    while let Err(status) = client.verify("").await {
        assert_eq!(status.code(), Code::Unavailable);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A key of an account that lives for so many seconds.
fn living(account: &str, seconds: i64) -> v1::IssueRequest {
    v1::IssueRequest {
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..slot(account)
    }
}

/// Stops the service and starts it on the same directory, with the machine's time on its clock.
async fn restarted(local: Local) -> (App, Arc<ManualClock>, Client, tempfile::TempDir) {
    let Local {
        app,
        directory,
        token,
        ..
    } = local;
    app.stop().await;
    let settings = settings_in(directory.path());
    let clock = Arc::new(ManualClock::default());
    let parts = Parts {
        clock: Arc::<ManualClock>::clone(&clock),
        ..Parts::system()
    };
    let app = App::start(&settings, parts).await.unwrap();
    let client = Client::new(app.grpc_address(), Some(&token)).await;
    (app, clock, client, directory)
}

fn micros(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.unwrap();
    time.seconds * 1_000_000 + i64::from(time.nanos / 1_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_stays_ended_when_the_wall_clock_is_set_back() {
    let (local, client) = start().await;
    let expired = client.keys.clone().issue(living("expired", 600)).await;
    let expired = expired.unwrap().into_inner();
    let old = expired.key.unwrap();
    let (id, revoked) = client.issue("revoked", "").await.unwrap();
    client.revoke(&id).await.unwrap();
    let (graced_id, graced) = client.issue("graced", "").await.unwrap();
    let with_grace = v1::RevokeRequest {
        target: Some(v1::revoke_request::Target::KeyId(graced_id.clone())),
        grace: Some(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        }),
        ..Default::default()
    };
    client.keys.clone().revoke(with_grace).await.unwrap();

    // Nothing is written at this time: only this instance knows that it has come.
    local.clock.step_boot(601);
    local.clock.step_wall(601);
    settled(&client).await;
    for set_back in [0, HOUR] {
        local.clock.step_wall(-set_back);
        settled(&client).await;
        for (key, verdict) in [
            (&expired.api_key, Verdict::Expired),
            (&revoked, Verdict::Revoked),
            (&graced, Verdict::Revoked),
        ] {
            assert_eq!(client.verify(key).await.unwrap(), verdict);
            assert_eq!(strong(&client, key).await, verdict);
        }
        assert_eq!(get(&client, &old.key_id).await.state(), State::Expired);
        assert_eq!(get(&client, &graced_id).await.state(), State::Revoked);
    }

    let list = v1::ListRequest {
        account_id: "graced".to_owned(),
        ..Default::default()
    };
    let listed = client.keys.clone().list(list).await.unwrap().into_inner();
    assert!(listed.keys.is_empty(), "its grace has ended");
    let reviving = v1::UpdateRequest {
        key: Some(v1::ApiKey {
            key_id: old.key_id.clone(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["expire_time".to_owned()],
        }),
    };
    let outcome = client.keys.clone().update(reviving).await;
    refused(outcome, Code::FailedPrecondition, "KEY_EXPIRED");
    let next = client
        .keys
        .clone()
        .issue(slot("expired"))
        .await
        .unwrap()
        .into_inner();
    assert!(next.created, "an expired key is succeeded");
    assert_eq!(client.verify(&next.api_key).await.unwrap(), Verdict::Valid);
    let next = next.key.unwrap();
    assert!(micros(next.create_time) >= micros(old.expire_time));
    assert!(next.key_id > old.key_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_times_do_not_fall_when_the_wall_clock_is_set_back() {
    let (local, client) = start().await;
    let mut newest = (0, String::new());
    for slot in ["a", "b", "c", "d"] {
        let (id, key) = client.issue("42", slot).await.unwrap();
        let created = get(&client, &id).await;
        assert!(micros(created.create_time) >= newest.0);
        assert!(id > newest.1, "List keeps the order of creation");
        let revoked = client.revoke(&id).await.unwrap();
        assert!(micros(revoked.revoke_time) >= micros(created.create_time));
        assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
        newest = (micros(revoked.revoke_time), id);
        local.clock.step_wall(-HOUR);
        settled(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_the_wall_clock_set_back_forgets_nothing() {
    let (local, client) = start().await;
    local.clock.step_wall(2 * HOUR);
    settled(&client).await;
    let expired = client.keys.clone().issue(living("expired", 600)).await;
    let expired = expired.unwrap().into_inner();
    local.clock.step_wall(601);
    settled(&client).await;
    let (id, revoked) = client.issue("revoked", "").await.unwrap();
    client.revoke(&id).await.unwrap();

    let (app, clock, client, _directory) = restarted(local).await;
    for (key, verdict) in [
        (&expired.api_key, Verdict::Expired),
        (&revoked, Verdict::Revoked),
    ] {
        assert_eq!(client.verify(key).await.unwrap(), verdict);
    }

    // Time goes on from where it was, though the wall clock is two hours behind.
    let next = client.keys.clone().issue(living("expired", 600)).await;
    let next = next.unwrap().into_inner();
    assert!(next.created);
    clock.step_boot(601);
    settled(&client).await;
    assert_eq!(
        client.verify(&next.api_key).await.unwrap(),
        Verdict::Expired
    );
    let last = client.keys.clone().issue(slot("expired")).await.unwrap();
    assert!(last.into_inner().created);
    app.stop().await;
}

/// Nothing was written since the key expired: only the stop can have stored that this time came.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_expired_while_nothing_was_written_stays_expired_after_a_restart() {
    let (local, client) = start().await;
    let issued = client.keys.clone().issue(living("42", 600)).await;
    let key = issued.unwrap().into_inner().api_key;
    local.clock.step_boot(601);
    local.clock.step_wall(601);
    settled(&client).await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Expired);
    let (app, _clock, client, _directory) = restarted(local).await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Expired);
    assert_eq!(strong(&client, &key).await, Verdict::Expired);
    app.stop().await;
}
