//! Update: each field, in force when the call returns.

use keyward_proto::v1::{self, State, Verdict};
use keyward_testkit::refused;
use tonic::Code;

use super::*;

/// A key with nothing set but its name.
fn bare(key_id: &str) -> v1::ApiKey {
    v1::ApiKey {
        key_id: key_id.to_owned(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_switched_off_and_on() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    for (disabled, verdict, state) in [
        (true, Verdict::Disabled, State::Disabled),
        (false, Verdict::Valid, State::Active),
        (true, Verdict::Disabled, State::Disabled),
    ] {
        let reply = disable(&client, &id, disabled).await;
        assert_eq!(client.verify(&key).await.unwrap(), verdict);
        let changed = reply.key.unwrap();
        assert_eq!((changed.state(), changed.disabled), (state, disabled));
        assert_eq!(reply.revision, changed.revision);
        assert_eq!(
            (reply.confirmed_instances, reply.waited_out_instances),
            (1, 0)
        );
        assert_eq!(get(&client, &id).await, changed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_the_mask_is_changed_and_no_other() {
    let (_local, client) = start().await;
    let issued = issue(&client, all_fields("42")).await.unwrap();
    let old = issued.key.unwrap();
    let wished = v1::ApiKey {
        scopes: vec!["b".to_owned(), "a".to_owned(), "b".to_owned()],
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        allowed_cidrs: vec!["192.0.2.0/24".to_owned()],
        disabled: true,
        expire_time: Some(later(old.expire_time.unwrap(), 60)),
        account_id: "ignored".to_owned(),
        name: "?!".to_owned(),
        recoverable: false,
        revision: 99,
        ..bare(&old.key_id)
    };
    let kept = |key: &v1::ApiKey, revision| v1::ApiKey {
        revision,
        ..key.clone()
    };
    let mut expected = old.clone();
    for path in [
        "scopes",
        "metadata",
        "allowed_cidrs",
        "expire_time",
        "disabled",
    ] {
        let reply = update(&client, changing(wished.clone(), [path]))
            .await
            .unwrap();
        match path {
            "scopes" => expected.scopes = vec!["a".to_owned(), "b".to_owned()],
            "metadata" => expected.metadata = wished.metadata.clone(),
            "allowed_cidrs" => expected.allowed_cidrs = wished.allowed_cidrs.clone(),
            "expire_time" => expected.expire_time = wished.expire_time,
            _ => {
                expected.disabled = true;
                expected.state = State::Disabled.into();
            }
        }
        assert!(reply.revision > expected.revision);
        expected = kept(&expected, reply.revision);
        assert_eq!(reply.key.as_ref(), Some(&expected), "{path}");
    }

    let paths = [
        "scopes",
        "metadata",
        "allowed_cidrs",
        "disabled",
        "expire_time",
    ];
    let emptied = update(&client, changing(bare(&old.key_id), paths))
        .await
        .unwrap();
    let emptied = emptied.key.unwrap();
    let nothing = v1::ApiKey {
        scopes: Vec::new(),
        metadata: Default::default(),
        allowed_cidrs: Vec::new(),
        expire_time: None,
        ..kept(&old, emptied.revision)
    };
    assert_eq!(emptied, nothing, "each field is set as a whole");
    assert_eq!(
        client.verify(&issued.api_key).await.unwrap(),
        Verdict::Valid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_force_when_the_call_returns() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let scoped = v1::VerifyRequest {
        required_scopes: vec!["a".to_owned()],
        client_ip: "192.0.2.1".to_owned(),
        ..asking(&key)
    };
    let verdict = || verdict_of(&client, scoped.clone());
    assert_eq!(verdict().await, Verdict::InsufficientScope);
    let with_scope = v1::ApiKey {
        scopes: vec!["a".to_owned()],
        ..bare(&id)
    };
    update(&client, changing(with_scope, ["scopes"]))
        .await
        .unwrap();
    assert_eq!(verdict().await, Verdict::Valid);
    let elsewhere = v1::ApiKey {
        allowed_cidrs: vec!["10.0.0.0/8".to_owned()],
        ..bare(&id)
    };
    update(&client, changing(elsewhere, ["allowed_cidrs"]))
        .await
        .unwrap();
    assert_eq!(verdict().await, Verdict::IpNotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_set_moved_and_taken_away() {
    let (local, client) = start().await;
    let issued = issue(&client, slot("42")).await.unwrap();
    let key = issued.key.unwrap();
    let ending = |after| v1::ApiKey {
        expire_time: Some(later(key.create_time.unwrap(), after)),
        ..bare(&key.key_id)
    };
    for after in [600, 1_200] {
        update(&client, changing(ending(after), ["expire_time"]))
            .await
            .unwrap();
    }
    pass(&local, 601).await;
    assert_eq!(
        client.verify(&issued.api_key).await.unwrap(),
        Verdict::Valid
    );
    update(&client, changing(bare(&key.key_id), ["expire_time"]))
        .await
        .unwrap();
    pass(&local, 601).await;
    assert_eq!(
        client.verify(&issued.api_key).await.unwrap(),
        Verdict::Valid
    );
    update(&client, changing(ending(1_800), ["expire_time"]))
        .await
        .unwrap();
    pass(&local, 601).await;
    assert_eq!(
        client.verify(&issued.api_key).await.unwrap(),
        Verdict::Expired
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_confirms_the_last_change() {
    let (_local, client) = start().await;
    let (id, _) = client.issue("42", "").await.unwrap();
    assert_eq!(disable(&client, &id, false).await.revision, 0);
    let first = disable(&client, &id, true).await;
    assert_eq!(disable(&client, &id, true).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_for_good_is_not_changed() {
    let (local, client) = start().await;
    let off = |id: &str| {
        changing(
            v1::ApiKey {
                disabled: true,
                ..bare(id)
            },
            ["disabled"],
        )
    };
    let refuse = async |id: &str, code, reason| {
        let before = get(&client, id).await;
        refused(update(&client, off(id)).await, code, reason);
        assert_eq!(get(&client, id).await, before);
    };

    let (revoked, _) = client.issue("revoked", "").await.unwrap();
    client.revoke(&revoked).await.unwrap();
    refuse(&revoked, Code::FailedPrecondition, "KEY_REVOKED").await;

    let (graced, _) = client.issue("graced", "").await.unwrap();
    let grace = v1::RevokeRequest {
        grace: seconds(600),
        ..by_id(&graced)
    };
    revoke(&client, grace).await.unwrap();
    refuse(&graced, Code::FailedPrecondition, "KEY_REVOKED").await;

    let short = v1::IssueRequest {
        ttl: seconds(600),
        ..slot("expired")
    };
    let expired = issue(&client, short).await.unwrap().key.unwrap().key_id;
    pass(&local, 600).await;
    refuse(&expired, Code::FailedPrecondition, "KEY_EXPIRED").await;
    let revived = changing(bare(&expired), ["expire_time"]);
    let outcome = update(&client, revived).await;
    refused(outcome, Code::FailedPrecondition, "KEY_EXPIRED");

    let unknown = "01890000-0000-7000-8000-000000000000";
    refused(
        update(&client, off(unknown)).await,
        Code::NotFound,
        "KEY_NOT_FOUND",
    );
}
