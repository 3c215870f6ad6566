//! The wall clock set back by an hour: a key that has ended stays ended, and stored times do not
//! fall.

use std::time::Duration;

use keyward_proto::v1::{State, Verdict};
use keyward_testkit::refused;
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

fn micros(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.unwrap();
    time.seconds * 1_000_000 + i64::from(time.nanos / 1_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_stays_ended_when_the_wall_clock_is_set_back() {
    let (local, client) = start().await;
    let expired = client.send(living("expired", 600)).await.unwrap();
    let old = expired.key.unwrap();
    let (id, revoked) = client.issue("revoked", "").await.unwrap();
    client.revoke(&id).await.unwrap();
    let (graced_id, graced) = client.issue("graced", "").await.unwrap();
    client.send(with_grace(&graced_id, 600)).await.unwrap();

    // Nothing is written at this time, so only this instance knows it.
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
            assert_eq!(client.verify_strongly(key).await.unwrap(), verdict);
        }
        assert_eq!(
            client.get(&old.key_id).await.unwrap().state(),
            State::Expired
        );
        assert_eq!(
            client.get(&graced_id).await.unwrap().state(),
            State::Revoked
        );
    }

    let listed = client.send(listing("graced")).await.unwrap();
    assert!(listed.keys.is_empty(), "its grace has ended");
    let reviving = changing(bare(&old.key_id), ["expire_time"]);
    let outcome = client.send(reviving).await;
    refused(outcome, Code::FailedPrecondition, "KEY_EXPIRED");
    let next = client.send(slot("expired")).await.unwrap();
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
        let created = client.get(&id).await.unwrap();
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
    let expired = client.send(living("expired", 600)).await.unwrap();
    local.clock.step_wall(601);
    settled(&client).await;
    let (id, revoked) = client.issue("revoked", "").await.unwrap();
    client.revoke(&id).await.unwrap();

    let local = local.restart().await;
    let client = local.client().await;
    for (key, verdict) in [
        (&expired.api_key, Verdict::Expired),
        (&revoked, Verdict::Revoked),
    ] {
        assert_eq!(client.verify(key).await.unwrap(), verdict);
    }

    // Time continues from where it was, although the wall clock is two hours behind.
    let next = client.send(living("expired", 600)).await.unwrap();
    assert!(next.created);
    local.clock.step_boot(601);
    settled(&client).await;
    assert_eq!(
        client.verify(&next.api_key).await.unwrap(),
        Verdict::Expired
    );
    let last = client.send(slot("expired")).await.unwrap();
    assert!(last.created);
    local.app.stop().await;
}

/// Nothing was written after the key expired, so only the stop can have stored that time.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_expired_while_nothing_was_written_stays_expired_after_a_restart() {
    let (local, client) = start().await;
    let key = client.send(living("42", 600)).await.unwrap().api_key;
    local.clock.step_boot(601);
    local.clock.step_wall(601);
    settled(&client).await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Expired);
    let local = local.restart().await;
    let client = local.client().await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Expired);
    assert_eq!(
        client.verify_strongly(&key).await.unwrap(),
        Verdict::Expired
    );
    local.app.stop().await;
}
