//! `examples/rest_api.rs` as a process.

use std::net::SocketAddr;
use std::path::Path;

use keyward_client::v1::Role;
use keyward_testkit::requests::{replacing, slot};
use keyward_testkit::{HttpAnswer, Program, start_api};

use super::{Keyward, ask};

/// The example.
struct Api {
    program: Program,
    address: SocketAddr,
}

impl Api {
    fn start(keyward: &Keyward, token_file: &Path, more: &[&str]) -> Self {
        let program = start_api(&[keyward.url()], token_file, more);
        let address = program.ready().parse().unwrap();
        Self { program, address }
    }

    async fn list(&self, key: &str) -> HttpAnswer {
        ask(self.address, "/v2/orders", &[("apikey", key)], None).await
    }

    async fn buy(&self, key: &str, body: &str) -> HttpAnswer {
        let headers = [("authorization", format!("ApiKey {key}"))];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        ask(self.address, "/v2/buy-resource", &headers, Some(body)).await
    }

    fn stop(mut self) {
        assert!(self.program.stop().success(), "{}", self.program.output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn example_accepts_a_key_until_it_is_revoked() {
    let keyward = Keyward::start();
    let (_, issuer) = keyward.token("issuer", &[Role::Issuer]).await;
    let (_, verifier) = keyward.token("verifier", &[Role::Verifier]).await;
    let issuer = keyward.client(&issuer);
    let issue = async |account: &str| {
        let issued = issuer.issue(slot(account)).await.unwrap();
        (issued.key.unwrap().key_id, issued.api_key)
    };
    let ((id, key), (_, other)) = (issue("42").await, issue("43").await);
    let api = Api::start(&keyward, &verifier, &["--rate", "1000"]);

    let health = ask(api.address, "/healthz", &[], None).await;
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let bought = api
        .buy(&key, r#"{"receiver":"T1","resourceAmount":65000}"#)
        .await;
    let id_of_order = "0".repeat(23) + "1";
    let expected =
        format!(r#"{{"data":{{"orderId":"{id_of_order}"}},"error":false,"message":"Success"}}"#);
    assert_eq!((bought.status, bought.body), (200, expected));
    let own = api.list(&key).await;
    assert!(own.body.contains(&id_of_order), "{own:?}");
    let others = api.list(&other).await;
    let nothing = r#"{"data":{"data":[],"total":0},"error":false,"message":"Success"}"#;
    assert_eq!((others.status, others.body.as_str()), (200, nothing));
    let path = format!("/v2/order/{id_of_order}");
    let theirs = ask(api.address, &path, &[("apikey", &other)], None).await;
    assert!(theirs.is_refusal(404, "ORDER_NOT_FOUND"), "{theirs:?}");
    for (body, message) in [
        (r#"{"receiver":"T1"}"#, "INVALID_PARAMS"),
        (r#"{"receiver":"","resourceAmount":1}"#, "INVALID_PARAMS"),
        (r#"{"receiver":"T1","resourceAmount":0}"#, "INVALID_PARAMS"),
        (
            r#"{"receiver":"T1","resourceAmount":18446744073709551615}"#,
            "INVALID_PARAMS",
        ),
        (
            r#"{"receiver":"T1","resourceAmount":999999999}"#,
            "INTERNAL_BALANCE_ACCOUNT_TOO_LOW",
        ),
    ] {
        let refused = api.buy(&key, body).await;
        assert!(refused.is_refusal(400, message), "{body}: {refused:?}");
    }

    let none = ask(api.address, "/v2/orders", &[], None).await;
    assert!(none.is_refusal(401, "API_KEY_REQUIRED"), "{none:?}");
    let successor = issuer.revoke(replacing(&id)).await.unwrap().api_key;
    let dead = api.list(&key).await;
    assert!(dead.is_refusal(401, "INVALID_API_KEY"), "{dead:?}");
    assert_eq!(api.list(&successor).await.status, 200);
    api.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn example_limits_the_rate_of_each_key() {
    let keyward = Keyward::start();
    let (_, file) = keyward.token("both", &[Role::Issuer, Role::Verifier]).await;
    let client = keyward.client(&file);
    let issue = async |account: &str| client.issue(slot(account)).await.unwrap().api_key;
    let (key, other) = (issue("42").await, issue("43").await);
    let api = Api::start(&keyward, &file, &["--rate", "1"]);
    assert_eq!(api.list(&key).await.status, 200);
    // The limit is one request a second, so one of the next requests comes too early.
    let mut limited = None;
    for _ in 0..20 {
        let reply = api.list(&key).await;
        if reply.status == 429 {
            limited = Some(reply);
            break;
        }
    }
    let limited = limited.expect("the rate is limited");
    assert!(limited.is_refusal(429, "RATE_LIMIT"), "{limited:?}");
    assert_eq!(limited.header("retry-after"), Some("1"));
    assert_eq!(
        api.list(&other).await.status,
        200,
        "each key has its own limit"
    );
    api.stop();
}

/// The product's published SDK (PyPI `tronsave`), unchanged: every call, and its own error classes for an
/// unknown key, a revoked key and the rate limit.
#[tokio::test(flavor = "multi_thread")]
async fn the_products_own_sdk_works_unchanged() {
    let keyward = Keyward::start();
    let (_, file) = keyward.token("both", &[Role::Issuer, Role::Verifier]).await;
    let client = keyward.client(&file);
    let issue = async |account: &str| client.issue(slot(account)).await.unwrap();
    let live = issue("42").await.api_key;
    let dead = issue("43").await;
    let id = dead.key.unwrap().key_id;
    client.revoke(replacing(&id)).await.unwrap();
    // Below the limit of the SDK itself, which waits before each call.
    let api = Api::start(&keyward, &file, &["--rate", "10"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/sdk.py");
    let mut python = crate::python::client();
    let url = format!("http://{}", api.address);
    python.args([script, &url, &live, &dead.api_key]);
    let output = python.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    api.stop();
}
