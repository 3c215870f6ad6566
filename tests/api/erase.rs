//! EraseAccount: the keys are dead everywhere, and nothing names the account any more.

use keyward_proto::v1::{self, State, Verdict};
use keyward_testkit::refused;
use tonic::Code;

use super::*;

fn erasing(account: &str) -> v1::EraseAccountRequest {
    let account_id = account.to_owned();
    v1::EraseAccountRequest { account_id }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_account_is_dead_and_has_no_name() {
    let (_local, client) = start().await;
    let issued = client.send(all_fields("42")).await.unwrap();
    let id = issued.key.unwrap().key_id;
    let (graced, other) = (client.issue("42", "graced").await.unwrap(), "43");
    client.send(with_grace(&graced.0, 600)).await.unwrap();
    let (kept, kept_key) = client.issue(other, "").await.unwrap();

    let erased = client.send(erasing("42")).await.unwrap();
    assert_eq!((erased.revoked_count, erased.erased_count), (2, 2));
    assert_eq!(
        (erased.confirmed_instances, erased.waited_out_instances),
        (1, 0)
    );
    assert!(erased.pseudonym.starts_with("erased-"));
    for key in [&issued.api_key, &graced.1] {
        assert_eq!(client.verify(key).await.unwrap(), Verdict::Revoked);
    }
    let expected = v1::ApiKey {
        account_id: erased.pseudonym.clone(),
        name: erased.pseudonym.clone(),
        hint: issued.api_key[..7].to_owned(),
        ..client.get(&id).await.unwrap()
    };
    assert_eq!(client.get(&id).await.unwrap(), expected);
    assert_eq!(expected.state(), State::Revoked);
    assert!(expected.metadata.is_empty() && expected.allowed_cidrs.is_empty());
    assert_eq!(
        erased.revision,
        expected
            .revision
            .max(client.get(&graced.0).await.unwrap().revision)
    );
    assert_eq!(client.send(listing_all("42")).await.unwrap().keys, []);
    let under_pseudonym = client.send(listing_all(&erased.pseudonym)).await.unwrap();
    assert_eq!(under_pseudonym.keys.len(), 2);

    let again = client.send(erasing("42")).await.unwrap();
    assert_eq!((again.pseudonym.as_str(), again.erased_count), ("", 0));
    assert_eq!(client.get(&kept).await.unwrap().account_id, other);
    assert_eq!(client.verify(&kept_key).await.unwrap(), Verdict::Valid);
    // A key that is issued later is new data.
    let (new, key) = client.issue("42", "").await.unwrap();
    assert_eq!(client.get(&new).await.unwrap().account_id, "42");
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    let outcome = client.send(erasing("")).await;
    refused(outcome, Code::InvalidArgument, "INVALID_FIELD");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_issued_during_an_erasure_are_erased_or_live_on_whole() {
    let (_local, client) = start().await;
    for round in 0..10 {
        let account = format!("account-{round}");
        client.issue(&account, "first").await.unwrap();
        let issuing = async {
            let mut keys = Vec::new();
            for n in 0..10 {
                keys.push(client.issue(&account, &n.to_string()).await.unwrap());
            }
            keys
        };
        let (keys, erased) = tokio::join!(issuing, client.send(erasing(&account)));
        let pseudonym = erased.unwrap().pseudonym;
        for (id, key) in keys {
            let (found, verdict) = (client.get(&id).await.unwrap(), client.verify(&key).await);
            let expected = match verdict.unwrap() {
                Verdict::Valid => &account,
                Verdict::Revoked => &pseudonym,
                other => panic!("{other:?}"),
            };
            assert_eq!(&found.account_id, expected);
        }
    }
}
