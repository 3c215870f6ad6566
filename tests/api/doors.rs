//! The three doors that guard HTTP requests, the layer of the client library, `/auth` and Envoy's Check, give
//! one answer to the same request.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use keyward_client::layer::{ClientIp, RequireApiKey, TrustedProxies};
use keyward_client::{Identity, Secret};
use keyward_proto::envoy::attribute_context::{HttpRequest, Peer, Request as EnvoyRequest};
use keyward_proto::envoy::check_response::HttpResponse;
use keyward_proto::envoy::{
    Address, AttributeContext, CheckRequest, HeaderValueOption, SocketAddress,
};
use keyward_testkit::http_ask as ask;
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::*;

/// The balancer before the proxy that asks.
const BALANCER: &str = "10.0.0.0/8";

/// A request as a proxy or a service receives it.
pub(super) struct Received {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) peer: &'static str,
    pub(super) scopes: &'static [&'static str],
}

/// What a door says.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub(super) status: u16,
    /// The identity for the backend.
    identity: Vec<(String, String)>,
    challenges: Vec<String>,
    body: String,
}

fn identity_in(headers: &[(String, String)]) -> Vec<(String, String)> {
    let own = headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-keyward-"));
    own.cloned().collect()
}

fn challenges_in(headers: &[(String, String)]) -> Vec<String> {
    let challenges = headers
        .iter()
        .filter(|(name, _)| name == "www-authenticate");
    challenges.map(|(_, value)| value.clone()).collect()
}

fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    headers.iter().map(text).collect()
}

/// The layer, before a service that answers with the identity.
pub(super) async fn by_layer(local: &Local, received: &Received) -> Said {
    let client = keyward_client::Client::builder()
        .endpoint(format!("http://{}", local.app.grpc_address()))
        .token(Secret::new(local.token.clone()))
        .build()
        .unwrap();
    let layer = RequireApiKey::new(client)
        .scopes(received.scopes.iter().copied())
        .client_ip(ClientIp::Forwarded(
            TrustedProxies::new([BALANCER]).unwrap(),
        ));
    let service = layer.layer(service_fn(async |request: Request<()>| {
        let identity: &Identity = request.extensions().get().unwrap();
        let mut response = Response::new(http_body_util::Full::<bytes::Bytes>::default());
        response.headers_mut().extend(identity.headers().unwrap());
        Ok::<_, std::convert::Infallible>(response)
    }));
    let mut request = Request::new(());
    for (name, value) in &received.headers {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request.headers_mut().append(*name, value);
    }
    let peer: SocketAddr = format!("{}:4711", received.peer).parse().unwrap();
    request.extensions_mut().insert(peer);
    let response = service.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let headers = texts(&parts.headers);
    let body = http_body_util::BodyExt::collect(body)
        .await
        .unwrap()
        .to_bytes();
    Said {
        status: parts.status.as_u16(),
        identity: identity_in(&headers),
        challenges: challenges_in(&headers),
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// `/auth`, asked by a proxy that adds its peer to `x-forwarded-for`.
pub(super) async fn by_auth(local: &Local, received: &Received) -> Said {
    let mut headers: Vec<(&str, &str)> = received
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    headers.push(("x-forwarded-for", received.peer));
    headers.push(("x-keyward-token", &local.token));
    let scopes = received.scopes.iter().map(|scope| format!("scope={scope}"));
    let query = scopes.collect::<Vec<_>>().join("&");
    let path = if query.is_empty() {
        "/auth".to_owned()
    } else {
        format!("/auth?{query}")
    };
    let answer = ask(
        local.app.rest_address().unwrap(),
        "GET",
        &path,
        &headers,
        "",
    )
    .await
    .unwrap();
    Said {
        status: answer.status,
        identity: identity_in(&answer.headers),
        challenges: challenges_in(&answer.headers),
        body: answer.body,
    }
}

/// Envoy's Check. Repeated headers come joined by commas.
pub(super) async fn by_check(local: &Local, received: &Received) -> Said {
    let client = local.client().await;
    let answer = client.send(check_of(received)).await.unwrap();
    let pairs = |options: Vec<HeaderValueOption>| -> Vec<(String, String)> {
        let header = |option: HeaderValueOption| {
            assert!(option.keep_empty_value);
            let header = option.header.unwrap();
            (header.key, header.value)
        };
        options.into_iter().map(header).collect()
    };
    match answer.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(answer.status.unwrap().code, 0);
            assert!(
                ok.headers.iter().all(|option| option.append_action == 2),
                "overwrites"
            );
            let sent = received.headers.iter().map(|(name, _)| *name);
            let keys = sent
                .filter(|name| *name != "x-forwarded-for")
                .collect::<std::collections::BTreeSet<_>>();
            assert_eq!(
                ok.headers_to_remove
                    .iter()
                    .map(String::as_str)
                    .collect::<std::collections::BTreeSet<_>>(),
                keys
            );
            Said {
                status: 200,
                identity: pairs(ok.headers),
                challenges: Vec::new(),
                body: String::new(),
            }
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(answer.status.unwrap().code, 0);
            Said {
                status: denied.status.unwrap().code.try_into().unwrap(),
                identity: Vec::new(),
                challenges: challenges_in(&pairs(denied.headers)),
                body: denied.body,
            }
        }
    }
}

fn check_of(received: &Received) -> CheckRequest {
    let mut headers = std::collections::BTreeMap::<String, String>::new();
    for (name, value) in &received.headers {
        let joined = headers.entry((*name).to_owned()).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value);
    }
    let address = SocketAddress {
        address: received.peer.to_owned(),
    };
    let scopes = received.scopes.join(" ");
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                address: Some(Address {
                    socket_address: Some(address),
                }),
            }),
            request: Some(EnvoyRequest {
                http: Some(HttpRequest {
                    headers,
                    header_map: None,
                }),
            }),
            context_extensions: match scopes.is_empty() {
                true => Default::default(),
                false => [("scope".to_owned(), scopes)].into(),
            },
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_doors_give_one_answer() {
    let change = |settings: &mut keyward::config::Settings| {
        settings.trusted_proxies = TrustedProxies::new([BALANCER]).unwrap();
        foreign::takes_uuids(settings);
    };
    let local = Local::start_with(change, |store| store).await;
    let client = local.client().await;
    let issued = client.send(v1::IssueRequest {
        allowed_cidrs: vec!["192.0.2.7".to_owned()],
        ..all_fields("42 & Soehne")
    });
    let limited = issued.await.unwrap().api_key;
    let (plain_id, plain) = client.issue("7", "").await.unwrap();
    let (dead_id, dead) = client.issue("8", "").await.unwrap();
    client.revoke(&dead_id).await.unwrap();
    let (off_id, off) = client.issue("9", "").await.unwrap();
    client.disable(&off_id, true).await.unwrap();
    let foreign = [1, 2, 3].map(|n| format!("{n}e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00"));
    foreign::import(&local, &foreign[0], 1, 0).await;
    let dead_foreign = foreign::import(&local, &foreign[1], 2, 1).await;
    client.revoke(&dead_foreign).await.unwrap();

    let bearer = |key: &str| format!("Bearer {key}");
    let one = |name, value: &str| vec![(name, value.to_owned())];
    let from = |key: &str, forwarded: &str| {
        vec![
            ("apikey", key.to_owned()),
            ("x-forwarded-for", forwarded.to_owned()),
        ]
    };
    let table = [
        (one("apikey", &plain), "192.0.2.1", &[][..], 200),
        (one("x-api-key", &plain), "192.0.2.1", &[], 200),
        (one("authorization", &bearer(&plain)), "192.0.2.1", &[], 200),
        (
            one("authorization", &format!("apikey  {plain}")),
            "192.0.2.1",
            &[],
            200,
        ),
        (
            vec![("apikey", plain.clone()), ("x-api-key", plain.clone())],
            "192.0.2.1",
            &[],
            200,
        ),
        (
            vec![
                ("apikey", plain.clone()),
                ("authorization", bearer(&limited)),
            ],
            "192.0.2.7",
            &[],
            401,
        ),
        (Vec::new(), "192.0.2.1", &[], 401),
        (
            one("authorization", "Basic dXNlcjpwYXNz"),
            "192.0.2.1",
            &[],
            401,
        ),
        (one("apikey", ""), "192.0.2.1", &[], 401),
        (one("apikey", "kw_ü"), "192.0.2.1", &[], 401),
        (
            vec![("apikey", plain.clone()), ("x-api-key", "kw_ü".to_owned())],
            "192.0.2.1",
            &[],
            401,
        ),
        (one("apikey", "kw_nonsense"), "192.0.2.1", &[], 401),
        (one("apikey", &"x".repeat(2_000)), "192.0.2.1", &[], 401),
        (one("apikey", &dead), "192.0.2.1", &[], 401),
        (one("apikey", &foreign[0]), "192.0.2.1", &["read"], 200),
        (
            one("authorization", &bearer(&foreign[0])),
            "192.0.2.1",
            &["write"],
            403,
        ),
        (one("apikey", &foreign[1]), "192.0.2.1", &[], 401),
        (one("apikey", &foreign[2]), "192.0.2.1", &[], 401),
        (one("apikey", &off), "192.0.2.1", &[], 401),
        (one("apikey", &plain), "192.0.2.1", &["read"], 403),
        (
            one("apikey", &limited),
            "192.0.2.7",
            &["read", "write"],
            200,
        ),
        (
            one("apikey", &limited),
            "192.0.2.7",
            &["read", "admin"],
            403,
        ),
        (one("apikey", &limited), "192.0.2.8", &[], 403),
        // The client lies, to the balancer or to the proxy.
        (from(&limited, "192.0.2.7"), "192.0.2.8", &[], 403),
        (from(&limited, "192.0.2.7, 192.0.2.8"), "10.0.0.1", &[], 403),
        (from(&limited, "6.6.6.6, 192.0.2.7"), "10.0.0.1", &[], 200),
        (
            from(&limited, "6.6.6.6, 192.0.2.7, 10.9.9.9"),
            "10.0.0.1",
            &["read"],
            200,
        ),
        (from(&limited, "nonsense"), "10.0.0.1", &[], 403),
        (from(&limited, "10.1.1.1"), "10.0.0.1", &[], 403),
        (from(&plain, "nonsense"), "10.0.0.1", &[], 200),
    ];
    for (row, (headers, peer, scopes, status)) in table.into_iter().enumerate() {
        let received = Received {
            headers,
            peer,
            scopes,
        };
        let layer = by_layer(&local, &received).await;
        assert_eq!(layer.status, status, "row {row}: {layer:?}");
        assert_eq!(
            layer.identity.len(),
            if status == 200 { 5 } else { 0 },
            "row {row}"
        );
        assert_eq!(layer, by_auth(&local, &received).await, "row {row}: /auth");
        assert_eq!(layer, by_check(&local, &received).await, "row {row}: Check");
    }

    // The very next request after a Revoke is refused at each door.
    let received = Received {
        headers: one("apikey", &plain),
        peer: "192.0.2.1",
        scopes: &[],
    };
    client.revoke(&plain_id).await.unwrap();
    for said in [
        by_layer(&local, &received).await,
        by_auth(&local, &received).await,
        by_check(&local, &received).await,
    ] {
        assert_eq!(said.status, 401, "{said:?}");
        assert!(said.body.contains("API_KEY_REVOKED"), "{said:?}");
    }
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_opens_no_door() {
    let (local, client) = start().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    let port = local.app.rest_address().unwrap();
    let issuer = client.token("issuer", &[Role::Issuer]).await.unwrap();
    let token = local.token.as_str();
    for (path, tokens) in [
        ("/auth?", &[token][..]),
        ("/auth?scope=", &[token]),
        ("/auth?scope", &[token]),
        ("/auth?scopes=read", &[token]),
        ("/auth?scope=read&x", &[token]),
        ("/auth?scope=two%20words", &[token]),
        ("/auth", &[]),
        ("/auth", &[""]),
        ("/auth", &["kwt_nonsense"]),
        ("/auth", &[&issuer]),
        ("/auth", &[token, token]),
    ] {
        let mut headers = vec![("apikey", key.as_str())];
        headers.extend(tokens.iter().map(|token| ("x-keyward-token", *token)));
        let answer = ask(port, "GET", path, &headers, "").await.unwrap();
        // `?` alone is no query.
        let expected = if path == "/auth?" { 200 } else { 503 };
        assert_eq!(answer.status, expected, "{path} {tokens:?}: {answer:?}");
        assert_eq!(answer.header("retry-after").is_some(), expected == 503);
    }
    // Each connection here is new, so its token is judged without a key, too.
    for (wrong, expected) in [(token, 401), ("kwt_nonsense", 503), (&issuer, 503)] {
        let headers = [("x-keyward-token", wrong)];
        let answer = ask(port, "GET", "/auth", &headers, "").await.unwrap();
        assert_eq!(answer.status, expected, "{answer:?}");
    }
    let received = |extension: (&str, &str)| {
        let mut request = check_of(&Received {
            headers: vec![("apikey", key.clone())],
            peer: "192.0.2.1",
            scopes: &[],
        });
        let attributes = request.attributes.as_mut().unwrap();
        let (name, value) = extension;
        attributes.context_extensions = [(name.to_owned(), value.to_owned())].into();
        request
    };
    for extension in [("scopes", "read"), ("scope", ""), ("scope", "tw\u{f6}")] {
        let refused = client.send(received(extension)).await.err().unwrap();
        assert_eq!(refused.code(), Code::Unavailable, "{extension:?}");
    }
    let scope = ("scope", "read");
    let stranger = Client::over(client.channel.clone(), None);
    let refused = stranger.send(received(scope)).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let denied = client.send(received(scope)).await.unwrap();
    assert_eq!(denied.status.unwrap().code, 7);
    local.app.stop().await;
}
