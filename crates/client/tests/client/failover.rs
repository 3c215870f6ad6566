//! Several endpoints, of which some are gone, hang, or say that they cannot answer.

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

/// A port on which nobody listens: it was free a moment ago.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn each_instance_has_its_share() {
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
async fn one_that_is_gone_is_passed_over() {
    let fake = Fake::start().await;
    let client = client([nobody().await, fake.url()]).build().unwrap();
    for _ in 0..20 {
        assert!(passes(&client).await);
    }
    assert_eq!(fake.script.calls(), 20);
}

#[tokio::test]
async fn one_that_cannot_answer_is_passed_over_and_rests() {
    let (fresh, stale) = (Fake::start().await, Fake::start().await);
    stale.script.refuse(Code::Unavailable, "NOT_FRESH");
    let client = client([stale.url(), fresh.url()]).build().unwrap();
    let begun = Instant::now();
    for _ in 0..50 {
        assert!(passes(&client).await);
    }
    assert_eq!(fresh.script.calls(), 50);
    // Once at first, and once after each rest.
    let rests = begun.elapsed().as_millis() / 500;
    let asked = stale.script.calls() as u128;
    assert!(
        1 <= asked && asked <= 1 + rests,
        "{asked} times in {rests} rests"
    );

    stale.script.before(|_| Ok(()));
    let before = stale.script.calls();
    while stale.script.calls() < before + 5 {
        assert!(passes(&client).await);
        assert!(begun.elapsed() < PATIENCE, "it has its share again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One that cannot read what it finds, or a proxy that has an error of its own.
#[tokio::test]
async fn one_that_is_broken_is_passed_over_when_nothing_is_changed() {
    for code in [Code::Internal, Code::Unknown, Code::Unimplemented] {
        let (sound, broken) = (Fake::start().await, Fake::start().await);
        broken.script.refuse(code, "");
        let client = client([broken.url(), sound.url()]).build().unwrap();
        for _ in 0..10 {
            assert!(passes(&client).await, "{code:?}");
        }
        assert!((1..=3).contains(&broken.script.calls()), "it rests");
    }
    // A change may have been made: it is not made again for an error that promises nothing.
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
async fn a_change_that_is_not_confirmed_is_asked_of_another_that_rests_not() {
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

/// It takes the connection and says nothing: an instance that is paused.
#[tokio::test]
async fn one_that_hangs_leaves_time_for_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = format!("http://{}", listener.local_addr().unwrap());
    let fake = Fake::start().await;
    let both = client([hangs.clone(), fake.url()]);
    let both = both.timeout(Duration::from_secs(4)).build().unwrap();
    for _ in 0..4 {
        assert!(passes(&both).await);
    }
    // Alone it takes all the time there is, and no more.
    let alone = client([hangs]).timeout(Duration::from_millis(300));
    let alone = alone.build().unwrap();
    let begun = Instant::now();
    let error = alone.verify(VerifyRequest::new(Secret::new("kw_a"))).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::Unavailable);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < PATIENCE,
        "{took:?}"
    );
}

/// A Revoke may lawfully take as long as `max_staleness`, so nobody else is asked meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_change_is_waited_for() {
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
async fn it_connects_again_by_itself() {
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
    let begun = Instant::now();
    while !passes(&client).await {
        assert!(begun.elapsed() < PATIENCE, "it does not connect again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
