//! The layer before an axum router.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::{Extension, Router};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Request, Response, StatusCode};
use keyward_client::layer::{ClientIp, Envelope, Refusal, Rendered, RequireApiKey};
use keyward_client::{Consistency, Identity, v1};
use tonic::Code;
use tower::{Layer as _, Service, ServiceExt as _};

use crate::fake::{Fake, status};

/// Shows who came, and which headers came along.
async fn show(Extension(who): Extension<Identity>, headers: HeaderMap) -> String {
    let names: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    format!("{} {}", who.account_id, names.join(","))
}

fn app(layer: RequireApiKey) -> Router {
    Router::new().route("/", get(show)).layer(layer)
}

async fn ask(app: &Router, lines: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::builder().uri("/");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_key_passes_wherever_it_stands_and_is_seen_by_nobody_behind() {
    let fake = Fake::start().await;
    let layer = RequireApiKey::new(fake.client()).scopes(["orders:write"]);
    let app = app(layer.consistency(Consistency::Strong));
    for line in [
        ("apikey", "kw_a"),
        ("X-API-Key", "kw_a"),
        ("authorization", "bearer kw_a"),
    ] {
        let response = ask(&app, &[line, ("accept", "*/*")]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(text(response).await, "42 accept");
    }
    let asked = fake.script.asked.lock();
    assert_eq!(asked.len(), 3);
    for request in asked.iter() {
        assert_eq!(
            (request.api_key.as_str(), request.client_ip.as_str()),
            ("kw_a", "")
        );
        assert_eq!(request.required_scopes, ["orders:write"]);
        assert_eq!(request.consistency(), v1::Consistency::Strong);
    }
}

/// Whoever looks at the HTTP status, such as a proxy that asks whether a request may pass, must not
/// be told of a success.
#[tokio::test]
async fn a_request_that_calls_itself_grpc_is_refused_like_any_other() {
    let fake = Fake::start().await;
    let app = app(RequireApiKey::new(fake.client()));
    for kind in [
        "application/grpc",
        "application/grpc-web",
        "application/grpc+proto",
    ] {
        let response = ask(&app, &[("content-type", kind)]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{kind}");
        assert!(response.headers().contains_key(WWW_AUTHENTICATE));
        assert!(!response.headers().contains_key("grpc-status"));
    }
}

/// Ready only after it was asked whether it is; a clone of it is not.
#[derive(Default)]
struct OnceReady(bool);

impl Clone for OnceReady {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl Service<Request<Body>> for OnceReady {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.0), "it was not ready");
        std::future::ready(Ok(Response::new(Body::empty())))
    }
}

#[tokio::test]
async fn the_service_that_is_called_is_the_one_that_was_ready() {
    let fake = Fake::start().await;
    let mut guarded = RequireApiKey::new(fake.client()).layer(OnceReady::default());
    for _ in 0..3 {
        let request = Request::builder().header("apikey", "kw_a");
        let request = request.body(Body::empty()).unwrap();
        let response = guarded.ready().await.unwrap().call(request).await;
        assert_eq!(response.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn no_key_or_two_are_refused_without_asking() {
    let fake = Fake::start().await;
    let app = app(RequireApiKey::new(fake.client()).realm("orders"));
    let response = ask(&app, &[]).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let challenges: Vec<_> = response
        .headers()
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .collect();
    assert_eq!(
        challenges,
        [r#"ApiKey realm="orders""#, r#"Bearer realm="orders""#]
    );
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    assert!(text(response).await.contains("API_KEY_REQUIRED"));

    for lines in [
        [("apikey", "kw_a"), ("x-api-key", "kw_b")],
        [("apikey", "kw_a"), ("apikey", "kw_b")],
        [("apikey", "kw_a"), ("x-api-key", "kw_é")],
    ] {
        let response = ask(&app, &lines).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(!text(response).await.contains("kw_"));
    }
    assert_eq!(fake.script.calls(), 0);
}

#[tokio::test]
async fn each_verdict_has_its_answer() {
    let fake = Fake::start().await;
    let app = app(RequireApiKey::new(fake.client()).scopes(["orders:write"]));
    for (verdict, status, code) in [
        (v1::Verdict::NotFound, 401, "INVALID_API_KEY"),
        (v1::Verdict::Malformed, 401, "INVALID_API_KEY"),
        (v1::Verdict::Revoked, 401, "API_KEY_REVOKED"),
        (v1::Verdict::Expired, 401, "API_KEY_EXPIRED"),
        (v1::Verdict::Disabled, 401, "API_KEY_DISABLED"),
        (v1::Verdict::InsufficientScope, 403, "INSUFFICIENT_SCOPE"),
        (v1::Verdict::IpNotAllowed, 403, "IP_NOT_ALLOWED"),
    ] {
        *fake.script.verdict.lock() = v1::VerifyResponse {
            verdict: verdict.into(),
            ..Default::default()
        };
        let response = ask(&app, &[("apikey", "kw_canary")]).await;
        assert_eq!(response.status(), status, "{verdict:?}");
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter().count();
        let challenged = status == 401 || code == "INSUFFICIENT_SCOPE";
        assert_eq!(challenges, if challenged { 2 } else { 0 }, "{verdict:?}");
        let text = text(response).await;
        assert!(text.contains(code) && !text.contains("canary"), "{text}");
    }
}

/// Keyward away, its answer unknown, or this deployment's own fault: none of it is the key's.
#[tokio::test]
async fn no_fault_is_taken_for_a_bad_key() {
    let fake = Fake::start().await;
    let app = app(RequireApiKey::new(fake.client()));
    for (code, reason) in [
        (Code::Unavailable, "NOT_FRESH"),
        (Code::Unauthenticated, "TOKEN_INVALID"),
        (Code::PermissionDenied, "ROLE_REQUIRED"),
        (Code::InvalidArgument, "INVALID_FIELD"),
        (Code::NotFound, "KEY_NOT_FOUND"),
        (Code::Internal, "INTERNAL"),
        (Code::Unimplemented, ""),
    ] {
        fake.script.before(move |_| Err(status(code, reason)));
        let response = ask(&app, &[("apikey", "kw_a")]).await;
        assert_eq!(
            response.status(),
            StatusCode::SERVICE_UNAVAILABLE,
            "{reason}"
        );
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
    }
    fake.script.before(|_| Ok(()));
    fake.script.verdict.lock().verdict = 99;
    let response = ask(&app, &[("apikey", "kw_a")]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    fake.running.stop().await;
    let response = ask(&app, &[("apikey", "kw_a")]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_address_is_the_peers_unless_hops_are_trusted() {
    let fake = Fake::start().await;
    let forwarded = ClientIp::Forwarded { trusted_hops: 1 };
    let peer: SocketAddr = "192.0.2.1:4711".parse().unwrap();
    for (client_ip, expected) in [
        (ClientIp::default(), "192.0.2.1"),
        (forwarded, "203.0.113.9"),
        (ClientIp::Unknown, ""),
    ] {
        let app = app(RequireApiKey::new(fake.client()).client_ip(client_ip));
        let request = Request::builder()
            .header("apikey", "kw_a")
            .header("x-forwarded-for", "6.6.6.6, 203.0.113.9")
            .extension(ConnectInfo(peer))
            .body(Body::empty())
            .unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let asked = fake.script.asked.lock();
        assert_eq!(asked.last().unwrap().client_ip, expected);
    }
}

#[tokio::test]
async fn the_body_is_pluggable() {
    let fake = Fake::start().await;
    let envelope = app(RequireApiKey::new(fake.client()).body(Envelope::default()));
    let response = ask(&envelope, &[]).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    let expected = r#"{"error":true,"message":"API_KEY_REQUIRED","data":null}"#;
    assert_eq!(text(response).await, expected);

    let own = |refusal: &Refusal| Rendered {
        status: StatusCode::IM_A_TEAPOT,
        ..Rendered::new(refusal, "text/plain", refusal.code())
    };
    let own = app(RequireApiKey::new(fake.client()).body(own));
    let response = ask(&own, &[]).await;
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert!(response.headers().contains_key(WWW_AUTHENTICATE));
    assert_eq!(text(response).await, "API_KEY_REQUIRED");
}

/// An identity that something before the layer put there is not believed.
#[tokio::test]
async fn an_identity_from_elsewhere_does_not_pass() {
    let fake = Fake::start().await;
    let layer = RequireApiKey::new(fake.client());
    let app = Router::new().route("/", get(show)).layer(layer);
    let forged: Identity = Identity {
        key_id: "forged".to_owned(),
        account_id: "666".to_owned(),
        name: String::new(),
        scopes: Vec::new(),
        metadata: Default::default(),
        expire_time: None,
        revision: 0,
    };
    let app = app.layer(Extension(forged));
    let response = ask(&app, &[]).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let response = ask(&app, &[("apikey", "kw_a")]).await;
    assert!(text(response).await.starts_with("42 "));
}
