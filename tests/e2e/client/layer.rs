//! The layer in front of an axum application, over real sockets.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use axum::routing::post;
use axum::{Extension, Router};
use keyward_client::layer::RequireApiKey;
use keyward_client::v1::{self, Role};
use keyward_client::{Client, Identity};
use keyward_testkit::requests::{by_id, slot};
use keyward_testkit::{PATIENCE, eventually, http_ask};

use super::{Keyward, ask, serve};

async fn order(Extension(identity): Extension<Identity>, headers: HeaderMap) -> String {
    let key_is_visible = headers.values().any(|value| {
        let text = value.to_str().unwrap_or_default();
        text.contains("kw_")
    });
    format!("{} {key_is_visible}", identity.account_id)
}

fn app(client: Client) -> Router {
    Router::new()
        .route("/v1/orders", post(order))
        .layer(RequireApiKey::new(client).scopes(["orders:write"]))
}

/// Issues a key. Returns its ID and its text.
async fn issue(client: &Client, account: &str, scope: &str, cidr: &str) -> (String, String) {
    let request = v1::IssueRequest {
        scopes: vec![scope.to_owned()],
        allowed_cidrs: vec![cidr.to_owned()],
        ..slot(account)
    };
    let issued = client.issue(request).await.unwrap();
    (issued.key.unwrap().key_id, issued.api_key)
}

#[tokio::test(flavor = "multi_thread")]
async fn key_is_accepted_until_it_is_revoked() {
    let mut keyward = Keyward::start();
    let (_, issuer) = keyward.token("issuer", &[Role::Issuer]).await;
    let (_, verifier) = keyward.token("verifier", &[Role::Verifier]).await;
    let issuer = keyward.client(&issuer);
    // A short time limit, because the test also calls while Keyward is away.
    let builder = keyward.builder(&verifier).timeout(Duration::from_secs(5));
    let api = serve(app(builder.build().unwrap())).await;
    let order = async |headers: &[(&str, &str)]| ask(api, "/v1/orders", headers, Some("")).await;

    let (id, key) = issue(&issuer, "42", "orders:write", "127.0.0.0/8").await;
    let bearer = format!("bearer {key}");
    for header in [
        ("apikey", key.as_str()),
        ("X-Api-Key", &key),
        ("Authorization", &bearer),
        ("Authorization", &format!("ApiKey {key}")),
        ("Authorization", &format!("aPIkEY  {key}")),
    ] {
        let reply = order(&[header]).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, "42 false"));
    }
    let both = order(&[("apikey", &key), ("authorization", &bearer)]).await;
    assert_eq!(both.status, 200, "the same key twice is one key");

    let reply = order(&[]).await;
    assert_eq!(reply.status, 401);
    assert!(reply.header("www-authenticate").is_some(), "{reply:?}");
    let (_, other) = issue(&issuer, "43", "orders:read", "127.0.0.0/8").await;
    let reply = order(&[("apikey", &key), ("x-api-key", &other)]).await;
    assert_eq!(reply.status, 401, "{reply:?}");
    let api_key = format!("ApiKey {other}");
    let reply = order(&[("Authorization", &bearer), ("Authorization", &api_key)]).await;
    assert_eq!(reply.status, 401, "{reply:?}");
    let reply = order(&[("apikey", &other)]).await;
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.body.contains("INSUFFICIENT_SCOPE"), "{reply:?}");
    let (_, far) = issue(&issuer, "44", "orders:write", "10.0.0.0/8").await;
    let reply = order(&[("apikey", &far), ("x-forwarded-for", "10.0.0.1")]).await;
    assert_eq!(reply.status, 403, "{reply:?}");
    assert!(reply.body.contains("IP_NOT_ALLOWED"), "{reply:?}");

    issuer.revoke(by_id(&id)).await.unwrap();
    let reply = order(&[("apikey", &key)]).await;
    assert_eq!(reply.status, 401, "{reply:?}");
    assert!(reply.body.contains("API_KEY_REVOKED"), "{reply:?}");
    assert!(reply.header("www-authenticate").is_some(), "{reply:?}");

    let (_, next) = issue(&issuer, "42", "orders:write", "127.0.0.1/32").await;
    assert_eq!(order(&[("apikey", &next)]).await.status, 200);
    assert!(keyward.process.stop().success());
    for key in [&next, &key] {
        let reply = order(&[("apikey", key)]).await;
        assert_eq!(
            reply.status, 503,
            "a missing service says nothing about the key: {reply:?}"
        );
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        assert!(reply.header("www-authenticate").is_none(), "{reply:?}");
    }
    keyward.start_again();
    let back = async || {
        let reply = order(&[("apikey", &next)]).await;
        assert!([200, 503].contains(&reply.status), "{reply:?}");
        reply.status == 200
    };
    eventually("the key is accepted again", PATIENCE, back).await;
}

/// The service's own headers replace the default ones, so `authorization` is free for its users.
#[tokio::test(flavor = "multi_thread")]
async fn headers_of_the_key_can_be_chosen() {
    let keyward = Keyward::start();
    let (_, both) = keyward.token("both", &[Role::Issuer, Role::Verifier]).await;
    let client = keyward.client(&both);
    let (_, key) = issue(&client, "42", "orders:write", "127.0.0.1/32").await;
    let layer = RequireApiKey::new(client).headers([HeaderName::from_static("x-acme-key")]);
    let app = Router::new().route("/v1/orders", post(order)).layer(layer);
    let api = serve(app).await;
    let order = async |headers: &[(&str, &str)]| ask(api, "/v1/orders", headers, Some("")).await;
    for user in ["Bearer of-a-user", "Basic eDp5"] {
        let reply = order(&[("X-Acme-Key", &key), ("authorization", user)]).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, "42 false"));
    }
    let bearer = format!("Bearer {key}");
    for header in [
        ("apikey", &key),
        ("x-api-key", &key),
        ("authorization", &bearer),
    ] {
        let reply = order(&[(header.0, header.1)]).await;
        assert_eq!(reply.status, 401, "{reply:?}");
        let challenge = r#"ApiKey realm="api", headers="x-acme-key""#;
        assert_eq!(reply.header("www-authenticate"), Some(challenge));
        assert!(reply.body.contains("x-acme-key"), "{reply:?}");
        assert!(!reply.body.contains("bearer"), "{reply:?}");
    }
}

/// A browser sends no key with its preflight request, and no handler may take it for a real one.
#[tokio::test(flavor = "multi_thread")]
async fn preflight_passes_by_choice_only() {
    let keyward = Keyward::start();
    let (_, both) = keyward.token("both", &[Role::Issuer, Role::Verifier]).await;
    let client = keyward.client(&both);
    let who = async |identity: Option<Extension<Identity>>, headers: HeaderMap| {
        format!("{} {}", identity.is_some(), headers.contains_key("apikey"))
    };
    let app = |layer: RequireApiKey| {
        let handlers = post(order).options(who);
        Router::new().route("/v1/orders", handlers).layer(layer)
    };
    let closed = serve(app(RequireApiKey::new(client.clone()))).await;
    let open = serve(app(RequireApiKey::new(client).allow_preflight())).await;
    let origin = ("origin", "https://app.example");
    let method = ("access-control-request-method", "POST");
    let options = async |api, headers: &[(&str, &str)]| {
        let reply = http_ask(api, "OPTIONS", "/v1/orders", headers, "").await;
        reply.unwrap()
    };
    assert_eq!(options(closed, &[origin, method]).await.status, 401);
    let reply = options(open, &[origin, method, ("apikey", "kw_x")]).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "false false"));
    for headers in [&[][..], &[origin], &[method]] {
        assert_eq!(options(open, headers).await.status, 401, "{headers:?}");
    }
    let reply = http_ask(open, "POST", "/v1/orders", &[origin, method], "").await;
    assert_eq!(reply.unwrap().status, 401);
}

/// A token without the role is a fault of the deployment, not of the key.
#[tokio::test(flavor = "multi_thread")]
async fn token_without_the_role_verifier_refuses_all_requests_with_503() {
    let keyward = Keyward::start();
    let (_, issuer) = keyward.token("issuer", &[Role::Issuer]).await;
    let issuer = keyward.client(&issuer);
    let (_, key) = issue(&issuer, "42", "orders:write", "127.0.0.1/32").await;
    let api = serve(app(issuer)).await;
    let reply = ask(api, "/v1/orders", &[("apikey", &key)], Some("")).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.header("retry-after").is_some(), "{reply:?}");
}
