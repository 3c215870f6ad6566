//! Verdicts, responses and errors of the service, as the client returns them.

use std::time::{Duration, SystemTime};

use keyward_client::{Consistency, DeadKey, Error, ErrorKind, Secret, Verdict, VerifyRequest, v1};
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::fake::{Fake, client, status, valid};

fn key() -> VerifyRequest {
    VerifyRequest::new(Secret::new("kw_canary"))
}

fn dead() -> DeadKey {
    DeadKey {
        key_id: "0197-dead".to_owned(),
    }
}

#[tokio::test]
async fn every_verdict_is_returned() {
    let fake = Fake::start().await;
    let client = fake.client();
    for (wire, expected) in [
        (v1::Verdict::NotFound, Verdict::NotFound),
        (v1::Verdict::Malformed, Verdict::Malformed),
        (v1::Verdict::Revoked, Verdict::Revoked(dead())),
        (v1::Verdict::Expired, Verdict::Expired(dead())),
        (v1::Verdict::Disabled, Verdict::Disabled(dead())),
        (v1::Verdict::InsufficientScope, Verdict::InsufficientScope),
        (v1::Verdict::IpNotAllowed, Verdict::IpNotAllowed),
    ] {
        *fake.script.verdict.lock() = v1::VerifyResponse {
            verdict: wire.into(),
            key_id: dead().key_id,
            ..Default::default()
        };
        assert_eq!(client.verify(key()).await.unwrap(), expected);
        assert_eq!(client.verify_batch(vec![key()]).await.unwrap(), [expected]);
    }
    *fake.script.verdict.lock() = valid();
    let Verdict::Valid(identity) = client.verify(key()).await.unwrap() else {
        panic!("the verdict must be VALID");
    };
    assert_eq!(
        (identity.key_id.as_str(), identity.account_id.as_str()),
        ("0197-key", "42")
    );
    assert_eq!((identity.name.as_str(), identity.revision), ("default", 7));
    assert_eq!(identity.scopes, ["orders:read", "orders:write"]);
    assert_eq!(identity.metadata["plan"], "gold");
    let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    assert_eq!(identity.expire_time, Some(expected));
}

#[tokio::test]
async fn unknown_or_incomplete_verdict_is_an_error() {
    let fake = Fake::start().await;
    let client = fake.client();
    fake.script.verdict.lock().verdict = 99;
    let error = client.verify(key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    let error = client.verify_batch(vec![key()]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");

    *fake.script.verdict.lock() = valid();
    let missing = VerifyRequest::new(Secret::new("kw_skip"));
    let error = client.verify_batch(vec![key(), missing]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(client.verify_batch(Vec::new()).await.unwrap(), []);
}

#[tokio::test]
async fn request_carries_all_fields_and_headers() {
    let fake = Fake::start().await;
    fake.script.before(|seen| {
        assert_eq!(seen.text("authorization"), Some("Bearer kwt_test"));
        assert!(seen.text("grpc-timeout").is_some());
        assert!(
            seen.text("user-agent")
                .unwrap()
                .starts_with("keyward-client/")
        );
        Ok(())
    });
    let request = VerifyRequest {
        api_key: Secret::new("kw_canary"),
        required_scopes: vec!["a:b".to_owned()],
        client_ip: Some("2001:db8::1".parse().unwrap()),
        consistency: Consistency::Strong,
    };
    assert!(!format!("{request:?}").contains("canary"));
    assert!(matches!(
        fake.client().verify(request).await,
        Ok(Verdict::Valid(_))
    ));
    assert!(matches!(
        fake.client().verify(key()).await,
        Ok(Verdict::Valid(_))
    ));
    let requests = fake.script.requests.lock();
    assert_eq!(requests[0].api_key, "kw_canary");
    assert_eq!(requests[0].required_scopes, ["a:b"]);
    assert_eq!(requests[0].client_ip, "2001:db8::1");
    assert_eq!(requests[0].consistency(), v1::Consistency::Strong);
    assert_eq!(requests[1].client_ip, "");
    assert_eq!(requests[1].consistency(), v1::Consistency::Default);
}

#[tokio::test]
async fn every_call_passes_its_messages() {
    let fake = Fake::start().await;
    let client = fake.client();
    let issued = client.issue(v1::IssueRequest::default()).await.unwrap();
    assert_eq!(issued.api_key, "kw_new");
    let revoked = client.revoke(v1::RevokeRequest::default()).await.unwrap();
    assert_eq!(revoked.revoked_count, 1);
    let shown = client.get(v1::GetRequest::default()).await.unwrap();
    assert!(shown.key.is_some());
    let page = client.list(v1::ListRequest::default()).await.unwrap();
    assert_eq!(page.next_page_token, "more");
    let updated = client.update(v1::UpdateRequest::default()).await.unwrap();
    assert_eq!(updated.revision, 9);
    let created = client.call(v1::CreateTokenRequest::default()).await;
    assert_eq!(created.unwrap().token, "kwt_new");
    let tokens = client.call(v1::ListTokensRequest::default()).await;
    assert_eq!(tokens.unwrap().next_page_token, "more");
    let revoked = client.call(v1::RevokeTokenRequest::default()).await;
    assert_eq!(revoked.unwrap().revision, 8);
    assert_eq!(fake.script.calls(), 8);
}

/// Each repetition would make another token.
#[tokio::test]
async fn create_token_is_never_repeated() {
    let fake = Fake::start().await;
    fake.script.refuse(Code::Unavailable, "OUTCOME_UNKNOWN");
    let created = fake.client().call(v1::CreateTokenRequest::default()).await;
    assert_eq!(created.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(fake.script.calls(), 1);
}

#[tokio::test]
async fn number_of_retries_can_be_set() {
    let fake = Fake::start().await;
    fake.script.refuse(Code::Unavailable, "NOT_FRESH");
    for retries in [0, 1] {
        let client = client([fake.url()]).retries(retries).build().unwrap();
        let calls = fake.script.calls();
        assert!(client.verify(key()).await.is_err());
        assert_eq!(fake.script.calls() - calls, retries as usize + 1);
    }
}

#[tokio::test]
async fn client_without_a_token_sends_none() {
    let fake = Fake::start().await;
    fake.script.before(|seen| {
        assert_eq!(seen.text("authorization"), None);
        Err(status(Code::Unauthenticated, "TOKEN_MISSING"))
    });
    let client = keyward_client::Client::builder().endpoint(fake.url());
    let client = client.without_token().build().unwrap();
    let error = client.verify(key()).await.unwrap_err();
    assert_eq!(error.reason.as_deref(), Some("TOKEN_MISSING"));
}

#[tokio::test]
async fn only_unavailable_calls_are_repeated() {
    let fake = Fake::start().await;
    let client = fake.client();
    for (code, reason, kind) in [
        (
            Code::Unauthenticated,
            "TOKEN_MISSING",
            ErrorKind::Unauthorized,
        ),
        (
            Code::Unauthenticated,
            "TOKEN_INVALID",
            ErrorKind::Unauthorized,
        ),
        (
            Code::PermissionDenied,
            "ROLE_REQUIRED",
            ErrorKind::Unauthorized,
        ),
        (Code::InvalidArgument, "INVALID_FIELD", ErrorKind::Invalid),
        (Code::FailedPrecondition, "KEY_REVOKED", ErrorKind::Invalid),
        (Code::FailedPrecondition, "KEY_EXPIRED", ErrorKind::Invalid),
        (
            Code::FailedPrecondition,
            "RECOVERABLE_FORBIDDEN",
            ErrorKind::Invalid,
        ),
        (Code::NotFound, "KEY_NOT_FOUND", ErrorKind::NotFound),
        (Code::Internal, "INTERNAL", ErrorKind::Internal),
        (Code::Unavailable, "NOT_FRESH", ErrorKind::Unavailable),
        (
            Code::Unavailable,
            "STORE_UNAVAILABLE",
            ErrorKind::Unavailable,
        ),
        (Code::Unavailable, "OVERLOADED", ErrorKind::Unavailable),
        (Code::Unavailable, "OUTCOME_UNKNOWN", ErrorKind::Unavailable),
        (
            Code::Unavailable,
            "REVOKE_UNCONFIRMED",
            ErrorKind::Unavailable,
        ),
    ] {
        fake.script.refuse(code, reason);
        let check = |error: Error, calls: usize| {
            assert_eq!((error.kind, error.reason.as_deref()), (kind, Some(reason)));
            assert_eq!(error.message, "refused by the test");
            assert_eq!(error.metadata["replacement_key_id"], "0198");
            assert_eq!(error.retry_after, None);
            let expected = if kind == ErrorKind::Unavailable { 4 } else { 1 };
            assert_eq!(fake.script.calls() - calls, expected, "{reason}");
        };
        let calls = fake.script.calls();
        check(client.verify(key()).await.unwrap_err(), calls);
        let calls = fake.script.calls();
        let revoke = client.revoke(v1::RevokeRequest::default());
        check(revoke.await.unwrap_err(), calls);
    }
}

#[tokio::test]
async fn change_is_repeated_until_it_is_confirmed() {
    let fake = Fake::start().await;
    let mut left = 2;
    fake.script.before(move |_| {
        if left == 0 {
            return Ok(());
        }
        left -= 1;
        Err(status(Code::Unavailable, "REVOKE_UNCONFIRMED"))
    });
    let revoked = fake.client().revoke(v1::RevokeRequest::default()).await;
    assert_eq!(revoked.unwrap().revoked_count, 1);
    assert_eq!(fake.script.calls(), 3);
}

#[tokio::test]
async fn retry_after_is_returned_and_respected() {
    let fake = Fake::start().await;
    let later = Duration::from_secs(3600);
    fake.script.before(move |_| {
        let details = ErrorDetails::with_retry_info(Some(later));
        Err(tonic::Status::with_error_details(
            Code::Unavailable,
            "later",
            details,
        ))
    });
    let error = fake.client().verify(key()).await.unwrap_err();
    assert_eq!(error.retry_after, Some(later));
    assert_eq!(fake.script.calls(), 1, "no call before retry_after");

    // It applies to that endpoint only, and may have any length.
    let other = Fake::start().await;
    let both = client([fake.url(), other.url()]).build().unwrap();
    for _ in 0..4 {
        assert!(both.verify(key()).await.is_ok());
    }
    fake.script.before(|_| {
        let later = Some(Duration::from_secs(i64::MAX as u64));
        let details = ErrorDetails::with_retry_info(later);
        Err(tonic::Status::with_error_details(
            Code::Unavailable,
            "later",
            details,
        ))
    });
    assert!(fake.client().verify(key()).await.is_err());
}

#[tokio::test]
async fn health_is_ok_if_any_instance_serves() {
    let (reporter, health) = tonic_health::server::health_reporter();
    let router = tonic::transport::Server::builder().add_service(health);
    let healthy = crate::fake::Running::serve(router).await;
    let without = Fake::start().await;
    let url = format!("http://{}", healthy.address);
    let client = client([without.url(), "http://127.0.0.1:1".to_owned(), url]);
    let client = client.build().unwrap();
    client.health().await.unwrap();
    let not_serving = tonic_health::ServingStatus::NotServing;
    reporter.set_service_status("", not_serving).await;
    let error = client.health().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}
