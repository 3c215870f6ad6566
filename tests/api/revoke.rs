//! Revoke: its three targets, what it answers, and the grace.

use keyward_proto::v1::{self, Role, State, Verdict};
use keyward_testkit::{Local, invalid, refused};
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_revoked_by_its_id_and_by_its_text() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("1", "").await.unwrap();
    let (other_id, other_key) = client.issue("2", "").await.unwrap();
    for (id, request, key) in [
        (&id, by_id(&id), &key),
        (&other_id, by_text(&other_key), &other_key),
    ] {
        let reply = client.send(request).await.unwrap();
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Revoked);
        let revoked = client.get(id).await.unwrap();
        assert_eq!(revoked.state(), State::Revoked);
        assert_eq!(reply.revoked, std::slice::from_ref(&revoked));
        assert_eq!((reply.revoked_count, reply.revision), (1, revoked.revision));
        assert!(reply.revoke_time.is_some() && reply.revoke_time == revoked.revoke_time);
        assert_eq!(
            (reply.confirmed_instances, reply.waited_out_instances),
            (1, 0)
        );
        assert_eq!((reply.replacement, reply.api_key.as_str()), (None, ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_again_changes_nothing_and_the_first_reason_stays() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let leaked = v1::RevokeRequest {
        reason: "leaked ✗".to_owned(),
        ..by_id(&id)
    };
    let first = client.send(leaked).await.unwrap();
    assert_eq!(first.revoked[0].revoke_reason, "leaked ✗");
    let other_reason = v1::RevokeRequest {
        reason: "other".to_owned(),
        ..by_text(&key)
    };
    for again in [by_id(&id), other_reason, with_grace(&id, 60)] {
        assert_eq!(client.send(again).await.unwrap(), first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_of_an_account_are_revoked_those_in_a_grace_too() {
    let (_local, client) = start().await;
    let (dead, _) = client.issue("42", "dead").await.unwrap();
    client.revoke(&dead).await.unwrap();
    let (graced, graced_key) = client.issue("42", "a").await.unwrap();
    client.send(with_grace(&graced, 600)).await.unwrap();
    let (_, key) = client.issue("42", "a").await.unwrap();
    let (_, bystander) = client.issue("43", "a").await.unwrap();

    let request = v1::RevokeRequest {
        reason: "closed".to_owned(),
        ..by_account("42")
    };
    let reply = client.send(request).await.unwrap();
    assert_eq!((reply.revoked.len(), reply.revoked_count), (2, 2));
    for revoked in &reply.revoked {
        assert!(revoked.state() == State::Revoked && revoked.revoke_reason == "closed");
        assert_eq!(revoked.revoke_time, reply.revoke_time);
    }
    let newest = reply.revoked.iter().map(|key| key.revision).max();
    assert_eq!(Some(reply.revision), newest);
    for dead in [&graced_key, &key] {
        assert_eq!(client.verify(dead).await.unwrap(), Verdict::Revoked);
    }
    assert_eq!(client.verify(&bystander).await.unwrap(), Verdict::Valid);

    let again = client.send(by_account("42")).await.unwrap();
    assert_eq!((again.revoked_count, again.revoke_time), (0, None));
    assert_eq!(
        again.revision, reply.revision,
        "what was revoked before is confirmed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_keys_is_fine() {
    let (_local, client) = start().await;
    let reply = client.send(by_account("nobody")).await.unwrap();
    assert_eq!((reply.revoked_count, reply.revision), (0, 0));
    assert!(reply.revoked.is_empty() && reply.revoke_time.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_a_hundred_revoked_keys_are_listed_and_all_are_counted() {
    let (_local, client) = start().await;
    let mut keys = Vec::new();
    for n in 0..103 {
        keys.push(client.issue("42", &format!("slot-{n}")).await.unwrap());
    }
    let reply = client.send(by_account("42")).await.unwrap();
    assert_eq!((reply.revoked.len(), reply.revoked_count), (100, 103));
    keys.sort();
    for (listed, (id, _)) in reply.revoked.iter().zip(&keys) {
        assert_eq!(&listed.key_id, id, "by key_id");
    }
    for (_, key) in &keys {
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Revoked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reporter_kills_by_text_and_sees_nothing() {
    let local = Local::start().await;
    let (client, reporter) = (
        local.client().await,
        local.client_as(&[Role::Reporter]).await,
    );
    let (id, key) = client.issue("42", "").await.unwrap();
    let other = Local::start().await;
    let (_, foreign) = other.client().await.issue("42", "").await.unwrap();
    for text in [key.as_str(), &key, &foreign, "no key at all", " "] {
        let reply = reporter.send(by_text(text)).await.unwrap();
        assert_eq!(reply, v1::RevokeResponse::default());
    }
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
    for request in [by_id(&id), by_account("42")] {
        let why = refused(
            reporter.send(request).await,
            Code::PermissionDenied,
            "ROLE_REQUIRED",
        );
        assert_eq!(why["role"], "issuer");
    }

    let both = local.client_as(&[Role::Reporter, Role::Issuer]).await;
    let seen = both.send(by_text(&key)).await.unwrap();
    assert_eq!(seen.revoked[0].key_id, id, "an issuer sees what it revokes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_there_is_not_found() {
    let (_local, client) = start().await;
    for request in [by_id(UNKNOWN), replacing(UNKNOWN), by_text("kw_x")] {
        let outcome = client.send(request).await;
        refused(outcome, Code::NotFound, "KEY_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_its_grace_lives_until_it_ends() {
    let (local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let reply = client.send(with_grace(&id, 600)).await.unwrap();
    let graced = client.get(&id).await.unwrap();
    assert_eq!(
        (graced.state(), graced.revoke_time),
        (State::Active, reply.revoke_time)
    );
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);

    let next = client.send(slot("42")).await.unwrap();
    assert!(next.created, "the slot is free at once");
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);

    pass(&local, 599 - 60).await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    pass(&local, 61).await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
    assert_eq!(client.get(&id).await.unwrap().state(), State::Revoked);
    assert_eq!(client.verify(&next.api_key).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_is_shortened_and_never_lengthened() {
    let (local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let first = client.send(with_grace(&id, 600)).await.unwrap();
    let longer = client.send(with_grace(&id, 6_000)).await.unwrap();
    assert_eq!(longer.revoke_time, first.revoke_time);
    let shorter = client.send(with_grace(&id, 300)).await.unwrap();
    assert!(shorter.revoke_time.unwrap().seconds < first.revoke_time.unwrap().seconds);
    assert!(shorter.revision > first.revision);
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    pass(&local, 301).await;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);

    let (id, key) = client.issue("43", "").await.unwrap();
    client.send(with_grace(&id, 600)).await.unwrap();
    client.revoke(&id).await.unwrap();
    assert_eq!(
        client.verify(&key).await.unwrap(),
        Verdict::Revoked,
        "none: at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_keeps_its_limits() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    const MONTH: i64 = 30 * 24 * 3_600;
    let nanos = |seconds, nanos| v1::RevokeRequest {
        grace: Some(prost_types::Duration { seconds, nanos }),
        ..by_id(&id)
    };
    for wrong in [
        with_grace(&id, MONTH + 1),
        nanos(MONTH, 1_000),
        with_grace(&id, -1),
        nanos(0, -1),
        nanos(1, 1_000_000_000),
        nanos(i64::MAX, 0),
        v1::RevokeRequest {
            grace: seconds(1),
            ..by_text(&key)
        },
        v1::RevokeRequest {
            grace: seconds(1),
            ..by_account("42")
        },
    ] {
        invalid(client.send(wrong).await, "grace");
    }
    assert_eq!(
        client.get(&id).await.unwrap().revoke_time,
        None,
        "nothing was changed"
    );
    client.send(with_grace(&id, MONTH)).await.unwrap();
    let none = v1::RevokeRequest {
        grace: seconds(0),
        ..by_text(&key)
    };
    client.send(none).await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
}
