//! Who may ask an agent what, and which calls it passes on.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use keyward_client::near::NearCacheOptions;
use keyward_client::{Client as KeywardClient, Secret};
use keyward_core::key::{Body, Prefix, RANDOM_LEN, TAG_LEN, TOKEN_PREFIX, TextForm};
use keyward_proto::v1::{self, Verdict};
use keyward_testkit::requests::{by_id, creating_token, getting, listing, slot};
use keyward_testkit::{PATIENCE, eventually, now, refused};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::{By, LOCAL, Site, World, check};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_local_token_asks_on_a_port() {
    let world = World::start(By::Ports).await;
    let (_, key) = world.admin.issue("42", "").await.unwrap();
    let channel = world.agent.channel().await;
    let with = |token| keyward_testkit::Client::over(channel.clone(), token);
    assert_eq!(
        with(Some(LOCAL)).verify(&key).await.unwrap(),
        Verdict::Valid
    );
    let missing = with(None).verify(&key).await;
    refused(missing, Code::Unauthenticated, "TOKEN_MISSING");
    let missing = check(&with(None), None, &key).await;
    refused(missing, Code::Unauthenticated, "TOKEN_MISSING");
    let (almost, unknown) = (LOCAL.replace('f', "e"), unknown_token());
    for wrong in ["kwt_x", &LOCAL[1..], &almost, "x", &unknown] {
        let refusal = with(Some(wrong)).verify(&key).await;
        refused(refusal, Code::Unauthenticated, "TOKEN_INVALID");
        let refusal = check(&with(None), Some(wrong), &key).await;
        refused(refusal, Code::Unauthenticated, "TOKEN_INVALID");
    }
    let own = with(Some(&world.own));
    assert_eq!(own.verify(&key).await.unwrap(), Verdict::Valid);
    refused(
        own.issue("43", "").await,
        Code::PermissionDenied,
        "ROLE_REQUIRED",
    );

    let bearer = format!("Bearer {LOCAL}");
    for (header, status) in [
        (None, 401),
        (Some(("authorization", bearer.as_str())), 200),
        (Some(("authorization", "Bearer kwt_x")), 401),
        (Some(("authorization", LOCAL)), 401),
    ] {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(header);
        let answer = world.http("POST", "/v1/keys:verify", &headers, r#"{"apiKey":"x"}"#);
        assert_eq!(answer.await.status, status, "{header:?}");
    }
    // A proxy without the right token is configured wrongly: that opens no door.
    for headers in [
        &[("apikey", key.as_str())][..],
        &[("apikey", key.as_str()), ("x-keyward-token", "x")],
        &[("apikey", key.as_str()), ("authorization", bearer.as_str())],
    ] {
        assert_eq!(world.http("GET", "/auth", headers, "").await.status, 503);
    }
    assert_eq!(world.auth(&key).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_of_a_socket_says_who_may_ask() {
    for (flag, expected) in [(None, 0o600), (Some("0660"), 0o660)] {
        let mut world = World::start_with(By::Sockets, |command| {
            command.args(flag.iter().flat_map(|mode| ["--socket-mode", mode]));
        })
        .await;
        let (_, key) = world.admin.issue("42", "").await.unwrap();
        assert_eq!(
            world.program().await.verify(&key).await.unwrap(),
            Verdict::Valid
        );
        let sockets = [&world.agent.grpc, &world.agent.http];
        let sockets = sockets.map(|at| at.strip_prefix("unix:").unwrap().to_owned());
        for socket in &sockets {
            let mode = std::fs::metadata(socket).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, expected);
        }
        assert!(world.agent.stop().success());
        let mut sockets = sockets.iter().map(std::path::Path::new);
        assert!(
            sockets.all(|socket| !socket.exists()),
            "a stop removes them"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_program_only_verifies() {
    for by in [By::Ports, By::Sockets] {
        let world = World::start(by).await;
        let (id, _) = world.admin.issue("42", "").await.unwrap();
        let program = world.program().await;
        let denied = (Code::PermissionDenied, "AGENT_VERIFIES_ONLY");
        refused(program.send(slot("43")).await, denied.0, denied.1);
        refused(program.send(by_id(&id)).await, denied.0, denied.1);
        refused(program.send(getting(&id)).await, denied.0, denied.1);
        refused(program.send(listing("42")).await, denied.0, denied.1);
        let create = creating_token("x", &[v1::Role::Admin]);
        refused(program.send(create).await, denied.0, denied.1);
        let polls = tokio_stream::empty::<v1::WatchInvalidationsRequest>();
        let watch = program.keys.clone().watch_invalidations(polls).await;
        refused(watch.map(drop), denied.0, denied.1);
        assert_eq!(world.admin.get(&id).await.unwrap().key_id, id);
        // Neither did Keyward hear of it.
        let asked = "keyward_rpc_total{method=\"CreateToken\",code=\"PERMISSION_DENIED\"}";
        assert_eq!(super::metric(world.keyward.http, asked).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_are_passed_on_with_their_own_token() {
    for by in [By::Ports, By::Sockets] {
        let mut world = World::start(by).await;
        let token = world.keyward.token();
        let passed = world.agent.client(Some(&token)).await;
        let (id, key) = passed.issue("42", "").await.unwrap();
        assert_eq!(passed.verify(&key).await.unwrap(), Verdict::Valid);
        let missing = passed.get("00000000-0000-7000-8000-000000000000").await;
        refused(missing, Code::NotFound, "KEY_NOT_FOUND");
        let page = passed.list("42").await.unwrap();
        assert_eq!(page.len(), 1, "a compressed answer passes, too");
        let events = v1::ListAuditEventsRequest {
            key_id: id.clone(),
            ..Default::default()
        };
        let events = passed.send(events).await.unwrap().events;
        let callers: Vec<_> = events.iter().map(|event| &*event.caller).collect();
        assert_eq!(callers, ["admin"], "not the agent");
        passed.revoke(&id).await.unwrap();
        assert_eq!(passed.verify(&key).await.unwrap(), Verdict::Revoked);

        // By JSON, too.
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let issue = world.http("POST", "/v1/keys:issue", &headers, r#"{"accountId":"7"}"#);
        let issued = issue.await;
        assert_eq!(issued.status, 200, "{issued:?}");
        assert_eq!(world.admin.list("7").await.unwrap().len(), 1);

        // Streams, and calls that need no token.
        let mut health = HealthClient::new(passed.channel.clone());
        let request = HealthCheckRequest::default();
        let mut watch = health.watch(request).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
        let near = KeywardClient::builder()
            .endpoint(match by {
                By::Ports => format!("http://{}", world.agent.grpc),
                By::Sockets => world.agent.grpc.clone(),
            })
            .token(Secret::new(token))
            .build()
            .unwrap()
            .near_cache(NearCacheOptions::default())
            .unwrap();
        let is_fresh = async || near.is_fresh();
        eventually("a near-cache behind the agent is fresh", PATIENCE, is_fresh).await;
        let mut files = super::reflection(&passed.channel, 1, true).await;
        assert!(files.message().await.unwrap().is_some());
        let begun = now();
        assert!(world.agent.stop().success(), "{}", world.agent.output());
        assert!(begun.elapsed().as_secs() < 8, "no stream delays a stop");
        let last = watch.message().await.unwrap().unwrap();
        assert_eq!(last.status, 2, "NOT_SERVING");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_python_calls_through_an_agent_by_reflection() {
    let world = World::start(By::Ports).await;
    let mut client = crate::python::client();
    let output = client
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/python/reflection.py"
        ))
        .arg(&world.agent.grpc)
        .arg(world.directory.path().join("data/admin.token"))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}\n{}", world.agent.output());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "all is well\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_local_token_needs_no_restart() {
    let world = World::start(By::Ports).await;
    let file = world.directory.path().join("local.token");
    let channel = world.agent.channel().await;
    let asks = async |token| {
        let program = keyward_testkit::Client::over(channel.clone(), Some(token));
        program.verify("x").await.map_err(|status| status.code())
    };
    let other = "another-token-0123456789";
    assert_eq!(asks(LOCAL).await, Ok(Verdict::Malformed));
    assert_eq!(asks(other).await, Err(Code::Unauthenticated));
    // A half-written file changes nothing.
    std::fs::write(&file, "").unwrap();
    let warned = async || world.agent.output().contains("the last local token stays");
    eventually("the agent warns", PATIENCE, warned).await;
    assert_eq!(asks(LOCAL).await, Ok(Verdict::Malformed));
    std::fs::write(&file, other).unwrap();
    let is_known = async || asks(other).await.is_ok();
    eventually("the new token is known", PATIENCE, is_known).await;
    assert_eq!(asks(LOCAL).await, Err(Code::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_no_secret() {
    let mut world = World::start_with(By::Ports, |command| {
        command.env("RUST_LOG", "trace");
    })
    .await;
    let (_, key) = world.admin.issue("42", "").await.unwrap();
    let admin = world.keyward.token();
    let program = world.program().await;
    let passed = world.agent.client(Some(&admin)).await;
    for _ in 0..2 {
        program.verify(&key).await.unwrap();
        passed.verify(&key).await.unwrap();
        world.auth(&key).await;
        world.json(&key).await;
        check(&program, world.local, &key).await.unwrap();
    }
    let wrong = world.agent.client(Some("kwt_wrong")).await;
    wrong.verify(&key).await.unwrap_err();
    assert!(world.agent.stop().success());
    let output = world.agent.output();
    assert!(output.contains("stopped"), "{output}");
    for secret in [&*key, &*admin, &*world.own, LOCAL, "kwt_wrong"] {
        // The part of a key that is no secret is shown in hints.
        assert!(!output.contains(&secret[4..]), "{output}");
    }
    let mut files = Vec::new();
    for file in std::fs::read_dir(world.directory.path()).unwrap() {
        files.push(file.unwrap().file_name().into_string().unwrap());
    }
    files.sort_unstable();
    assert_eq!(files, ["data", "local.token", "own.token"]);
}

/// A token that nobody has created.
fn unknown_token() -> String {
    let body = Body::new(&[7; RANDOM_LEN], &[7; TAG_LEN]);
    let token = TextForm::write(&Prefix::new(TOKEN_PREFIX).unwrap(), &body);
    token.expose().to_owned()
}

/// Notes the tokens that reach it, and answers nothing.
async fn eavesdropper() -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let token = request.headers().get("authorization");
                    let token = token.map_or("none", |token| token.to_str().unwrap());
                    noted
                        .lock()
                        .push(format!("{} {token}", request.uri().path()));
                    let headers = Status::unavailable("no").into_http::<()>().into_parts().0;
                    let response = http::Response::from_parts(headers, ());
                    let _ = respond.send_response(response, true);
                }
            });
        }
    });
    (address, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_token_never_leaves_the_machine() {
    let (address, heard) = eavesdropper().await;
    let site = Site::start().await;
    let world = site.agent(By::Ports, &format!("http://{address}"), |_| ());
    let program = world.program().await;
    program.verify("kw_x").await.unwrap_err();
    world.auth("kw_x").await;
    world.json("kw_x").await;
    check(&program, world.local, "kw_x").await.unwrap_err();
    program.send(slot("42")).await.unwrap_err();
    let bearer: MetadataValue<_> = format!("Bearer {LOCAL}").parse().unwrap();
    let mut reflection = ServerReflectionClient::new(program.channel.clone());
    let mut request = tonic::Request::new(tokio_stream::empty());
    request
        .metadata_mut()
        .insert("authorization", bearer.clone());
    reflection
        .server_reflection_info(request)
        .await
        .unwrap_err();
    // In another form than Keyward's it is refused here, as is the one of before or after a change.
    let bearer = format!("Bearer {LOCAL}");
    let odd = [
        LOCAL.to_owned(),
        format!("Basic {LOCAL}"),
        format!("{bearer} x"),
        "Bearer another-token-0123456789".to_owned(),
        "Bearer kwt_x".to_owned(),
    ];
    let several = [["Bearer kwt_x", &bearer], [&bearer, "Bearer kwt_x"]];
    let silent = keyward_testkit::Client::over(program.channel.clone(), None);
    let odd = odd.iter().map(|value| vec![value.as_str()]);
    for values in odd.chain(several.map(Vec::from)) {
        let mut request = tonic::Request::new(slot("42"));
        for value in &values {
            request
                .metadata_mut()
                .append("authorization", value.parse().unwrap());
        }
        let refusal = silent.keys.clone().issue(request).await;
        refused(refusal, Code::Unauthenticated, "TOKEN_INVALID");
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(values.iter().map(|value| ("authorization", *value)));
        let json = world.http("POST", "/v1/keys:issue", &headers, r#"{"accountId":"7"}"#);
        assert_eq!(json.await.status, 401, "{values:?}");
    }
    let token = unknown_token();
    let other = world.agent.client(Some(&token)).await;
    other.send(slot("42")).await.unwrap_err();

    let heard = heard.lock();
    let (own, other) = (format!("Bearer {}", world.own), format!("Bearer {token}"));
    let issue = format!("/Issue {other}");
    assert!(heard.iter().any(|call| call.ends_with(&issue)));
    assert!(
        heard
            .iter()
            .any(|call| call.ends_with("/ServerReflectionInfo none"))
    );
    for call in heard.iter() {
        let (path, token) = call.split_once(' ').unwrap();
        let expected = match path.rsplit('/').next().unwrap() {
            "Issue" => &other,
            "ServerReflectionInfo" => "none",
            _ => &own,
        };
        assert_eq!(token, expected, "{call}");
    }
}
