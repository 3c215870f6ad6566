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
        ask(self.address, "/v1/orders", &[("apikey", key)], None).await
    }

    async fn order(&self, key: &str, body: &str) -> HttpAnswer {
        ask(self.address, "/v1/orders", &[("apikey", key)], Some(body)).await
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
    let created = api.order(&key, r#"{"item":"energy","amount":3}"#).await;
    let expected = r#"{"id":1,"item":"energy","amount":3}"#;
    assert_eq!((created.status, created.body.as_str()), (201, expected));
    let own = api.list(&key).await;
    assert_eq!((own.status, own.body), (200, format!("[{expected}]")));
    let others = api.list(&other).await;
    assert_eq!((others.status, others.body.as_str()), (200, "[]"));
    let wrong = api.order(&key, r#"{"item":"energy"}"#).await;
    assert!(wrong.is_refusal(422, "INVALID_ORDER"), "{wrong:?}");

    let none = ask(api.address, "/v1/orders", &[], None).await;
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
    assert!(
        limited.is_refusal(429, "RATE_LIMIT_EXCEEDED"),
        "{limited:?}"
    );
    assert_eq!(limited.header("retry-after"), Some("1"));
    assert_eq!(
        api.list(&other).await.status,
        200,
        "each key has its own limit"
    );
    api.stop();
}
