//! Revoke with `replace`: one successor, and who sees its secret.

use keyward_proto::v1::{self, State, Verdict};
use keyward_testkit::{Local, invalid, refused};
use tonic::Code;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_successor_inherits_what_the_key_was() {
    let (_local, client) = start().await;
    let old = client.send(all_fields("42")).await.unwrap();
    let old_key = old.key.unwrap();
    client.disable(&old_key.key_id, true).await.unwrap();
    let reply = client.send(replacing(&old_key.key_id)).await.unwrap();
    let new = reply.replacement.unwrap();
    let inherited = v1::ApiKey {
        key_id: new.key_id.clone(),
        hint: reply.api_key[..7].to_owned(),
        disabled: true,
        create_time: reply.revoke_time,
        state: State::Disabled.into(),
        revision: new.revision,
        ..old_key.clone()
    };
    assert_eq!(new, inherited);
    assert_eq!(reply.revoked[0].replaced_by, new.key_id);
    assert_eq!(client.verify(&old.api_key).await.unwrap(), Verdict::Revoked);
    assert_eq!(
        client.verify(&reply.api_key).await.unwrap(),
        Verdict::Disabled
    );
    client.disable(&new.key_id, false).await.unwrap();
    let from_within = v1::VerifyRequest {
        client_ip: "10.1.2.3".to_owned(),
        ..verifying(&reply.api_key)
    };
    assert_eq!(
        client.send(from_within).await.unwrap().verdict(),
        Verdict::Valid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_names_the_same_successor_and_hides_its_secret() {
    let (local, client) = start().await;
    let (id, _) = client.issue("42", "").await.unwrap();
    let first = client.send(replacing(&id)).await.unwrap();
    assert_eq!(client.verify(&first.api_key).await.unwrap(), Verdict::Valid);
    for client in [&client, &issuer(&local).await, &bot(&local).await] {
        for request in [replacing(&id), by_id(&id)] {
            let again = client.send(request).await.unwrap();
            assert_eq!(again.replacement, first.replacement);
            assert_eq!(again.api_key, "", "it was to be shown once");
            assert_eq!(again.revoke_time, first.revoke_time);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recoverable_successor_is_shown_to_a_revealer_while_it_lives() {
    let local = Local::start().await;
    let (issuer, bot) = (issuer(&local).await, bot(&local).await);
    let old = issuer.send(recoverable("42")).await.unwrap();
    let id = old.key.unwrap().key_id;
    let first = issuer.send(replacing(&id)).await.unwrap();
    assert!(!first.api_key.is_empty() && first.api_key != old.api_key);

    assert_eq!(issuer.send(replacing(&id)).await.unwrap().api_key, "");
    let shown = bot.send(replacing(&id)).await.unwrap();
    assert_eq!(shown.api_key, first.api_key);
    assert_eq!(bot.send(slot("42")).await.unwrap().api_key, first.api_key);

    let successor = first.replacement.unwrap().key_id;
    bot.revoke(&successor).await.unwrap();
    let dead = bot.send(replacing(&id)).await.unwrap();
    let replacement = dead.replacement.unwrap();
    assert_eq!(replacement.key_id, successor);
    assert_eq!(dead.api_key, "");
    assert_eq!(replacement.state(), State::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_successor_is_not_shown() {
    let (local, client) = start().await;
    let request = v1::IssueRequest {
        ttl: seconds(600),
        ..recoverable("42")
    };
    let id = client.send(request).await.unwrap().key.unwrap().key_id;
    client.send(replacing(&id)).await.unwrap();
    pass(&local, 601).await;
    let again = client.send(replacing(&id)).await.unwrap();
    assert_eq!(again.replacement.unwrap().state(), State::Expired);
    assert_eq!(again.api_key, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_grace_both_keys_live_until_it_ends() {
    let (local, client) = start().await;
    let (id, old) = client.issue("42", "").await.unwrap();
    let request = v1::RevokeRequest {
        grace: seconds(600),
        ..replacing(&id)
    };
    let reply = client.send(request).await.unwrap();
    for key in [&old, &reply.api_key] {
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Valid);
    }
    let found = client.send(slot("42")).await.unwrap();
    assert_eq!(found.key, reply.replacement, "it has the slot");
    pass(&local, 601).await;
    assert_eq!(client.verify(&old).await.unwrap(), Verdict::Revoked);
    assert_eq!(client.verify(&reply.api_key).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_without_a_successor_never_gets_one() {
    let (_local, client) = start().await;
    let (dead, _) = client.issue("dead", "").await.unwrap();
    client.revoke(&dead).await.unwrap();
    let (graced, _) = client.issue("graced", "").await.unwrap();
    client.send(with_grace(&graced, 600)).await.unwrap();
    for (account, id) in [("dead", dead), ("graced", graced)] {
        let reply = client.send(replacing(&id)).await.unwrap();
        assert_eq!((reply.replacement, reply.api_key.as_str()), (None, ""));
        assert_eq!(reply.revoked[0].replaced_by, "");
        assert!(client.send(slot(account)).await.unwrap().created);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_key_id_can_be_replaced() {
    let (_local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    for target in [by_text(&key), by_account("42")] {
        let request = v1::RevokeRequest {
            replace: true,
            ..target
        };
        invalid(client.send(request).await, "replace");
    }
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_revoked_but_not_replaced() {
    let (local, client) = start().await;
    let issued = client.send(living("42", 600)).await.unwrap();
    let id = issued.key.unwrap().key_id;
    pass(&local, 601).await;
    let outcome = client.send(replacing(&id)).await;
    refused(outcome, Code::FailedPrecondition, "KEY_EXPIRED");
    assert_eq!(client.get(&id).await.unwrap().state(), State::Expired);
    client.revoke(&id).await.unwrap();
    assert_eq!(client.get(&id).await.unwrap().state(), State::Revoked);
}

/// How often the audit says that a secret was shown again.
async fn reveals(local: &Local) -> i64 {
    let counted = sqlx::query_scalar("SELECT count(*) FROM audit WHERE action = 'reveal'");
    let mut store = sqlite(&local.database()).await;
    counted.fetch_one(&mut store).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_is_shown_only_for_a_replace_by_id() {
    let local = Local::start().await;
    let bot = bot(&local).await;
    let old = bot.send(recoverable("42")).await.unwrap();
    let id = old.key.unwrap().key_id;
    let first = bot.send(replacing(&id)).await.unwrap();
    for request in [by_text(&old.api_key), by_id(&id)] {
        let again = bot.send(request).await.unwrap();
        assert_eq!(again.replacement, first.replacement);
        assert_eq!(again.api_key, "");
        assert_eq!(reveals(&local).await, 0);
    }
    let asked = bot.send(replacing(&id)).await.unwrap();
    assert_eq!(asked.api_key, first.api_key);
    assert_eq!(reveals(&local).await, 1);
}

/// The audit comes before the secret; what was revoked before that is not taken back, so nobody is
/// told that nothing was changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_cannot_be_shown_is_made_all_the_same() {
    let local = Local::start().await;
    let bot = bot(&local).await;
    let old = bot.send(recoverable("42")).await.unwrap();
    let id = old.key.unwrap().key_id;
    let first = bot.send(replacing(&id)).await.unwrap();
    // Fails as a store does that is out of order for a while.
    by_hand(
        &local,
        "CREATE TRIGGER out_of_order BEFORE INSERT ON audit WHEN NEW.action = 'reveal'
         BEGIN SELECT json('{'); END",
    )
    .await;
    let outcome = bot.send(replacing(&id)).await;
    let why = refused(outcome, Code::Unavailable, "REVOKE_UNCONFIRMED");
    assert_eq!(why["replacement_key_id"], first.replacement.unwrap().key_id);
    by_hand(&local, "DROP TRIGGER out_of_order").await;
    let again = bot.send(replacing(&id)).await.unwrap();
    assert_eq!(again.api_key, first.api_key, "the same call again is safe");
}
