//! The layer in front of an axum router.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::{Extension, Router};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Request, Response, StatusCode};
use keyward_client::layer::{ClientIp, Envelope, Refusal, Rendered, RequireApiKey};
use keyward_client::{Consistency, Holder, Identity, v1};
use tonic::Code;
use tower::{Layer as _, Service, ServiceExt as _};

use crate::fake::{Fake, status};

/// Answers with the account and the names of the headers.
async fn show(Extension(identity): Extension<Identity>, headers: HeaderMap) -> String {
    let names: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    format!("{} {}", identity.account_id, names.join(","))
}

fn app(layer: RequireApiKey) -> Router {
    Router::new().route("/", get(show)).layer(layer)
}

async fn send(app: &Router, lines: &[(&str, &str)]) -> Response<Body> {
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
async fn key_is_accepted_from_each_header_and_removed() {
    let fake = Fake::start().await;
    let layer = RequireApiKey::new(fake.client()).scopes(["orders:write"]);
    let app = app(layer.consistency(Consistency::Strong));
    for line in [
        ("apikey", "kw_a"),
        ("X-API-Key", "kw_a"),
        ("authorization", "bearer kw_a"),
        ("authorization", "ApiKey kw_a"),
    ] {
        let response = send(&app, &[line, ("accept", "*/*")]).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(text(response).await, "42 accept");
    }
    let requests = fake.script.requests.lock();
    assert_eq!(requests.len(), 4);
    for request in requests.iter() {
        assert_eq!(
            (request.api_key.as_str(), request.client_ip.as_str()),
            ("kw_a", "")
        );
        assert_eq!(request.required_scopes, ["orders:write"]);
        assert_eq!(request.consistency(), v1::Consistency::Strong);
    }
}

/// A proxy may decide by the HTTP status, so a refusal must never have the status 200.
#[tokio::test]
async fn request_with_grpc_content_type_is_refused_with_an_http_status() {
    let fake = Fake::start().await;
    let app = app(RequireApiKey::new(fake.client()));
    for kind in [
        "application/grpc",
        "application/grpc-web",
        "application/grpc+proto",
    ] {
        let response = send(&app, &[("content-type", kind)]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{kind}");
        assert!(response.headers().contains_key(WWW_AUTHENTICATE));
        assert!(!response.headers().contains_key("grpc-status"));
    }
}

/// Ready only after `poll_ready`; a clone is not ready.
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
        assert!(std::mem::take(&mut self.0), "called before it was ready");
        std::future::ready(Ok(Response::new(Body::empty())))
    }
}

#[tokio::test]
async fn ready_service_is_the_one_that_is_called() {
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
async fn missing_or_ambiguous_key_is_refused_without_a_call() {
    let fake = Fake::start().await;
    let app = app(RequireApiKey::new(fake.client()).realm("orders"));
    let response = send(&app, &[]).await;
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
        let response = send(&app, &lines).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert!(response.headers().contains_key(WWW_AUTHENTICATE));
        assert!(!text(response).await.contains("kw_"));
    }
    assert_eq!(fake.script.calls(), 0);
}

#[tokio::test]
async fn each_verdict_has_its_status() {
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
        let response = send(&app, &[("apikey", "kw_canary")]).await;
        assert_eq!(response.status(), status, "{verdict:?}");
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter().count();
        let challenged = status == 401 || code == "INSUFFICIENT_SCOPE";
        assert_eq!(challenges, if challenged { 2 } else { 0 }, "{verdict:?}");
        let text = text(response).await;
        assert!(text.contains(code) && !text.contains("canary"), "{text}");
    }
}

/// A missing service, an unknown verdict and a fault of the deployment say nothing about the key.
#[tokio::test]
async fn every_failed_call_is_503() {
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
        let response = send(&app, &[("apikey", "kw_a")]).await;
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
    let response = send(&app, &[("apikey", "kw_a")]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    fake.running.stop().await;
    let response = send(&app, &[("apikey", "kw_a")]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn client_ip_is_the_peer_unless_it_is_a_trusted_proxy() {
    let fake = Fake::start().await;
    let forwarded = |proxies| ClientIp::forwarded([proxies]).unwrap();
    let peer: SocketAddr = "192.0.2.1:4711".parse().unwrap();
    for (client_ip, expected) in [
        (ClientIp::default(), "192.0.2.1"),
        (forwarded("192.0.2.0/24"), "203.0.113.9"),
        (forwarded("10.0.0.0/8"), "192.0.2.1"),
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
        let requests = fake.script.requests.lock();
        assert_eq!(requests.last().unwrap().client_ip, expected);
    }
}

#[tokio::test]
async fn body_can_be_replaced() {
    let fake = Fake::start().await;
    let envelope = app(RequireApiKey::new(fake.client()).body(Envelope::default()));
    let response = send(&envelope, &[]).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    let expected = r#"{"error":true,"message":"API_KEY_REQUIRED","data":null}"#;
    assert_eq!(text(response).await, expected);

    let own = |refusal: &Refusal| Rendered {
        status: StatusCode::IM_A_TEAPOT,
        ..Rendered::new(refusal, "text/plain", refusal.code())
    };
    let own = app(RequireApiKey::new(fake.client()).body(own));
    let response = send(&own, &[]).await;
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert!(response.headers().contains_key(WWW_AUTHENTICATE));
    assert_eq!(text(response).await, "API_KEY_REQUIRED");
}

/// Only the layer's own identity counts.
#[tokio::test]
async fn identity_from_an_outer_layer_is_ignored() {
    let fake = Fake::start().await;
    let layer = RequireApiKey::new(fake.client());
    let app = Router::new().route("/", get(show)).layer(layer);
    let forged: Identity = Identity::from(Holder {
        key_id: "forged".to_owned(),
        account_id: "666".to_owned(),
        name: String::new(),
        scopes: Vec::new(),
        metadata: Default::default(),
        expire_time: None,
        revision: 0,
    });
    let app = app.layer(Extension(forged));
    let response = send(&app, &[]).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let response = send(&app, &[("apikey", "kw_a")]).await;
    assert!(text(response).await.starts_with("42 "));
}
