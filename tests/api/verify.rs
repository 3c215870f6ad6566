//! Verify and VerifyBatch: every verdict, and what comes with it.

use keyward_proto::v1::{self, Consistency, Verdict};
use keyward_testkit::{Client, Local};

use super::*;

/// The verdict by either consistency, which must be the same; everything else only with VALID, but the name
/// of a dead key.
async fn judged(client: &Client, request: v1::VerifyRequest) -> Verdict {
    let mut verdicts = Vec::new();
    for consistency in [Consistency::Default, Consistency::Strong] {
        let request = v1::VerifyRequest {
            consistency: consistency.into(),
            ..request.clone()
        };
        let reply = client.send(request).await.unwrap();
        let verdict = reply.verdict();
        if verdict != Verdict::Valid {
            let is_dead = matches!(
                verdict,
                Verdict::Revoked | Verdict::Expired | Verdict::Disabled
            );
            assert_eq!(!reply.key_id.is_empty(), is_dead);
            let bare = v1::VerifyResponse {
                verdict: reply.verdict,
                key_id: reply.key_id.clone(),
                ..Default::default()
            };
            assert_eq!(reply, bare, "a verdict against a key comes alone");
        }
        verdicts.push(verdict);
    }
    assert_eq!(verdicts[0], verdicts[1]);
    verdicts[0]
}

async fn plain(client: &Client, api_key: &str) -> Verdict {
    judged(client, verifying(api_key)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_key_comes_with_all_that_is_known_of_it() {
    let (_local, client) = start().await;
    let issued = client.send(all_fields("42")).await.unwrap();
    let key = issued.key.unwrap();
    let request = v1::VerifyRequest {
        client_ip: "192.0.2.7".to_owned(),
        required_scopes: vec!["read".to_owned()],
        ..verifying(&issued.api_key)
    };
    let expected = v1::VerifyResponse {
        verdict: Verdict::Valid.into(),
        key_id: key.key_id.clone(),
        account_id: key.account_id,
        name: key.name,
        scopes: key.scopes,
        metadata: key.metadata,
        expire_time: key.expire_time,
        revision: 0,
        cache_entry: None,
    };
    let verified = client.send(request.clone()).await.unwrap();
    assert_eq!(verified, expected);

    client.disable(&key.key_id, true).await.unwrap();
    let revision = client.disable(&key.key_id, false).await.unwrap().revision;
    assert!(revision > 0);
    let verified = client.send(request).await.unwrap();
    assert_eq!(
        verified,
        v1::VerifyResponse {
            revision,
            ..expected
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_a_key_is_malformed_and_what_is_unknown_not_found() {
    let (local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    for malformed in [
        "",
        "kw_",
        "hello",
        &key[..key.len() - 1],
        &format!("{key}0"),
    ] {
        assert_eq!(plain(&client, malformed).await, Verdict::Malformed);
    }
    assert_eq!(plain(&client, &local.token).await, Verdict::Malformed);

    let other = Local::start().await;
    let (_, foreign) = other.client().await.issue("42", "").await.unwrap();
    assert_eq!(plain(&client, &foreign).await, Verdict::NotFound, "the tag");

    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    by_hand(&local, "DELETE FROM api_keys").await;
    assert_eq!(
        client.verify_strongly(&key).await.unwrap(),
        Verdict::NotFound,
        "{id} is gone from the store"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_reasons_the_first_is_the_verdict() {
    let (local, client) = start().await;
    let request = v1::IssueRequest {
        allowed_cidrs: vec!["10.0.0.0/8".to_owned()],
        ttl: seconds(600),
        ..slot("42")
    };
    let issued = client.send(request).await.unwrap();
    let (key, id) = (issued.api_key, issued.key.unwrap().key_id);
    let all_wrong = v1::VerifyRequest {
        required_scopes: vec!["admin".to_owned()],
        ..verifying(&key)
    };
    assert_eq!(plain(&client, &key).await, Verdict::IpNotAllowed);
    let judge = || judged(&client, all_wrong.clone());
    assert_eq!(judge().await, Verdict::InsufficientScope);
    client.disable(&id, true).await.unwrap();
    assert_eq!(judge().await, Verdict::Disabled);
    pass(&local, 600).await;
    assert_eq!(judge().await, Verdict::Expired);
    client.revoke(&id).await.unwrap();
    assert_eq!(judge().await, Verdict::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn required_scopes_are_compared_as_whole_strings() {
    let (_local, client) = start().await;
    let request = v1::IssueRequest {
        scopes: ["orders:read", "orders:*"].map(str::to_owned).into(),
        ..slot("42")
    };
    let key = client.send(request).await.unwrap().api_key;
    for (required, verdict) in [
        (&[] as &[&str], Verdict::Valid),
        (&["orders:read"], Verdict::Valid),
        (&["orders:*", "orders:read", "orders:read"], Verdict::Valid),
        (&["orders:write"], Verdict::InsufficientScope),
        (&["orders:read", "x"], Verdict::InsufficientScope),
        (&["*"], Verdict::InsufficientScope),
        (&["ORDERS:READ"], Verdict::InsufficientScope),
    ] {
        let request = v1::VerifyRequest {
            required_scopes: required.iter().map(|scope| (*scope).to_owned()).collect(),
            ..verifying(&key)
        };
        assert_eq!(judged(&client, request).await, verdict, "{required:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_used_only_from_its_networks() {
    let (_local, client) = start().await;
    let bound = client.send(all_fields("42")).await.unwrap().api_key;
    let free = client.send(slot("43")).await.unwrap().api_key;
    for (client_ip, verdict) in [
        ("10.255.0.1", Verdict::Valid),
        ("::ffff:10.255.0.1", Verdict::Valid),
        ("::ffff:aff:1", Verdict::Valid),
        ("192.0.2.7", Verdict::Valid),
        ("2001:db8:1::1", Verdict::Valid),
        ("192.0.2.8", Verdict::IpNotAllowed),
        ("::ffff:192.0.2.8", Verdict::IpNotAllowed),
        ("2001:db9::1", Verdict::IpNotAllowed),
        ("::a00:1", Verdict::IpNotAllowed),
        ("", Verdict::IpNotAllowed),
    ] {
        let from_there = |key: &str| v1::VerifyRequest {
            client_ip: client_ip.to_owned(),
            ..verifying(key)
        };
        assert_eq!(
            judged(&client, from_there(&bound)).await,
            verdict,
            "{client_ip}"
        );
        assert_eq!(judged(&client, from_there(&free)).await, Verdict::Valid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strong_read_sees_every_committed_change() {
    let (_local, client) = start().await;
    for n in 0..20 {
        let (id, key) = client.issue("42", &format!("slot-{n}")).await.unwrap();
        assert_eq!(plain(&client, &key).await, Verdict::Valid);
        client.revoke(&id).await.unwrap();
        assert_eq!(plain(&client, &key).await, Verdict::Revoked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_256_is_answered_in_order() {
    let (_local, client) = start().await;
    let (_, valid) = client.issue("42", "valid").await.unwrap();
    let (dead, revoked) = client.issue("42", "revoked").await.unwrap();
    client.revoke(&dead).await.unwrap();
    let (off, disabled) = client.issue("42", "disabled").await.unwrap();
    client.disable(&off, true).await.unwrap();
    let unscoped = v1::VerifyRequest {
        required_scopes: vec!["x".to_owned()],
        ..verifying(&valid)
    };
    let kinds = [
        (verifying(&valid), Verdict::Valid),
        (verifying("x"), Verdict::Malformed),
        (verifying(&revoked), Verdict::Revoked),
        (verifying(&disabled), Verdict::Disabled),
        (unscoped, Verdict::InsufficientScope),
    ];
    let mixed: Vec<_> = (0..256).map(|n| &kinds[n % kinds.len()]).collect();
    let requests = mixed.iter().map(|(request, _)| request.clone()).collect();
    let responses = client
        .send(v1::VerifyBatchRequest { requests })
        .await
        .unwrap()
        .responses;
    assert_eq!(responses.len(), 256);
    for (response, (_, verdict)) in responses.iter().zip(mixed) {
        assert_eq!(response.verdict(), *verdict);
        assert_eq!(response.account_id == "42", *verdict == Verdict::Valid);
    }

    let none = v1::VerifyBatchRequest::default();
    let reply = client.send(none).await.unwrap();
    assert!(reply.responses.is_empty());
}
