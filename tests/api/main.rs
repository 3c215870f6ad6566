//! What each RPC promises, through gRPC with a real client.

mod bad_input;
mod cancellation;
mod issue;
mod promise;
mod query;
mod replace;
mod revoke;
mod roles;
mod surface;
mod tokens;
mod update;
mod vectors;
mod verify;

use std::time::Duration;

use keyward_proto::v1::{self, Role, Verdict, get_request, revoke_request};
use keyward_testkit::{Client, Local};
use tonic::{Code, Status};

/// A service, and a client with every role.
async fn start() -> (Local, Client) {
    let local = Local::start().await;
    let client = local.client().await;
    (local, client)
}

/// The slot `default` of an account.
fn slot(account: &str) -> v1::IssueRequest {
    v1::IssueRequest {
        account_id: account.to_owned(),
        ..Default::default()
    }
}

/// The same for a key that can be shown again.
fn recoverable(account: &str) -> v1::IssueRequest {
    v1::IssueRequest {
        recoverable: Some(true),
        ..slot(account)
    }
}

async fn issue(client: &Client, request: v1::IssueRequest) -> Result<v1::IssueResponse, Status> {
    Ok(client.keys.clone().issue(request).await?.into_inner())
}

/// Revokes one key by its public name.
fn by_id(key_id: &str) -> v1::RevokeRequest {
    v1::RevokeRequest {
        target: Some(revoke_request::Target::KeyId(key_id.to_owned())),
        ..Default::default()
    }
}

/// Revokes one key by its text.
fn by_text(api_key: &str) -> v1::RevokeRequest {
    v1::RevokeRequest {
        target: Some(revoke_request::Target::ApiKey(api_key.to_owned())),
        ..Default::default()
    }
}

/// Revokes all keys of an account.
fn by_account(account: &str) -> v1::RevokeRequest {
    v1::RevokeRequest {
        target: Some(revoke_request::Target::AccountId(account.to_owned())),
        ..Default::default()
    }
}

/// Revokes one key and makes its successor.
fn replacing(key_id: &str) -> v1::RevokeRequest {
    v1::RevokeRequest {
        replace: true,
        ..by_id(key_id)
    }
}

async fn revoke(client: &Client, request: v1::RevokeRequest) -> Result<v1::RevokeResponse, Status> {
    Ok(client.keys.clone().revoke(request).await?.into_inner())
}

async fn get(client: &Client, key_id: &str) -> v1::ApiKey {
    let target = Some(get_request::Target::KeyId(key_id.to_owned()));
    let found = client.keys.clone().get(v1::GetRequest { target }).await;
    found.unwrap().into_inner().key.unwrap()
}

fn asking(api_key: &str) -> v1::VerifyRequest {
    v1::VerifyRequest {
        api_key: api_key.to_owned(),
        ..Default::default()
    }
}

async fn verdict_of(client: &Client, request: v1::VerifyRequest) -> Verdict {
    let verified = client.keys.clone().verify(request).await.unwrap();
    verified.into_inner().verdict()
}

/// The update of `paths` to what `key` says.
fn changing<const N: usize>(key: v1::ApiKey, paths: [&str; N]) -> v1::UpdateRequest {
    v1::UpdateRequest {
        key: Some(key),
        update_mask: Some(prost_types::FieldMask {
            paths: paths.map(str::to_owned).into(),
        }),
    }
}

async fn update(client: &Client, request: v1::UpdateRequest) -> Result<v1::UpdateResponse, Status> {
    Ok(client.keys.clone().update(request).await?.into_inner())
}

async fn disable(client: &Client, key_id: &str, disabled: bool) -> v1::UpdateResponse {
    let key = v1::ApiKey {
        key_id: key_id.to_owned(),
        disabled,
        ..Default::default()
    };
    update(client, changing(key, ["disabled"])).await.unwrap()
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A time so many seconds after another.
fn later(time: prost_types::Timestamp, seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.seconds + seconds,
        ..time
    }
}

/// Lets time pass on both clocks. The instance is not fresh until its next heartbeat: waits for that.
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

/// The values of a key that say all it can say.
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

/// A client that issues and revokes, and may see nothing again.
async fn issuer(local: &Local) -> Client {
    local.client_as(&[Role::Issuer]).await
}

/// What the bot is: it also sees recoverable keys again.
async fn bot(local: &Local) -> Client {
    local.client_as(&[Role::Issuer, Role::Revealer]).await
}

/// Runs SQL that passes the service by.
async fn by_hand(local: &Local, sql: &'static str) {
    let store = sqlx::SqlitePool::connect_lazy(&local.database().display().to_string()).unwrap();
    sqlx::query(sql).execute(&store).await.unwrap();
    store.close().await;
}
