//! The layer in front of a tonic server: for one service, or for all.

use std::sync::Arc;

use keyward_client::layer::RequireApiKey;
use keyward_client::{Identity, v1};
use parking_lot::Mutex;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;
use tower::Layer as _;
use v1::api_key_service_client::ApiKeyServiceClient;

use crate::fake::{ANY, Fake, Running, Script, service};

async fn connect(running: &Running) -> Channel {
    let url = format!("http://{}", running.address);
    let endpoint = Channel::from_shared(url).unwrap();
    endpoint.connect().await.unwrap()
}

/// Calls the service behind the layer.
async fn call(channel: &Channel, key: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(v1::GetRequest::default());
    if let Some(key) = key {
        request
            .metadata_mut()
            .insert("x-api-key", key.parse().unwrap());
    }
    let mut client = ApiKeyServiceClient::new(channel.clone());
    client.get(request).await.map(|_| ())
}

#[tokio::test]
async fn tonic_server_refuses_with_grpc_statuses() {
    let keyward = Fake::start().await;
    let guarded = Script::new();
    let identity = Arc::new(Mutex::new(None));
    let found = Arc::clone(&identity);
    guarded.before(move |seen| {
        assert_eq!(seen.text("x-api-key"), None, "the key must be removed");
        *found.lock() = seen.extensions.get::<Identity>().cloned();
        Ok(())
    });
    let layer = RequireApiKey::new(keyward.client()).grpc();
    let router = Server::builder()
        .layer(layer)
        .add_service(service(&guarded));
    let running = Running::start(ANY, |incoming, until| {
        router.serve_with_incoming_shutdown(incoming, until)
    });
    let running = running.await;
    let channel = connect(&running).await;

    call(&channel, Some("kw_a")).await.unwrap();
    assert_eq!(identity.lock().as_ref().unwrap().account_id, "42");
    assert_eq!(keyward.script.requests.lock()[0].client_ip, "127.0.0.1");

    let refused = async |key| call(&channel, key).await.unwrap_err();
    assert_eq!(refused(None).await.code(), Code::Unauthenticated);
    for (verdict, code) in [
        (v1::Verdict::Revoked, Code::Unauthenticated),
        (v1::Verdict::NotFound, Code::Unauthenticated),
        (v1::Verdict::InsufficientScope, Code::PermissionDenied),
        (v1::Verdict::IpNotAllowed, Code::PermissionDenied),
        (v1::Verdict::Unspecified, Code::Unavailable),
    ] {
        *keyward.script.verdict.lock() = v1::VerifyResponse {
            verdict: verdict.into(),
            ..Default::default()
        };
        assert_eq!(refused(Some("kw_a")).await.code(), code, "{verdict:?}");
    }
    keyward
        .script
        .refuse(Code::Unauthenticated, "TOKEN_INVALID");
    let status = refused(Some("kw_a")).await;
    assert_eq!(status.code(), Code::Unavailable);
    let retry = status.get_details_retry_info().unwrap();
    assert_eq!(retry.retry_delay, Some(std::time::Duration::from_secs(1)));
    assert_eq!(guarded.calls(), 1);
}

#[tokio::test]
async fn one_service_can_be_guarded_alone() {
    let keyward = Fake::start().await;
    let guarded = Script::new();
    let layer = RequireApiKey::new(keyward.client()).grpc();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let router = Server::builder()
        .add_service(layer.layer(service(&guarded)))
        .add_service(health);
    let running = Running::serve(router).await;
    let channel = connect(&running).await;
    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();
    let refused = call(&channel, None).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    call(&channel, Some("kw_a")).await.unwrap();
    assert_eq!(guarded.calls(), 1);
}
