//! An agent that is cut off from Keyward: it answers what it can prove, then nothing.

use std::time::Duration;

use keyward_proto::v1::{self, Verdict};
use keyward_testkit::requests::{by_id, verifying, verifying_strongly};
use keyward_testkit::{PATIENCE, Proxy, eventually, http_get, now};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::{By, Site, World, check};

/// The bound for `max_staleness` of 2 s, with room for a busy machine.
const BOUND: Duration = Duration::from_secs(3);

/// The statuses of health.
const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;

/// An agent behind a proxy.
async fn behind_proxy(by: By, flags: &[&str]) -> (World, Proxy) {
    let site = Site::start().await;
    let proxy = Proxy::to(site.keyward.grpc);
    let url = format!("http://{}", proxy.address());
    let world = site.agent(by, &url, |command| {
        command.args(flags);
    });
    (world, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_an_agent_answers_what_it_can_prove_and_then_says_unavailable() {
    for by in [By::Ports, By::Sockets] {
        let (world, proxy) = behind_proxy(by, &["--timeout", "300ms"]).await;
        let program = world.program().await;
        let (id, key) = world.admin.issue("42", "").await.unwrap();
        assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
        proxy.black_hole(true);
        let cut = now();
        assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
        let strong = program.send(verifying_strongly(&key)).await.unwrap_err();
        assert_eq!(strong.code(), Code::Unavailable, "STRONG takes a call");
        let unknown = program.verify("kw_x").await.unwrap_err();
        assert_eq!(
            unknown.get_details_error_info().unwrap().reason,
            "AGENT_CUT_OFF"
        );
        let is_silent = async || program.verify(&key).await.is_err();
        eventually("the agent is not fresh", BOUND, is_silent).await;
        // The Revoke waits until then, and not for longer.
        world.admin.revoke(&id).await.unwrap();
        assert!(cut.elapsed() < BOUND + BOUND);
        for _ in 0..3 {
            let refused = program.verify(&key).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable);
            let refused = check(&program, world.local, &key).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable);
            assert_eq!(world.auth(&key).await.status, 503);
            assert_eq!(world.json(&key).await.status, 503);
        }
        let ready = http_get(world.agent.side, "/readyz").await;
        assert!(
            ready.contains(" 503 ") && ready.contains("not fresh"),
            "{ready}"
        );
        assert!(http_get(world.agent.side, "/livez").await.contains(" 200 "));
        // Other calls get no answer, and say so.
        let passed = world.agent.client(Some(&world.keyward.token())).await;
        let waiting = tokio::time::timeout(Duration::from_millis(300), passed.get(&id)).await;
        assert!(waiting.is_err(), "its caller says how long it waits");

        proxy.black_hole(false);
        let is_back = async || program.verify(&key).await.is_ok();
        eventually("Keyward answers again", PATIENCE, is_back).await;
        assert_eq!(program.verify(&key).await.unwrap(), Verdict::Revoked);
        let is_ready = async || {
            http_get(world.agent.side, "/readyz")
                .await
                .contains(" 200 ")
        };
        eventually("the agent is fresh again", PATIENCE, is_ready).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_not_call_fails_at_once_while_it_is_not_fresh() {
    let (world, proxy) = behind_proxy(By::Ports, &["--fallback", "fail"]).await;
    let program = world.program().await;
    let (_, key) = world.admin.issue("42", "").await.unwrap();
    assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
    proxy.refuse(true);
    proxy.cut();
    let is_silent = async || program.verify(&key).await.is_err();
    eventually("the agent is not fresh", BOUND, is_silent).await;
    let begun = now();
    for _ in 0..20 {
        let refused = program.verify(&key).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "it does not wait");
    proxy.refuse(false);
    let is_back = async || program.verify(&key).await.is_ok();
    eventually("the agent is fresh again", PATIENCE, is_back).await;
}

/// Each of these calls waits for Keyward. Anybody who can connect can send them: Keyward judges their token.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_keyward_delay_no_verdict() {
    let (world, proxy) = behind_proxy(By::Ports, &[]).await;
    let program = world.program().await;
    let (_, key) = world.admin.issue("42", "").await.unwrap();
    assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
    let (token, mut clients) = (world.keyward.token(), Vec::new());
    for _ in 0..4 {
        clients.push((
            world.agent.client(Some(&token)).await,
            world.program().await,
        ));
    }
    let batch = |key: &str| v1::VerifyBatchRequest {
        requests: vec![verifying(key)],
    };
    proxy.black_hole(true);
    let mut waiting = tokio::task::JoinSet::new();
    for (passed, program) in clients {
        for _ in 0..4 {
            let (passed, program) = (passed.clone(), program.clone());
            waiting.spawn(async move { passed.list("42").await.map(drop) });
            waiting.spawn(async move { program.send(batch("kw_x")).await.map(drop) });
        }
    }
    // The near-cache is fresh for another 1.5 s.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = now();
    let known = program.send(batch(&key)).await.unwrap();
    assert_eq!(known.responses[0].verdict(), Verdict::Valid);
    assert!(begun.elapsed() < Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_starts_before_keyward_and_serves_when_that_does() {
    let site = Site::start().await;
    let proxy = Proxy::to(site.keyward.grpc);
    proxy.refuse(true);
    let url = format!("http://{}", proxy.address());
    let world = site.agent(By::Ports, &url, |_| ());
    let program = world.program().await;
    let refused = program.verify("x").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    proxy.refuse(false);
    let is_there = async || program.verify("x").await.is_ok();
    eventually("Keyward answers", PATIENCE, is_there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_delay_no_verdict() {
    let world = World::start(By::Ports).await;
    let program = world.program().await;
    let (_, key) = world.admin.issue("42", "").await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..3 {
        let agent = Endpoint::from_shared(format!("http://{}", world.agent.grpc)).unwrap();
        let small = agent.initial_stream_window_size(64 << 10);
        let channel = small.connect().await.unwrap();
        unread.push(super::reflection(&channel, 200, true).await);
    }
    // The answers arrive up to the last window.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..10 {
        let begun = now();
        let verdict = program.send(verifying_strongly(&key)).await.unwrap();
        assert_eq!(verdict.verdict(), Verdict::Valid);
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        let ready = http_get(world.agent.side, "/readyz").await;
        assert!(ready.contains(" 200 "), "{ready}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_the_agents_own_for_many_clients() {
    let (world, proxy) = behind_proxy(By::Ports, &["--fallback", "fail"]).await;
    let mut watches = Vec::new();
    for _ in 0..12 {
        let mut health = HealthClient::new(world.agent.channel().await);
        let watch = health.watch(HealthCheckRequest::default()).await;
        let mut watch = watch.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status, SERVING);
        watches.push(watch);
    }
    proxy.refuse(true);
    proxy.cut();
    for watch in &mut watches {
        let next = tokio::time::timeout(PATIENCE, watch.message()).await;
        assert_eq!(next.unwrap().unwrap().unwrap().status, NOT_SERVING);
    }
    proxy.refuse(false);
    for watch in &mut watches {
        let next = tokio::time::timeout(PATIENCE, watch.message()).await;
        assert_eq!(next.unwrap().unwrap().unwrap().status, SERVING);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_waits_for_no_agent_that_has_stopped() {
    let mut world = World::start(By::Sockets).await;
    let program = world.program().await;
    let (id, key) = world.admin.issue("42", "").await.unwrap();
    assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
    let open = "keyward_near_caches";
    assert_eq!(super::metric(world.keyward.http, open).await, 1);
    let ended = async |how: &str| {
        let line = format!("keyward_near_cache_streams_total{{end=\"{how}\"}}");
        super::metric(world.keyward.http, &line).await
    };
    let off = ended("off").await;
    assert!(world.agent.stop().success(), "{}", world.agent.output());
    assert_eq!((ended("off").await, ended("broken").await), (off + 1, 0));
    let begun = now();
    world.admin.send(by_id(&id)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_token_is_revoked_answers_nothing_and_blames_nobody() {
    let world = World::start(By::Ports).await;
    let program = world.program().await;
    let (_, key) = world.admin.issue("42", "").await.unwrap();
    assert_eq!(program.verify(&key).await.unwrap(), Verdict::Valid);
    let tokens = v1::ListTokensRequest::default();
    let tokens = world.admin.send(tokens).await.unwrap().caller_tokens;
    let own = tokens.iter().find(|token| token.name == "agent").unwrap();
    let revoke = keyward_testkit::requests::revoking_token(&own.token_id);
    world.admin.send(revoke).await.unwrap();
    for _ in 0..3 {
        let refused = program.verify(&key).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert_eq!(world.auth(&key).await.status, 503);
    }
    let output = world.agent.output();
    assert!(output.contains("refuses the agent's own token"), "{output}");
}
