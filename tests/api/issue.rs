//! Issue: it creates the key or returns it, and only some callers see the secret.

use keyward_proto::v1::{self, State, Verdict};
use keyward_testkit::{Local, refused};
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_is_filled_once_and_then_found() {
    let (_local, client) = start().await;
    let first = client.send(slot("42")).await.unwrap();
    let key = first.key.unwrap();
    assert!(first.created && key.name == "default");
    assert_eq!(client.verify(&first.api_key).await.unwrap(), Verdict::Valid);

    let asked_again = v1::IssueRequest {
        name: "default".to_owned(),
        scopes: vec!["more".to_owned()],
        ..recoverable("42")
    };
    let again = client.send(asked_again).await.unwrap();
    assert!(!again.created && again.api_key.is_empty());
    assert_eq!(again.key.unwrap(), key, "it is returned as it is");

    let (other, _) = client.issue("42", "second").await.unwrap();
    let (stranger, _) = client.issue("43", "").await.unwrap();
    assert!(other != key.key_id && stranger != key.key_id && stranger != other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_as_it_was_asked_for() {
    let (_local, client) = start().await;
    let issued = client.send(all_fields("42")).await.unwrap();
    let key = issued.key.unwrap();
    let created = key.create_time.unwrap();
    let expected = v1::ApiKey {
        key_id: key.key_id.clone(),
        account_id: "42".to_owned(),
        name: "bot.1".to_owned(),
        hint: issued.api_key[..7].to_owned(),
        scopes: vec!["read".to_owned(), "write".to_owned()],
        metadata: [("team".to_owned(), "payments ✓".to_owned())].into(),
        allowed_cidrs: ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]
            .map(str::to_owned)
            .into(),
        recoverable: true,
        create_time: Some(created),
        expire_time: Some(later(created, 3_600)),
        state: State::Active.into(),
        ..Default::default()
    };
    assert_eq!(key, expected);
    assert_eq!(client.get(&key.key_id).await.unwrap(), expected);
    assert!(issued.api_key.starts_with("kw_") && key.key_id.as_bytes()[14] == b'7');
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_kept_to_the_microsecond() {
    let (_local, client) = start().await;
    let end = prost_types::Timestamp {
        seconds: 4_000_000_000,
        nanos: 123_456_789,
    };
    let request = v1::IssueRequest {
        expire_time: Some(end),
        ..slot("42")
    };
    let kept = client.send(request).await.unwrap().key.unwrap();
    let cut = prost_types::Timestamp {
        nanos: 123_456_000,
        ..end
    };
    assert_eq!(kept.expire_time, Some(cut));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_once_unless_it_is_recoverable_and_the_caller_a_revealer() {
    let local = Local::start().await;
    let (issuer, bot) = (issuer(&local).await, bot(&local).await);

    let once = issuer.send(slot("once")).await.unwrap();
    assert!(once.created && !once.api_key.is_empty());
    for client in [&issuer, &bot] {
        assert_eq!(client.send(slot("once")).await.unwrap().api_key, "");
    }

    let kept = issuer.send(recoverable("kept")).await.unwrap();
    assert_eq!(issuer.send(slot("kept")).await.unwrap().api_key, "");
    let shown = bot.send(slot("kept")).await.unwrap();
    assert!(!shown.created);
    assert_eq!(shown.api_key, kept.api_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_can_forbid_recoverable_keys() {
    let local = Local::start_with(|settings| settings.forbid_recoverable = true, |s| s).await;
    let client = local.client().await;
    refused(
        client.send(recoverable("42")).await,
        Code::FailedPrecondition,
        "RECOVERABLE_FORBIDDEN",
    );
    let issued = client.send(slot("42")).await.unwrap();
    assert!(issued.created, "the refused call left the slot free");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_revoked_and_succeeded() {
    let (local, client) = start().await;
    let old = client.send(all_fields("42")).await.unwrap();
    let old_id = old.key.unwrap().key_id;
    pass(&local, 3_600).await;
    assert_eq!(client.verify(&old.api_key).await.unwrap(), Verdict::Expired);
    assert_eq!(client.get(&old_id).await.unwrap().state(), State::Expired);

    let plain = v1::IssueRequest {
        name: "bot.1".to_owned(),
        ..slot("42")
    };
    let new = client.send(plain).await.unwrap();
    let key = new.key.unwrap();
    assert!(new.created && key.scopes.is_empty() && key.expire_time.is_none());
    assert_eq!(client.verify(&new.api_key).await.unwrap(), Verdict::Valid);
    let strong = v1::VerifyRequest {
        consistency: v1::Consistency::Strong.into(),
        ..verifying(&old.api_key)
    };
    assert_eq!(
        client.send(strong).await.unwrap().verdict(),
        Verdict::Revoked
    );
    let old = client.get(&old_id).await.unwrap();
    assert_eq!(old.state(), State::Revoked);
    assert_eq!(old.replaced_by, key.key_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_key_is_returned_as_it_is() {
    let (local, client) = start().await;
    let issued = client.send(recoverable("42")).await.unwrap();
    let id = issued.key.unwrap().key_id;
    client.disable(&id, true).await.unwrap();
    let found = bot(&local).await.send(slot("42")).await.unwrap();
    let key = found.key.unwrap();
    assert!(!found.created && key.disabled && key.key_id == id);
    assert_eq!(key.state(), State::Disabled);
    assert_eq!(found.api_key, issued.api_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_leaves_its_slot_to_the_next_issue() {
    let (_local, client) = start().await;
    let (old, _) = client.issue("42", "").await.unwrap();
    client.revoke(&old).await.unwrap();
    let next = client.send(slot("42")).await.unwrap();
    assert!(next.created && next.key.unwrap().key_id != old);
    assert_eq!(
        client.get(&old).await.unwrap().replaced_by,
        "",
        "no successor"
    );
}
