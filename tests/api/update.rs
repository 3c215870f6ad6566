//! Update: each field is in force when the call returns.

use keyward_proto::v1::{self, State, Verdict};
use keyward_testkit::refused;
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_switched_off_and_on() {
    let (_local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    for (disabled, verdict, state) in [
        (true, Verdict::Disabled, State::Disabled),
        (false, Verdict::Valid, State::Active),
        (true, Verdict::Disabled, State::Disabled),
    ] {
        let reply = client.disable(&id, disabled).await.unwrap();
        assert_eq!(client.verify(&key).await.unwrap(), verdict);
        let changed = reply.key.unwrap();
        assert_eq!((changed.state(), changed.disabled), (state, disabled));
        assert_eq!(reply.revision, changed.revision);
        assert_eq!(
            (reply.confirmed_instances, reply.waited_out_instances),
            (1, 0)
        );
        assert_eq!(client.get(&id).await.unwrap(), changed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_the_mask_is_changed_and_no_other() {
    let (_local, client) = start().await;
    let issued = client.send(all_fields("42")).await.unwrap();
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
    let paths = [
        "scopes",
        "metadata",
        "allowed_cidrs",
        "expire_time",
        "disabled",
    ];
    for path in paths {
        let reply = client.send(changing(wished.clone(), [path])).await.unwrap();
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

    let emptied = client
        .send(changing(bare(&old.key_id), paths))
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
        ..verifying(&key)
    };
    let verdict = || client.send(scoped.clone());
    assert_eq!(
        verdict().await.unwrap().verdict(),
        Verdict::InsufficientScope
    );
    let with_scope = v1::ApiKey {
        scopes: vec!["a".to_owned()],
        ..bare(&id)
    };
    client.send(changing(with_scope, ["scopes"])).await.unwrap();
    assert_eq!(verdict().await.unwrap().verdict(), Verdict::Valid);
    let elsewhere = v1::ApiKey {
        allowed_cidrs: vec!["10.0.0.0/8".to_owned()],
        ..bare(&id)
    };
    client
        .send(changing(elsewhere, ["allowed_cidrs"]))
        .await
        .unwrap();
    assert_eq!(verdict().await.unwrap().verdict(), Verdict::IpNotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_set_moved_and_taken_away() {
    let (local, client) = start().await;
    let issued = client.send(slot("42")).await.unwrap();
    let key = issued.key.unwrap();
    let ending = |after| v1::ApiKey {
        expire_time: Some(later(key.create_time.unwrap(), after)),
        ..bare(&key.key_id)
    };
    let change = async |wished| {
        let change = changing(wished, ["expire_time"]);
        client.send(change).await.unwrap();
    };
    change(ending(600)).await;
    for (wished, verdict) in [
        (ending(1_200), Verdict::Valid),
        (bare(&key.key_id), Verdict::Valid),
        (ending(1_800), Verdict::Expired),
    ] {
        change(wished).await;
        pass(&local, 601).await;
        assert_eq!(client.verify(&issued.api_key).await.unwrap(), verdict);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_confirms_the_last_change() {
    let (_local, client) = start().await;
    let (id, _) = client.issue("42", "").await.unwrap();
    assert_eq!(client.disable(&id, false).await.unwrap().revision, 0);
    let first = client.disable(&id, true).await.unwrap();
    assert_eq!(client.disable(&id, true).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_or_expired_key_is_not_updated() {
    let (local, client) = start().await;
    let off = |id: &str| disabling(id, true);
    let refuse = async |id: &str, code, reason| {
        let before = client.get(id).await.unwrap();
        refused(client.send(off(id)).await, code, reason);
        assert_eq!(client.get(id).await.unwrap(), before);
    };

    let (revoked, _) = client.issue("revoked", "").await.unwrap();
    client.revoke(&revoked).await.unwrap();
    refuse(&revoked, Code::FailedPrecondition, "KEY_REVOKED").await;

    let (graced, _) = client.issue("graced", "").await.unwrap();
    client.send(with_grace(&graced, 600)).await.unwrap();
    refuse(&graced, Code::FailedPrecondition, "KEY_REVOKED").await;

    let expired = client
        .send(living("expired", 600))
        .await
        .unwrap()
        .key
        .unwrap()
        .key_id;
    pass(&local, 600).await;
    refuse(&expired, Code::FailedPrecondition, "KEY_EXPIRED").await;
    let revived = changing(bare(&expired), ["expire_time"]);
    let outcome = client.send(revived).await;
    refused(outcome, Code::FailedPrecondition, "KEY_EXPIRED");

    refused(
        client.send(off(UNKNOWN)).await,
        Code::NotFound,
        "KEY_NOT_FOUND",
    );
}
