//! Certificates at the other doors, in Keyward's own client, and with near-caches.

use keyward_client::near::{Fallback, NearCacheOptions};
use keyward_client::{ErrorKind, Secret, VerifyRequest};

use super::*;

fn asking(api_key: &str) -> VerifyRequest {
    VerifyRequest::new(Secret::new(api_key.to_owned()))
}

/// The status of the JSON port's answer to curl.
async fn curl(world: &World, own: Option<&Identity>, path: &str, headers: &[&str]) -> String {
    let files = world.files.path();
    std::fs::write(files.join("curl-ca.pem"), world.authority.pem()).unwrap();
    let rest = world.local.app.rest_address().unwrap();
    let mut command = std::process::Command::new("curl");
    command
        .current_dir(files)
        .args(["--silent", "--noproxy", "*", "--max-time", "60"])
        .args(["--cacert", "curl-ca.pem", "--output", "answer"])
        .args(["--write-out", "%{http_code}"]);
    if let Some(own) = own {
        own.write_as(files, "curl");
        command.args(["--cert", "curl.crt", "--key", "curl.key"]);
    }
    for header in headers {
        command.args(["--header", header]);
    }
    command.arg(format!("https://{rest}{path}"));
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_port_takes_certificates() {
    let world = world().await;
    let (id, key) = world.admin.issue("42", "").await.unwrap();
    let roles = [Role::Verifier, Role::Reader];
    let proxy = world.caller("proxy.example", &roles).await;
    let own = world.authority.sign_client(&["proxy.example"], None);
    let path = format!("/v1/keys/{id}");
    let bearer = format!("authorization: Bearer {key}");
    assert_eq!(curl(&world, Some(&own), &path, &[]).await, "200");
    assert_eq!(curl(&world, None, &path, &[]).await, "401");
    // The key of a client is not the token of the caller.
    assert_eq!(curl(&world, Some(&own), &path, &[&bearer]).await, "401");

    let auth = async |own, headers: &[&str]| curl(&world, own, "/auth", headers).await;
    assert_eq!(auth(Some(&own), &[&bearer]).await, "200");
    assert_eq!(auth(Some(&own), &[]).await, "401");
    assert_eq!(auth(None, &[&bearer]).await, "503");
    let token = "x-keyward-token: kwt_wrong";
    assert_eq!(auth(Some(&own), &[&bearer, token]).await, "503");
    world.revoke(&proxy).await;
    assert_eq!(auth(Some(&own), &[&bearer]).await, "503");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_takes_part_with_a_certificate() {
    let world = world().await;
    let key = world.key().await;
    world.caller("envoy.example", &[Role::Verifier]).await;
    let envoy = world.named(&["envoy.example"]).await;
    let check = async |key: &str| {
        let answer = envoy.send(checking(key)).await.unwrap();
        answer.status.unwrap().code
    };
    for _ in 0..2 {
        assert_eq!(check(&key).await, 0);
    }
    assert_eq!(check("x").await, i32::from(Code::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_library_presents_a_certificate_and_its_successor() {
    let world = world().await;
    let key = world.key().await;
    let first = world.caller(NAME, &[Role::Verifier]).await;
    world.caller("next.example", &[Role::Verifier]).await;
    let library = world.library(&world.authority.sign_client(&[NAME], None));
    let verdict = library.verify(asking(&key)).await.unwrap();
    assert!(matches!(verdict, client::Verdict::Valid(_)));

    // Half a pair changes nothing.
    let next = world.authority.sign_client(&["next.example"], None);
    let half = world.files.path().join("own.crt");
    std::fs::write(&half, &next.certificate).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let verdict = library.verify(asking(&key)).await.unwrap();
    assert!(matches!(verdict, client::Verdict::Valid(_)));
    world.revoke(&first).await;
    let refused = library.verify(asking(&key)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unauthorized);
    assert_eq!(refused.reason.as_deref(), Some("CERTIFICATE_INVALID"));

    next.write_as(world.files.path(), "own");
    let is_next = async || library.verify(asking(&key)).await.is_ok();
    eventually("the successor is in use", PATIENCE, is_next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_near_cache_ends_with_its_caller() {
    let world = world().await;
    let key = world.key().await;
    let roles = [Role::NearCache, Role::Verifier];
    let caller = world.caller(NAME, &roles).await;
    let library = world.library(&world.authority.sign_client(&[NAME], None));
    let mut options = NearCacheOptions::default();
    options.fallback = Fallback::Fail;
    let near = library.near_cache(options).unwrap();
    let is_fresh = async || near.is_fresh();
    eventually("the near-cache is fresh", PATIENCE, is_fresh).await;
    let verdict = near.verify(asking(&key)).await.unwrap();
    assert!(matches!(verdict, client::Verdict::Valid(_)));
    assert!(near.cached(&asking(&key)).is_some());
    world.revoke(&caller).await;
    assert!(!near.is_fresh());
    assert!(near.cached(&asking(&key)).is_none());
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!near.is_fresh());
}

/// The certificate says who the client is, not whose call it passes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_passed_on_presents_no_certificate() {
    let world = world().await;
    let key = world.key().await;
    world.caller(NAME, &[Role::Verifier]).await;
    let library = world.library(&world.authority.sign_client(&[NAME], None));
    let verdict = library.verify(asking(&key)).await.unwrap();
    assert!(matches!(verdict, client::Verdict::Valid(_)));
    let call = http::Request::post("/keyward.v1.ApiKeyService/Verify")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::empty())
        .unwrap();
    let answer = library.pass_on(call).await.unwrap();
    let status = tonic::Status::from_header_map(answer.headers()).unwrap();
    refused(Err::<(), _>(status), Code::Unauthenticated, "TOKEN_MISSING");
}
