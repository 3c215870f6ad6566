//! Several endpoints, of which some are gone, hang, or refuse to answer.

use std::time::Duration;

use keyward_client::{Client, ErrorKind, Secret, Verdict, VerifyRequest};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Code;

use crate::fake::{Fake, PATIENCE, client};

async fn passes(client: &Client) -> bool {
    let verdict = client.verify(VerifyRequest::new(Secret::new("kw_a"))).await;
    matches!(verdict, Ok(Verdict::Valid(_)))
}

/// A port without a listener: it was free a moment ago.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn calls_are_shared_equally() {
    let fakes = [
        Fake::start().await,
        Fake::start().await,
        Fake::start().await,
    ];
    let client = client(fakes.iter().map(Fake::url)).build().unwrap();
    for _ in 0..30 {
        assert!(passes(&client).await);
    }
    for fake in &fakes {
        assert_eq!(fake.script.calls(), 10);
    }
}

#[tokio::test]
async fn missing_instance_is_avoided() {
    let fake = Fake::start().await;
    let client = client([closed_port().await, fake.url()]).build().unwrap();
    for _ in 0..20 {
        assert!(passes(&client).await);
    }
    assert_eq!(fake.script.calls(), 20);
}

/// A call that never left this machine has done nothing, so even CreateToken may go elsewhere.
#[tokio::test]
async fn unsent_call_goes_to_the_next_endpoint() {
    let fake = Fake::start().await;
    let list = format!(" {} ,{}\n", closed_port().await, fake.url());
    for turn in 1..=8 {
        let client = client([list.clone()]).build().unwrap();
        let token = client.call(keyward_client::v1::CreateTokenRequest::default());
        assert_eq!(token.await.unwrap().token, "kwt_new");
        assert_eq!(fake.script.calls(), turn);
    }
    // The call was sent, so it may have made a token.
    fake.script.refuse(Code::Unavailable, "OUTCOME_UNKNOWN");
    let client = client([fake.url(), fake.url()]).build().unwrap();
    let token = client.call(keyward_client::v1::CreateTokenRequest::default());
    assert_eq!(token.await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(fake.script.calls(), 9);
}

#[tokio::test]
async fn unavailable_instance_is_avoided_for_its_cooldown() {
    // The second one has too much to do for this caller.
    for (code, reason) in [
        (Code::Unavailable, "NOT_FRESH"),
        (Code::ResourceExhausted, "OVER_LIMIT"),
    ] {
        let (fresh, stale) = (Fake::start().await, Fake::start().await);
        stale.script.refuse(code, reason);
        let client = client([stale.url(), fresh.url()]).build().unwrap();
        let start = Instant::now();
        for _ in 0..50 {
            assert!(passes(&client).await, "{reason}");
        }
        assert_eq!(fresh.script.calls(), 50);
        // One call at first, and one after each cooldown.
        let cooldowns = start.elapsed().as_millis() / 500;
        let calls = stale.script.calls() as u128;
        assert!(
            1 <= calls && calls <= 1 + cooldowns,
            "{reason}: {calls} calls in {cooldowns} cooldowns"
        );

        stale.script.before(|_| Ok(()));
        let before = stale.script.calls();
        while stale.script.calls() < before + 5 {
            assert!(passes(&client).await);
            assert!(
                start.elapsed() < PATIENCE,
                "the instance gets its share again"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Otherwise a stolen token would read as many times more as there are instances.
#[tokio::test]
async fn a_used_up_allowance_is_not_tried_elsewhere() {
    let (one, other) = (Fake::start().await, Fake::start().await);
    let client = client([one.url(), other.url()]).build().unwrap();
    for fake in [&one, &other] {
        fake.script
            .refuse(Code::ResourceExhausted, "REVEALS_EXHAUSTED");
    }
    for turn in 1..=4 {
        let issue = client.issue(keyward_client::v1::IssueRequest::default());
        let error = issue.await.unwrap_err();
        assert_eq!(error.reason.as_deref(), Some("REVEALS_EXHAUSTED"));
        assert_eq!(one.script.calls() + other.script.calls(), turn);
    }
    assert_eq!(one.script.calls(), 2, "no instance is avoided for it");
}

fn passed(client: &Client) -> impl Future<Output = bool> {
    let path = "http://keyward/keyward.v1.ApiKeyService/Verify";
    let frame = tonic::body::Body::new("\0".repeat(5));
    let call = http::Request::post(path)
        .header("content-type", "application/grpc")
        .body(frame);
    let passed = client.pass_on(call.unwrap());
    async move {
        let answer = passed.await.unwrap();
        !answer.headers().contains_key("grpc-status")
    }
}

/// A program may stop waiting for any reason, and many calls take long.
#[tokio::test(flavor = "multi_thread")]
async fn a_passed_call_that_its_caller_drops_says_nothing_of_the_endpoint() {
    let (slow, other) = (Fake::start().await, Fake::start().await);
    let client = client([slow.url(), other.url()]).build().unwrap();
    slow.script.before(|_| {
        std::thread::sleep(Duration::from_millis(600));
        Ok(())
    });
    let mut dropped = 0;
    while dropped == 0 {
        let waiting = tokio::time::timeout(Duration::from_millis(400), passed(&client));
        dropped += usize::from(waiting.await.is_err());
    }
    slow.script.before(|_| Ok(()));
    let before = slow.script.calls();
    for _ in 0..10 {
        assert!(passes(&client).await);
    }
    assert_eq!(slow.script.calls() - before, 5, "it has its share");
}

#[tokio::test]
async fn an_instance_that_refuses_passed_calls_as_unavailable_is_avoided() {
    let (sound, stale) = (Fake::start().await, Fake::start().await);
    let client = client([sound.url(), stale.url()]).build().unwrap();
    stale.script.refuse(Code::Unavailable, "NOT_FRESH");
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(!passed(&client).await);
    }
    assert_eq!(failed, 1, "the endpoint has its cooldown");
    // What is wrong with a call says nothing of the instance.
    for fake in [&sound, &stale] {
        fake.script
            .refuse(Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    let before = stale.script.calls();
    for _ in 0..10 {
        assert!(!passed(&client).await);
    }
    assert!(stale.script.calls() - before >= 4, "it has its share");
}

/// For example an instance with a damaged store, or a proxy with its own error.
#[tokio::test]
async fn broken_instance_is_avoided_for_reads_only() {
    for code in [Code::Internal, Code::Unknown, Code::Unimplemented] {
        let (sound, broken) = (Fake::start().await, Fake::start().await);
        broken.script.refuse(code, "");
        let client = client([broken.url(), sound.url()]).build().unwrap();
        for _ in 0..10 {
            assert!(passes(&client).await, "{code:?}");
        }
        assert!(
            (1..=3).contains(&broken.script.calls()),
            "the endpoint has a cooldown"
        );
    }
    // The change may have happened, and INTERNAL does not promise that a repetition is safe.
    let (one, other) = (Fake::start().await, Fake::start().await);
    for fake in [&one, &other] {
        fake.script.refuse(Code::Internal, "INTERNAL");
    }
    let client = client([one.url(), other.url()]).build().unwrap();
    let revoke = client.revoke(keyward_client::v1::RevokeRequest::default());
    assert_eq!(revoke.await.unwrap_err().kind, ErrorKind::Internal);
    assert_eq!(one.script.calls() + other.script.calls(), 1);
}

#[tokio::test]
async fn unconfirmed_change_is_repeated_without_a_cooldown() {
    let (one, other) = (Fake::start().await, Fake::start().await);
    for fake in [&one, &other] {
        fake.script.refuse(Code::Unavailable, "REVOKE_UNCONFIRMED");
    }
    let client = client([one.url(), other.url()]).build().unwrap();
    let revoke = client.revoke(keyward_client::v1::RevokeRequest::default());
    let error = revoke.await.unwrap_err();
    assert_eq!(error.reason.as_deref(), Some("REVOKE_UNCONFIRMED"));
    assert!(one.script.calls() >= 1 && other.script.calls() >= 1);
    assert_eq!(one.script.calls() + other.script.calls(), 4);
}

/// A paused instance accepts connections but never answers.
#[tokio::test]
async fn silent_instance_leaves_time_for_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = format!("http://{}", listener.local_addr().unwrap());
    let fake = Fake::start().await;
    let both = client([hangs.clone(), fake.url()]);
    let both = both.timeout(Duration::from_secs(4)).build().unwrap();
    for _ in 0..4 {
        assert!(passes(&both).await);
    }
    // Alone it may use the whole time limit.
    let alone = client([hangs]).timeout(Duration::from_millis(300));
    let alone = alone.build().unwrap();
    let start = Instant::now();
    let error = alone.verify(VerifyRequest::new(Secret::new("kw_a"))).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::Unavailable);
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < PATIENCE,
        "{took:?}"
    );
}

/// A Revoke may take as long as `max_staleness`, so no other instance gets the call meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn slow_change_keeps_its_instance() {
    let (one, other) = (Fake::start().await, Fake::start().await);
    for fake in [&one, &other] {
        fake.script.before(|_| {
            std::thread::sleep(Duration::from_millis(3300));
            Ok(())
        });
    }
    let client = client([one.url(), other.url()]);
    let client = client
        .change_timeout(Duration::from_secs(6))
        .build()
        .unwrap();
    let revoke = client.revoke(keyward_client::v1::RevokeRequest::default());
    assert_eq!(revoke.await.unwrap().revoked_count, 1);
    assert_eq!(one.script.calls() + other.script.calls(), 1);
}

#[tokio::test]
async fn client_reconnects_by_itself() {
    let fake = Fake::start().await;
    let client = fake.client();
    assert!(passes(&client).await);
    let address = fake.running.stop().await;
    let error = client.verify(VerifyRequest::new(Secret::new("kw_a"))).await;
    let error = error.unwrap_err();
    assert_eq!(
        (error.kind, &error.reason),
        (ErrorKind::Unavailable, &None),
        "{error}"
    );
    let _again = Fake::start_on(address).await;
    let start = Instant::now();
    while !passes(&client).await {
        assert!(start.elapsed() < PATIENCE, "the client does not reconnect");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
