//! Callers without a token, with a wrong token, and with several tokens.

use keyward_proto::v1::{Role, Verdict};
use keyward_testkit::{Client, refused};
use tonic::{Code, Request, Status};

use super::*;

/// Verifies with these values of `authorization`.
async fn verify_as(client: &Client, values: &[&[u8]]) -> Result<(), Status> {
    let mut request = Request::new(verifying("x"));
    for value in values {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", value);
        let more = tonic::metadata::MetadataMap::from_headers(headers);
        let more = more.get("authorization").unwrap().clone();
        request.metadata_mut().append("authorization", more);
    }
    client.keys.clone().verify(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_live_token_authenticates() {
    let (local, every_role) = start().await;
    let (_, key) = every_role.issue("42", "").await.unwrap();
    let client = Client::new(local.app.grpc_address(), None).await;
    let token = local.token.as_str();
    let bearer = format!("Bearer {token}");
    refused(
        verify_as(&client, &[]).await,
        Code::Unauthenticated,
        "TOKEN_MISSING",
    );

    let two = verify_as(&client, &[bearer.as_bytes(), bearer.as_bytes()]).await;
    refused(two, Code::Unauthenticated, "TOKEN_INVALID");
    let other = Local::start().await.token;
    let mut changed = token.to_owned();
    changed.replace_range(10..11, if &token[10..11] == "a" { "b" } else { "a" });
    for value in [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        token.to_owned(),
        format!("Basic {token}"),
        "Basic YWRtaW46YWRtaW4=".to_owned(),
        "Bearer garbage".to_owned(),
        format!("Bearer {changed}"),
        format!("Bearer {other}"),
        format!("Bearer {key}"),
        format!("Bearer Bearer {token}"),
        format!("Bearer {token},Bearer {token}"),
        format!("Bearer {token} {token}"),
        format!("Bearer\t{token}"),
        format!("Bearer {}", "x".repeat(8_000)),
    ] {
        let outcome = verify_as(&client, &[value.as_bytes()]).await;
        refused(outcome, Code::Unauthenticated, "TOKEN_INVALID");
    }
    let not_text = verify_as(&client, &[b"Bearer \xff\xfe"]).await;
    refused(not_text, Code::Unauthenticated, "TOKEN_INVALID");
    verify_as(&client, &[bearer.as_bytes()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_accepted_as_a_key_nor_a_key_as_a_token() {
    let (local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    assert_eq!(
        client.verify(&local.token).await.unwrap(),
        Verdict::Malformed
    );
    let thief = Client::new(local.app.grpc_address(), Some(&key)).await;
    refused(
        thief.verify(&key).await,
        Code::Unauthenticated,
        "TOKEN_INVALID",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_the_role_is_told_which_one() {
    let local = Local::start().await;
    let client = local.client_as(&[Role::Issuer]).await;
    let outcome = client.verify("x").await;
    let why = refused(outcome, Code::PermissionDenied, "ROLE_REQUIRED");
    assert_eq!(why["role"], "verifier");
    let outcome = client.token("more", &[Role::Admin]).await;
    let why = refused(outcome, Code::PermissionDenied, "ROLE_REQUIRED");
    assert_eq!(why["role"], "admin");
}

/// No error contains the text of a token.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_repeats_no_secret() {
    let (local, every_role) = start().await;
    let (_, key) = every_role.issue("42", "").await.unwrap();
    let thief = Client::new(local.app.grpc_address(), Some(&key)).await;
    let status = thief.verify(&key).await.unwrap_err();
    assert!(!format!("{status:?}").contains(&key[8..]), "{status:?}");
    let status = every_role.send(getting(&key)).await.unwrap_err();
    assert!(!format!("{status:?}").contains(&key[8..]), "{status:?}");
}
