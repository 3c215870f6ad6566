//! A near-cache whose instance a test plays by hand: each rule of the client at its line.

mod ends;

use std::time::Duration;

use keyward_client::near::{Fallback, NearCache, NearCacheOptions};
use keyward_client::v1::{
    self, Epoch, Invalidation, WatchInvalidationsRequest, WatchInvalidationsResponse,
};
use keyward_client::{ErrorKind, Secret, Verdict, VerifyRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::fake::{Fake, PATIENCE, Stream, valid};

const ID: [u8; 16] = [7; 16];
const EPOCH: Epoch = Epoch {
    system: 1,
    timeline: 1,
    incarnation: 1,
};
/// For how long an answer keeps the near-cache fresh, unless a test says otherwise.
const FRESH: Duration = Duration::from_secs(30);

/// An instance, played by the test.
struct Hand {
    fake: Fake,
    near: NearCache,
    opened: mpsc::UnboundedReceiver<Stream>,
    stream: Stream,
}

fn time(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

fn asking() -> VerifyRequest {
    VerifyRequest::new(Secret::new("kw_key"))
}

/// The answer to a poll, which tells nothing.
fn answer(poll: &WatchInvalidationsRequest, applied: u64) -> WatchInvalidationsResponse {
    WatchInvalidationsResponse {
        poll: poll.poll,
        epoch: Some(EPOCH),
        applied,
        fresh_for: Some(FRESH.try_into().unwrap()),
        store_time: Some(time(1_000)),
        ..Default::default()
    }
}

fn entry(revision: u64) -> v1::CacheEntry {
    v1::CacheEntry {
        epoch: Some(EPOCH),
        revision,
        ids: vec![ID.to_vec()],
        store_time: Some(time(1_000)),
        ..Default::default()
    }
}

impl Hand {
    async fn start(fallback: Fallback) -> Self {
        let fake = Fake::start().await;
        let (sender, mut opened) = mpsc::unbounded_channel();
        *fake.script.streams.lock() = Some(sender);
        let mut options = NearCacheOptions::default();
        options.fallback = fallback;
        let near = fake.client().near_cache(options).unwrap();
        let mut hand = Self {
            stream: opened.recv().await.unwrap(),
            fake,
            near,
            opened,
        };
        // The first answer tells the epoch. It is not taken.
        let poll = hand.poll().await;
        assert_eq!((poll.epoch, poll.applied), (None, 0));
        hand.send(answer(&poll, 5)).await;
        hand.ended_by_off().await;
        hand
    }

    /// Starts with a near-cache that is fresh and has applied the log up to 5.
    async fn fresh(fallback: Fallback) -> (Self, WatchInvalidationsRequest) {
        let mut hand = Self::start(fallback).await;
        let poll = hand.poll().await;
        assert_eq!((poll.epoch, poll.applied), (Some(EPOCH), 0));
        let reset = WatchInvalidationsResponse {
            reset: true,
            ..answer(&poll, 5)
        };
        hand.send(reset).await;
        let poll = hand.poll().await;
        assert_eq!(poll.applied, 5, "the poll acknowledges what was taken");
        assert!(hand.near.is_fresh());
        (hand, poll)
    }

    async fn poll(&mut self) -> WatchInvalidationsRequest {
        let poll = timeout(PATIENCE, self.stream.polls.message()).await;
        poll.unwrap().unwrap().unwrap()
    }

    async fn send(&self, answer: WatchInvalidationsResponse) {
        self.stream.answers.send(Ok(answer)).await.unwrap();
    }

    /// The near-cache says that it is off, and opens another stream.
    async fn ended_by_off(&mut self) {
        assert!(self.poll().await.off);
        assert!(!self.near.is_fresh(), "off, but fresh");
        self.stream = timeout(PATIENCE, self.opened.recv())
            .await
            .unwrap()
            .unwrap();
    }

    /// Verifies a key whose response has this entry.
    async fn verify(&self, entry: Option<v1::CacheEntry>) {
        *self.fake.script.verdict.lock() = v1::VerifyResponse {
            cache_entry: entry,
            ..valid()
        };
        let verdict = self.near.verify(asking()).await.unwrap();
        assert!(matches!(verdict, Verdict::Valid(_)));
    }

    fn is_kept(&self) -> bool {
        self.near.cached(&asking()).is_some()
    }
}

#[tokio::test]
async fn a_key_is_kept_while_it_is_fresh_and_unchanged() {
    let (mut hand, poll) = Hand::fresh(Fallback::Call).await;
    hand.verify(Some(entry(5))).await;
    assert!(hand.is_kept());
    let told = WatchInvalidationsResponse {
        invalidations: vec![Invalidation {
            id: ID.to_vec(),
            revision: 6,
        }],
        ..answer(&poll, 6)
    };
    hand.send(told).await;
    assert_eq!(hand.poll().await.applied, 6);
    assert!(!hand.is_kept());
    // A response from before the change came late: it is not used. One from after it is.
    hand.verify(Some(entry(5))).await;
    assert!(!hand.is_kept());
    hand.verify(Some(entry(6))).await;
    assert!(hand.is_kept());
    let stats = hand.near.stats();
    assert_eq!((stats.keys, stats.resets), (1, 1));
}

/// I2: the near-cache may know of a later change than the entry, so it never raises its stamp.
#[tokio::test]
async fn an_entry_keeps_the_stamp_of_its_response() {
    let (mut hand, poll) = Hand::fresh(Fallback::Call).await;
    hand.verify(Some(entry(5))).await;
    hand.send(answer(&poll, 9)).await;
    let poll = hand.poll().await;
    assert!(hand.is_kept());
    let reset = WatchInvalidationsResponse {
        reset: true,
        ..answer(&poll, 9)
    };
    hand.send(reset).await;
    hand.poll().await;
    assert!(!hand.is_kept());
}

#[tokio::test]
async fn freshness_counts_from_the_sending_of_the_poll() {
    let (mut hand, poll) = Hand::fresh(Fallback::Fail).await;
    let held = Duration::from_millis(900);
    let fresh_for = |limit: Duration| Some(limit.try_into().unwrap());
    // The end of freshness never falls, so the near-cache starts again.
    hand.send(WatchInvalidationsResponse {
        off: true,
        ..answer(&poll, 5)
    })
    .await;
    hand.ended_by_off().await;
    let poll = hand.poll().await;
    sleep(held).await;
    hand.send(WatchInvalidationsResponse {
        fresh_for: fresh_for(held),
        ..answer(&poll, 5)
    })
    .await;
    let poll = hand.poll().await;
    assert!(
        !hand.near.is_fresh(),
        "fresh from the arrival of the answer"
    );
    hand.send(WatchInvalidationsResponse {
        fresh_for: fresh_for(FRESH),
        ..answer(&poll, 5)
    })
    .await;
    hand.poll().await;
    assert!(hand.near.is_fresh());
}

#[tokio::test]
async fn an_answer_of_another_epoch_is_not_taken() {
    let (mut hand, poll) = Hand::fresh(Fallback::Call).await;
    hand.verify(Some(entry(5))).await;
    let promoted = Epoch {
        timeline: 2,
        ..EPOCH
    };
    hand.send(WatchInvalidationsResponse {
        epoch: Some(promoted),
        ..answer(&poll, 7)
    })
    .await;
    hand.ended_by_off().await;
    let poll = hand.poll().await;
    assert_eq!((poll.epoch, poll.applied), (Some(promoted), 0));
    hand.send(WatchInvalidationsResponse {
        epoch: Some(promoted),
        ..answer(&poll, 7)
    })
    .await;
    hand.poll().await;
    assert!(hand.near.is_fresh());
    assert!(!hand.is_kept(), "an entry of the old epoch");
    hand.verify(Some(entry(9))).await;
    assert!(!hand.is_kept(), "a late entry of the old epoch");
}

#[tokio::test]
async fn an_unreadable_answer_or_entry_is_not_used() {
    let (mut hand, mut poll) = Hand::fresh(Fallback::Call).await;
    type Break = fn(&mut WatchInvalidationsResponse);
    let breaks: [Break; 4] = [
        |answer| answer.epoch = None,
        |answer| answer.store_time = None,
        |answer| {
            let (id, revision) = (vec![1; 15], 6);
            answer.invalidations = vec![Invalidation { id, revision }];
        },
        |answer| {
            answer.fresh_for = Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            })
        },
    ];
    for wrong in breaks {
        let mut broken = answer(&poll, 6);
        wrong(&mut broken);
        hand.send(broken).await;
        hand.ended_by_off().await;
        poll = hand.poll().await;
        assert_eq!(poll.applied, 5);
        hand.send(answer(&poll, 5)).await;
        poll = hand.poll().await;
    }
    type Spoil = fn(&mut v1::CacheEntry);
    let spoils: [Spoil; 5] = [
        |entry| entry.epoch = None,
        |entry| entry.store_time = None,
        |entry| entry.ids.clear(),
        |entry| entry.ids[0].truncate(15),
        |entry| entry.allowed_cidrs = vec!["10.0.0.0/99".to_owned()],
    ];
    for wrong in spoils {
        let mut spoiled = entry(5);
        wrong(&mut spoiled);
        hand.verify(Some(spoiled)).await;
        assert!(!hand.is_kept());
    }
    hand.verify(None).await;
    assert!(!hand.is_kept());
}

/// An answer to another poll than the open one says nothing about it.
#[tokio::test]
async fn an_answer_out_of_order_ends_the_stream() {
    let (mut hand, poll) = Hand::fresh(Fallback::Call).await;
    let early = WatchInvalidationsRequest {
        poll: poll.poll - 1,
        ..poll
    };
    hand.send(answer(&early, 9)).await;
    hand.stream = timeout(PATIENCE, hand.opened.recv())
        .await
        .unwrap()
        .unwrap();
    let next = hand.poll().await;
    assert_eq!(next.applied, 5);
    assert!(next.poll > poll.poll, "a number is never used again");
}

#[tokio::test]
async fn a_near_cache_that_is_closed_says_so_and_fails() {
    let (mut hand, _) = Hand::fresh(Fallback::Fail).await;
    hand.verify(Some(entry(5))).await;
    let near = hand.near.clone();
    let closing = tokio::spawn(async move { near.close().await });
    assert!(hand.poll().await.off);
    assert!(!hand.near.is_fresh() && !hand.is_kept());
    let Hand { stream, near, .. } = hand;
    drop(stream);
    closing.await.unwrap();
    let refused = near.verify(asking()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
}

/// A silent instance is given up, and the near-cache is fresh until the end that it knows.
#[tokio::test]
async fn a_silent_instance_is_left() {
    let (mut hand, poll) = Hand::fresh(Fallback::Call).await;
    hand.verify(Some(entry(5))).await;
    let silent = std::mem::replace(
        &mut hand.stream,
        timeout(PATIENCE, hand.opened.recv())
            .await
            .unwrap()
            .unwrap(),
    );
    assert!(hand.is_kept());
    // What comes late on the old stream is not taken.
    let _ = silent.answers.send(Ok(answer(&poll, 99))).await;
    assert_eq!(hand.poll().await.applied, 5);
}
