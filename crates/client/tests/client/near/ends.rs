//! How streams begin and end, and what they say of an instance's health.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tonic::Code;

use super::*;
use crate::fake::{client, status};

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
