//! Deadlines that pass (`grpc-timeout`): the answer says whether a change may have been made.

use std::sync::Arc;

use keyward_testkit::raw::{RawAnswer, RawClient, frame};
use keyward_testkit::{
    Faults, PATIENCE, Scheme, eventually, importing, metric, refused, undoing, uuid_v4,
};
use prost::Message;

use super::*;

const KEYS: &str = "/keyward.v1.ApiKeyService";
const ADMIN: &str = "/keyward.v1.AdminService";

/// A service whose store can be made slow, a client with every role, and the same by its bytes.
struct World {
    local: Local,
    faults: Arc<Faults>,
    client: Client,
    raw: RawClient,
}

impl World {
    async fn start() -> Self {
        let (local, faults) = Local::start_stalling(import::accept_foreign).await;
        Self {
            client: local.client().await,
            raw: RawClient::connect(local.app.grpc_address()).await,
            local,
            faults,
        }
    }

    /// Calls a method with a `grpc-timeout`.
    async fn call(&self, path: &str, timeout: &str, message: &[u8]) -> RawAnswer {
        let bearer = format!("Bearer {}", self.local.token);
        let headers = [
            ("authorization", bearer.as_str()),
            ("grpc-timeout", timeout),
        ];
        self.raw.call(path, &headers, frame(message)).await
    }

    /// Whether the metrics count calls of `method` as DEADLINE_EXCEEDED.
    async fn counted(&self, method: &str) -> bool {
        self.counted_as(method, "DEADLINE_EXCEEDED").await
    }

    /// Whether the metrics count calls of `method` that ended with `code`.
    async fn counted_as(&self, method: &str, code: &str) -> bool {
        let line = format!("keyward_rpc_total{{method=\"{method}\",code=\"{code}\"}}");
        let side_port = self.local.app.http_address().unwrap();
        metric::<u64>(side_port, &line).await.is_some()
    }
}

/// The revocation is committed, but does not hold everywhere yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_whose_deadline_passes_says_that_the_outcome_is_unknown_and_is_done() {
    let world = World::start().await;
    let (id, key) = world.client.issue("42", "").await.unwrap();
    world.faults.tail.close();
    let path = format!("{KEYS}/Revoke");
    let answer = world.call(&path, "200m", &by_id(&id).encode_to_vec()).await;
    refused(answer.message(), Code::DeadlineExceeded, "OUTCOME_UNKNOWN");
    world.faults.tail.open();
    let again = world.client.revoke(&id).await.unwrap();
    assert_eq!(again.revoked[0].key_id, id);
    assert_eq!(world.client.verify(&key).await.unwrap(), Verdict::Revoked);
    assert!(world.counted("Revoke").await);
}

/// Each change waits for its answer from the store, which has committed it.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_whose_deadline_passes_says_that_the_outcome_is_unknown() {
    let world = World::start().await;
    let (id, key) = world.client.issue("42", "").await.unwrap();
    let roles = [Role::Verifier];
    let made = world.client.send(creating_token("old", &roles)).await;
    let token_id = made.unwrap().caller_token.unwrap().token_id;
    let import = importing([Scheme::Text.key("44", &uuid_v4())]);
    world.faults.answer.close();
    let calls = [
        (KEYS, "Issue", slot("43").encode_to_vec()),
        (KEYS, "Update", disabling(&id, false).encode_to_vec()),
        (KEYS, "Revoke", by_text(&key).encode_to_vec()),
        (
            ADMIN,
            "CreateToken",
            creating_token("new", &roles).encode_to_vec(),
        ),
        (
            ADMIN,
            "RevokeToken",
            revoking_token(&token_id).encode_to_vec(),
        ),
        (ADMIN, "ImportKeys", import.encode_to_vec()),
        (
            ADMIN,
            "UndoImport",
            undoing(&import.batch_id).encode_to_vec(),
        ),
    ];
    for (service, method, message) in calls {
        let path = format!("{service}/{method}");
        let answer = world.call(&path, "100m", &message).await;
        refused(answer.message(), Code::DeadlineExceeded, "OUTCOME_UNKNOWN");
        assert!(world.counted(method).await, "{method}");
    }
    world.faults.answer.open();
    assert!(!world.client.send(slot("43")).await.unwrap().created);
    assert_eq!(world.client.verify(&key).await.unwrap(), Verdict::Revoked);
}

/// Reads, and changes that have not reached the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_changes_nothing_says_only_that_its_deadline_passed() {
    let world = World::start().await;
    let (id, key) = world.client.issue("42", "").await.unwrap();
    world.faults.record.close();
    world.faults.answer.close();
    let calls = [
        ("Verify", "100m", verifying_strongly(&key).encode_to_vec()),
        ("Get", "100m", getting(&id).encode_to_vec()),
        ("List", "100m", listing("42").encode_to_vec()),
        ("Revoke", "0n", by_id(&id).encode_to_vec()),
    ];
    for (method, timeout, message) in calls {
        let path = format!("{KEYS}/{method}");
        let answer = world.call(&path, timeout, &message).await;
        refused(answer.message(), Code::DeadlineExceeded, "DEADLINE_PASSED");
        assert!(world.counted(method).await, "{method}");
    }
    world.faults.record.open();
    world.faults.answer.open();
    assert_eq!(world.client.verify(&key).await.unwrap(), Verdict::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_is_far_away_does_no_harm_and_a_malformed_one_is_refused() {
    let world = World::start().await;
    let (path, verify) = (format!("{KEYS}/Verify"), verifying("x").encode_to_vec());
    for far in ["1H", "99999999H", "99999999999999999999999H", "60000m"] {
        let answer = world.call(&path, far, &verify).await;
        answer.message().unwrap();
    }
    for malformed in [
        "", "1", "S", "1s", "-1S", "+1S", "1.5S", " 1S", "1 S", "1SS", "0x1S",
    ] {
        let answer = world.call(&path, malformed, &verify).await;
        let status = answer.message().unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{malformed} {status}");
        assert!(status.message().contains("grpc-timeout"), "{status}");
    }
}

/// A client that no longer waits resets its stream, and its call still counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_client_gives_up_is_counted_as_cancelled() {
    let world = World::start().await;
    let (_, key) = world.client.issue("42", "").await.unwrap();
    world.faults.record.close();
    world.faults.answer.close();
    let bearer = format!("Bearer {}", world.local.token);
    let headers = [("authorization", bearer.as_str())];
    let calls = [
        ("Verify", verifying(&key).encode_to_vec()),
        ("Issue", slot("43").encode_to_vec()),
    ];
    for (method, message) in calls {
        let path = format!("{KEYS}/{method}");
        let call = world.raw.call(&path, &headers, frame(&message));
        let given_up = tokio::time::timeout(Duration::from_millis(100), call).await;
        assert!(given_up.is_err(), "{method} is not answered");
        let is_counted = || world.counted_as(method, "CANCELLED");
        eventually(method, PATIENCE, is_counted).await;
    }
    world.faults.record.open();
    world.faults.answer.open();
}
