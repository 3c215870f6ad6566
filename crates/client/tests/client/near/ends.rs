//! How streams begin and end, and what they say of an instance's health.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Code;

use super::*;
use crate::fake::{client, status};

fn off(poll: &WatchInvalidationsRequest) -> WatchInvalidationsResponse {
    WatchInvalidationsResponse {
        off: true,
        ..answer(poll, 5)
    }
}

#[tokio::test]
async fn an_instance_that_asks_for_off_is_the_trouble_until_another_one_helps() {
    let (mut hand, poll) = Hand::fresh(Fallback::Call).await;
    assert!(hand.near.trouble().is_none());
    hand.send(off(&poll)).await;
    hand.ended_by_off().await;
    let trouble = hand.near.trouble().unwrap();
    assert_eq!(trouble.kind, ErrorKind::Unavailable);
    assert!(trouble.message.contains(&hand.fake.url()), "{trouble}");
    let poll = hand.poll().await;
    hand.send(answer(&poll, 5)).await;
    hand.poll().await;
    assert!(hand.near.trouble().is_none());
}

#[tokio::test]
async fn a_near_cache_whose_instance_is_silent_closes_soon() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = client([url]).build().unwrap();
    let near = client.near_cache(NearCacheOptions::default()).unwrap();
    let _silent = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    near.close().await;
    let taken = start.elapsed();
    assert!(taken < Duration::from_millis(2_500), "{taken:?}");
}

/// A poll after that would leave a lease behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_near_cache_that_is_closed_while_it_opens_a_stream_only_says_off() {
    let fake = Fake::start().await;
    let (sender, mut opened) = mpsc::unbounded_channel();
    *fake.script.streams.lock() = Some(sender);
    fake.script.before(|_| {
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    });
    let near = fake.client().near_cache(NearCacheOptions::default());
    let near = near.unwrap();
    while fake.script.calls() == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let closing = tokio::spawn(async move { near.close().await });
    let mut stream = timeout(PATIENCE, opened.recv()).await.unwrap().unwrap();
    let first = timeout(PATIENCE, stream.polls.message()).await.unwrap();
    assert!(first.unwrap().unwrap().off);
    drop(stream);
    closing.await.unwrap();
}

/// Answers each poll of the near-caches of a service, and notes in `current` that it does.
fn follow(fake: &Fake, index: usize, current: &Arc<AtomicUsize>) {
    let (sender, mut opened) = mpsc::unbounded_channel::<Stream>();
    *fake.script.streams.lock() = Some(sender);
    let current = Arc::clone(current);
    tokio::spawn(async move {
        while let Some(mut stream) = opened.recv().await {
            while let Ok(Some(poll)) = stream.polls.message().await
                && !poll.off
            {
                current.store(index, SeqCst);
                sleep(Duration::from_millis(10)).await;
                let _ = stream.answers.send(Ok(answer(&poll, 5))).await;
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_that_are_answered_do_not_hide_failed_calls() {
    let fakes = [Fake::start().await, Fake::start().await];
    let current = Arc::new(AtomicUsize::new(0));
    for (index, fake) in fakes.iter().enumerate() {
        follow(fake, index, &current);
    }
    let client = client(fakes.iter().map(Fake::url)).build().unwrap();
    let near = client.near_cache(NearCacheOptions::default()).unwrap();
    while !near.is_fresh() {
        sleep(Duration::from_millis(10)).await;
    }
    let instance = &fakes[current.load(SeqCst)];
    instance.script.before(|_| {
        std::thread::sleep(Duration::from_millis(100));
        Err(status(Code::Unavailable, "NOT_FRESH"))
    });
    let before = instance.script.calls();
    for _ in 0..20 {
        let verdict = near.verify(asking()).await.unwrap();
        assert!(matches!(verdict, Verdict::Valid(_)));
    }
    let failed = instance.script.calls() - before;
    assert!((1..=2).contains(&failed), "{failed} of 20 calls");
}

#[tokio::test]
async fn the_oldest_uses_are_reported_first() {
    let (mut hand, poll) = Hand::fresh(Fallback::Call).await;
    let id = |number: u16| [&number.to_be_bytes()[..], &[7; 14]].concat();
    for number in 0..1_001 {
        let asking = VerifyRequest::new(Secret::new(format!("kw_{number}")));
        *hand.fake.script.verdict.lock() = v1::VerifyResponse {
            cache_entry: Some(v1::CacheEntry {
                ids: vec![id(number)],
                ..entry(5)
            }),
            ..valid()
        };
        let verdict = hand.near.verify(asking.clone()).await.unwrap();
        assert!(matches!(verdict, Verdict::Valid(_)));
        assert!(hand.near.cached(&asking).is_some());
    }
    hand.send(answer(&poll, 5)).await;
    let poll = hand.poll().await;
    assert!(poll.used.into_iter().eq((0..1_000).map(id)));
    hand.send(WatchInvalidationsResponse {
        poll: poll.poll,
        ..answer(&WatchInvalidationsRequest::default(), 5)
    })
    .await;
    assert_eq!(hand.poll().await.used, [id(1_000)]);
}
