//! What each RPC promises, through gRPC with a real client.

#![cfg(test)]

mod audit;
mod bad_input;
mod cancellation;
mod certificates;
mod compression;
mod deadlines;
mod doors;
mod erase;
mod foreign;
mod hostile_http;
mod immediate;
mod import;
mod issue;
mod key_age;
mod keyring;
mod limits;
mod near;
mod promise;
mod query;
mod replace;
mod rest;
mod reveals;
mod revoke;
mod roles;
mod supervision;
mod surface;
mod tokens;
mod update;
mod uses;
mod vectors;
mod verify;
mod webhooks;

use std::time::Duration;

use keyward_proto::v1::{self, Role, Verdict};
use keyward_testkit::requests::*;
use keyward_testkit::{Client, Local, http_ask, sqlite, sqlite_execute};
use tonic::Code;

/// The id of no key and no token.
const UNKNOWN: &str = "01890000-0000-7000-8000-000000000000";

/// A service, and a client with every role.
async fn start() -> (Local, Client) {
    let local = Local::start().await;
    let client = local.client().await;
    (local, client)
}

/// A time so many seconds after another.
fn later(time: prost_types::Timestamp, seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.seconds + seconds,
        ..time
    }
}

/// Moves both clocks forward, and waits for the next heartbeat, because the instance is not fresh
/// before it.
async fn pass(local: &Local, seconds: i64) {
    local.clock.step_boot(seconds);
    local.clock.step_wall(seconds);
    let client = local.client().await;
    loop {
        match client.verify("").await {
            Err(status) if status.code() == Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => break assert_eq!(other.unwrap(), Verdict::Malformed),
        }
    }
}

/// A key with every field set.
fn all_fields(account: &str) -> v1::IssueRequest {
    v1::IssueRequest {
        name: "bot.1".to_owned(),
        scopes: ["write", "read", "write"].map(str::to_owned).into(),
        metadata: [("team".to_owned(), "payments ✓".to_owned())].into(),
        allowed_cidrs: ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]
            .map(str::to_owned)
            .into(),
        ttl: seconds(3_600),
        ..recoverable(account)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_and_dies() {
    let (local, client) = start().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    let revoked = client.revoke(&id).await.unwrap();
    assert_eq!(revoked.confirmed_instances, 1);
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Revoked);
    local.app.stop().await;
}

/// A client that issues and revokes, but may not reveal secrets.
async fn issuer(local: &Local) -> Client {
    local.client_as(&[Role::Issuer]).await
}

/// A client with the roles of the bot, which may reveal recoverable keys.
async fn bot(local: &Local) -> Client {
    local.client_as(&[Role::Issuer, Role::Revealer]).await
}

/// Runs manual SQL.
async fn by_hand(local: &Local, sql: &str) {
    sqlite_execute(&local.database(), sql).await;
}

/// The body of the answer to a Verify through JSON.
async fn verify_by_json(local: &Local, api_key: &str) -> String {
    let bearer = format!("Bearer {}", local.token);
    let headers = [
        ("authorization", &*bearer),
        ("content-type", "application/json"),
    ];
    let body = serde_json::json!({"apiKey": api_key}).to_string();
    let port = local.app.rest_address().unwrap();
    let answer = http_ask(port, "POST", "/v1/keys:verify", &headers, &body).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}
