//! The calls of the client.

use keyward_client::v1::Role;
use keyward_client::{Consistency, DeadKey, ErrorKind, Secret, Verdict, VerifyRequest};
use keyward_testkit::requests::*;

use super::Keyward;

#[tokio::test(flavor = "multi_thread")]
async fn key_is_issued_verified_replaced_and_shown() {
    let keyward = Keyward::start();
    let all = [
        Role::Issuer,
        Role::Revealer,
        Role::Verifier,
        Role::Reader,
        Role::Editor,
    ];
    let (_, file) = keyward.token("all", &all).await;
    let client = keyward.client(&file);
    client.health().await.unwrap();

    let issued = client.issue(recoverable("42")).await.unwrap();
    let old = issued.key.unwrap().key_id;
    let verify = |text: &str| {
        let request = VerifyRequest::new(Secret::new(text));
        client.verify(request)
    };
    let Verdict::Valid(identity) = verify(&issued.api_key).await.unwrap() else {
        panic!("the key must be valid");
    };
    assert_eq!(
        (identity.key_id.as_str(), identity.account_id.as_str()),
        (old.as_str(), "42")
    );
    assert_eq!(identity.name, "default");

    let revoked = client.revoke(replacing(&old)).await.unwrap();
    let dead = DeadKey {
        key_id: old.clone(),
    };
    let verdict = verify(&issued.api_key).await.unwrap();
    assert_eq!(verdict, Verdict::Revoked(dead.clone()));
    let again = client.revoke(replacing(&old)).await.unwrap();
    assert_eq!(
        again.api_key, revoked.api_key,
        "the same call must return the same successor"
    );

    let texts = [&issued.api_key, &revoked.api_key, "kw_nonsense"];
    let requests = texts.map(|text| VerifyRequest {
        consistency: Consistency::Strong,
        ..VerifyRequest::new(Secret::new(text))
    });
    let verdicts = client.verify_batch(requests.into()).await.unwrap();
    assert_eq!(
        (&verdicts[0], &verdicts[2]),
        (&Verdict::Revoked(dead), &Verdict::Malformed)
    );
    assert!(matches!(verdicts[1], Verdict::Valid(_)));

    let key = revoked.replacement.unwrap();
    let shown = client.get(getting(&key.key_id)).await.unwrap();
    assert_eq!(shown.key.as_ref(), Some(&key));
    let page = client.list(listing_all("42")).await.unwrap();
    assert_eq!(page.keys.len(), 2);
    let off = disabling(&key.key_id, true);
    assert!(client.update(off).await.unwrap().key.unwrap().disabled);
    let verdict = verify(&revoked.api_key).await.unwrap();
    assert!(matches!(verdict, Verdict::Disabled(dead) if dead.key_id == key.key_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_kind() {
    let mut keyward = Keyward::start();
    let (_, verifier) = keyward.token("verifier", &[Role::Verifier]).await;
    let (_, issuer) = keyward.token("issuer", &[Role::Issuer]).await;
    let (verifier, issuer) = (keyward.client(&verifier), keyward.client(&issuer));
    let key = || VerifyRequest::new(Secret::new("kw_nonsense"));

    let error = verifier.issue(recoverable("42")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert_eq!(error.reason.as_deref(), Some("ROLE_REQUIRED"));
    assert_eq!(error.metadata["role"], "issuer");
    let error = issuer.verify(key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    let error = issuer.issue(recoverable("")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(error.reason.as_deref(), Some("INVALID_FIELD"));
    let unknown = replacing("01a20b11-8492-7e42-b326-8de5b51fb5d5");
    let error = issuer.revoke(unknown).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);

    std::fs::write(keyward.path("made up"), "kwt_made_up").unwrap();
    let stranger = keyward.client(&keyward.path("made up"));
    let error = stranger.verify(key()).await.unwrap_err();
    assert_eq!(error.reason.as_deref(), Some("TOKEN_INVALID"));

    assert!(keyward.process.stop().success());
    let error = verifier.verify(key()).await.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Unavailable, None));
    assert!(verifier.health().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_rotated_without_a_restart() {
    let keyward = Keyward::start();
    let (old, file) = keyward.token("verifier", &[Role::Verifier]).await;
    let client = keyward.client(&file);
    let key = || VerifyRequest::new(Secret::new("kw_nonsense"));
    assert_eq!(client.verify(key()).await.unwrap(), Verdict::Malformed);

    keyward
        .token_into(&file, "verifier", &[Role::Verifier])
        .await;
    let admin = keyward.process.client().await;
    admin.send(revoking_token(&old)).await.unwrap();
    assert_eq!(client.verify(key()).await.unwrap(), Verdict::Malformed);
}
