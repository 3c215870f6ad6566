//! The doors of HTTP: Envoy's Check beside an empty call of tonic, and the JSON port beside empty calls of
//! axum.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use keyward_proto::envoy::attribute_context::{self, HttpRequest, Peer};
use keyward_proto::envoy::authorization_client::AuthorizationClient;
use keyward_proto::envoy::check_response::HttpResponse;
use keyward_proto::envoy::{Address, AttributeContext, CheckRequest, SocketAddress};
use keyward_testkit::{connect, http_ask};
use tonic::Request;

use super::empty::{Answers, EmptyServer};
use super::h2load::{Call, Target, costs};
use super::{Keyward, publish};

/// The route of Verify.
pub(super) const VERIFY: &str = "/v1/keys:verify";
/// The route for proxies.
pub(super) const AUTH: &str = "/auth";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The calls of one round.
const CALLS: u32 = 100_000;

/// Compares each door with its empty call, and writes the table.
pub(super) async fn measure() {
    let keyward = Keyward::start(None).await;
    let (process, key) = (&keyward.process, &keyward.key);
    let rest = process.rest.unwrap();
    let token = process.token();
    let bearer = format!("Bearer {token}");
    let json = format!(r#"{{"apiKey":"{key}"}}"#);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let verified = http_ask(rest, "POST", VERIFY, &headers, &json).await;
    let verified = verified.unwrap().body;
    assert!(verified.contains("VERDICT_VALID"), "{verified}");
    let check = check(key);
    let mut asked = Request::new(check.clone());
    let metadata = asked.metadata_mut();
    metadata.insert("authorization", bearer.parse().unwrap());
    let mut envoy = AuthorizationClient::new(connect(process.grpc).await);
    let checked = envoy.check(asked).await.unwrap().into_inner();
    let is_passed = matches!(checked.http_response, Some(HttpResponse::OkResponse(_)));
    assert!(is_passed);
    let answers = Answers {
        verify: keyward.answer.clone(),
        check: checked,
        json: verified,
    };
    let empty = EmptyServer::start(&answers, None);

    let grpc = |name, server| Call::grpc(name, server, (CHECK, 1), &token, &check);
    let lines = headers.map(|(name, value)| format!("{name}: {value}"));
    let lines = lines.each_ref().map(String::as_str);
    let verify = |name, server| Call::http1(name, server, VERIFY, &lines, Some(json.as_bytes()));
    let proxied = [
        format!("x-keyward-token: {token}"),
        format!("x-api-key: {key}"),
        "x-forwarded-for: 192.0.2.7".to_owned(),
    ];
    let proxied = proxied.each_ref().map(String::as_str);
    let auth = |name, server| Call::http1(name, server, AUTH, &proxied, None);

    let (ours, theirs) = (process.id(), empty.id());
    let (tonic, axum): (Target, Target) =
        (("http", empty.grpc, theirs), ("http", empty.axum, theirs));
    let (ours_grpc, ours_http): (Target, Target) =
        (("http", process.grpc, ours), ("http", rest, ours));
    let calls = [
        grpc("Check of Envoy", ours_grpc),
        grpc("", tonic),
        verify("JSON Verify, HTTP/1.1", ours_http),
        verify("", axum),
        verify("JSON Verify, HTTP/2", ours_http).over_http2(),
        verify("", axum).over_http2(),
        auth("/auth, HTTP/1.1", ours_http),
        auth("", axum),
    ];
    let costs = costs(&calls, CALLS);
    let mut table = String::from(
        "| call | us of CPU | x its empty call | us of its empty call | calls/s on one core |\n|---|---|---|---|---|\n",
    );
    for (call, cost) in calls.chunks(2).zip(costs.chunks(2)) {
        let ((used, rate), empty) = (cost[0], cost[1].0);
        let (name, times) = (call[0].name, used / empty);
        let _ = writeln!(
            table,
            "| {name} | {used:.2} | {times:.2} | {empty:.2} | {rate:.0} |"
        );
    }
    publish("doors", &table);
}

/// A request of a browser's script, as Envoy describes it.
fn check(key: &str) -> CheckRequest {
    let headers = [
        (":authority", "api.example.com"),
        (":method", "GET"),
        (":path", "/v1/orders?limit=20&status=open"),
        (":scheme", "https"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, deflate, br"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("origin", "https://shop.example.com"),
        ("referer", "https://shop.example.com/orders"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ),
        ("x-api-key", key),
        ("x-envoy-external-address", "192.0.2.7"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "4d7f0c6e-7d6f-4a6c-9a53-1f0f6f9c8e21"),
    ];
    let headers: BTreeMap<_, _> = headers
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let http = HttpRequest {
        headers,
        ..Default::default()
    };
    let address = SocketAddress {
        address: "192.0.2.7".to_owned(),
    };
    let source = Peer {
        address: Some(Address {
            socket_address: Some(address),
        }),
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source),
            request: Some(attribute_context::Request { http: Some(http) }),
            ..Default::default()
        }),
    }
}
