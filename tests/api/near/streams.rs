//! WatchInvalidations by hand: what a wrong or slow near-cache gets.

use std::time::Duration;

use keyward_proto::v1::{self, Role, WatchInvalidationsRequest as Poll};
use keyward_testkit::requests::*;
use keyward_testkit::{Client, Local, PATIENCE, eventually, http_get, now};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::ROLES;

/// A near-cache without a cache.
struct Hand {
    polls: mpsc::Sender<Poll>,
    answers: Streaming<v1::WatchInvalidationsResponse>,
    last: u64,
}

impl Hand {
    async fn open(client: &Client) -> Result<Self, Status> {
        let (polls, receiver) = mpsc::channel(4);
        let mut keys = client.keys.clone();
        let opened = keys
            .watch_invalidations(ReceiverStream::new(receiver))
            .await?;
        Ok(Self {
            polls,
            answers: opened.into_inner(),
            last: 0,
        })
    }

    async fn send(&mut self, poll: Poll) -> Result<Option<v1::WatchInvalidationsResponse>, Status> {
        self.polls.send(poll).await.unwrap();
        self.answers.message().await
    }

    /// Polls with an epoch and `applied`.
    async fn poll(
        &mut self,
        known: Option<(v1::Epoch, u64)>,
    ) -> Result<v1::WatchInvalidationsResponse, Status> {
        self.last += 1;
        let poll = Poll {
            poll: self.last,
            epoch: known.map(|(epoch, _)| epoch),
            applied: known.map_or(0, |(_, applied)| applied),
            ..Poll::default()
        };
        Ok(self.send(poll).await?.unwrap())
    }

    /// Polls until it has acknowledged what the instance knows.
    async fn follow(&mut self) -> (v1::Epoch, u64) {
        let answer = self.poll(None).await.unwrap();
        let known = (answer.epoch.unwrap(), answer.applied);
        let answer = self.poll(Some(known)).await.unwrap();
        assert!(answer.fresh_for.is_some());
        known
    }
}

async fn watcher(local: &Local) -> Client {
    local.client_as(&ROLES).await
}

#[tokio::test]
async fn a_stream_needs_its_roles() {
    let local = Local::start().await;
    for role in [Role::NearCache, Role::Verifier, Role::Admin, Role::Reader] {
        let refused = Hand::open(&local.client_as(&[role]).await).await;
        assert_eq!(refused.err().unwrap().code(), Code::PermissionDenied);
    }
    assert!(Hand::open(&watcher(&local).await).await.is_ok());
}

#[tokio::test]
async fn polls_out_of_order_end_the_stream() {
    let local = Local::start().await;
    let client = watcher(&local).await;
    for number in [0, 1] {
        let mut hand = Hand::open(&client).await.unwrap();
        hand.poll(None).await.unwrap();
        let poll = Poll {
            poll: number,
            ..Poll::default()
        };
        assert_eq!(
            hand.send(poll).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
}

#[tokio::test]
async fn wrong_ids_of_used_keys_end_the_stream() {
    let local = Local::start().await;
    let client = watcher(&local).await;
    for used in [
        vec![vec![7; 15]],
        vec![Vec::new()],
        vec![vec![7; 16]; 1_001],
    ] {
        let mut hand = Hand::open(&client).await.unwrap();
        // An unknown key is ignored.
        let poll = |poll, used| Poll {
            poll,
            used,
            ..Poll::default()
        };
        let unknown = hand.send(poll(1, vec![vec![7; 16]; 1_000])).await;
        assert!(unknown.unwrap().is_some());
        let refused = hand.send(poll(2, used)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        // Ended without "off", so the caller waits before the fourth.
        drop(hand);
    }
}

/// Nobody waits for a near-cache that never was fresh.
#[tokio::test]
async fn streams_that_end_before_their_first_poll_bar_nobody() {
    let local = Local::start().await;
    let client = watcher(&local).await;
    for _ in 0..5 {
        drop(Hand::open(&client).await.unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(Hand::open(&client).await.is_ok());
}

/// What it acknowledges of a change that it never got is its own affair; a Revoke needs no more of it.
#[tokio::test]
async fn numbers_that_nobody_knows_harm_nobody_else() {
    let local = Local::start().await;
    let (admin, client) = (local.client().await, watcher(&local).await);
    let mut hand = Hand::open(&client).await.unwrap();
    let (epoch, applied) = hand.follow().await;
    let answer = hand.poll(Some((epoch, u64::MAX))).await.unwrap();
    assert_eq!((answer.applied, answer.invalidations.len()), (applied, 0));
    let elsewhere = v1::Epoch {
        timeline: 77,
        ..epoch
    };
    let mut other = Hand::open(&client).await.unwrap();
    let answer = other.poll(Some((elsewhere, u64::MAX))).await.unwrap();
    assert_eq!((answer.epoch, answer.applied), (Some(epoch), applied));
    drop((hand, other));
    let key = admin.send(slot("42")).await.unwrap().key.unwrap();
    admin.send(by_id(&key.key_id)).await.unwrap();
}

/// A near-cache that is told a change and says nothing: the Revoke waits until it cannot be fresh, once.
#[tokio::test]
async fn a_silent_near_cache_delays_one_revoke_until_its_lease_is_over() {
    let local = Local::start().await;
    let (admin, client) = (local.client().await, watcher(&local).await);
    let keys = [
        admin.send(slot("1")).await.unwrap().key.unwrap(),
        admin.send(slot("2")).await.unwrap().key.unwrap(),
    ];
    let mut hand = Hand::open(&client).await.unwrap();
    let start = now();
    hand.follow().await;
    admin.send(by_id(&keys[0].key_id)).await.unwrap();
    // The bound of the tests is 1.9 s.
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let start = now();
    admin.send(by_id(&keys[1].key_id)).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        start.elapsed()
    );
}

/// It lets the instance send nothing, so HTTP/2 asks for no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_near_cache_that_does_not_read_loses_its_place() {
    let local = Local::start().await;
    let token = local.client().await.token("near", &ROLES).await.unwrap();
    let url = format!("http://{}", local.app.grpc_address());
    let endpoint = tonic::transport::Endpoint::from_shared(url).unwrap();
    let channel = endpoint.initial_stream_window_size(0).connect().await;
    let hand = Hand::open(&Client::over(channel.unwrap(), Some(&token)))
        .await
        .unwrap();
    let poll = Poll {
        poll: 1,
        ..Poll::default()
    };
    hand.polls.send(poll).await.unwrap();
    let open = async || {
        let metrics = http_get(local.app.http_address().unwrap(), "/metrics").await;
        metrics.contains("keyward_near_caches 1\n")
    };
    eventually("the stream is open", PATIENCE, open).await;
    let has_ended = async || !open().await;
    eventually("the stream has ended", PATIENCE, has_ended).await;
}

/// It answers promptly and never takes anything: it would delay every change.
#[tokio::test]
async fn a_poll_must_acknowledge_the_answer_before_it() {
    let local = Local::start().await;
    let (admin, client) = (local.client().await, watcher(&local).await);
    let key = admin.send(slot("1")).await.unwrap().key.unwrap();
    let mut hand = Hand::open(&client).await.unwrap();
    let known = hand.follow().await;
    let revoking = tokio::spawn(async move { admin.send(by_id(&key.key_id)).await.unwrap() });
    // A heartbeat may come first.
    while hand.poll(Some(known)).await.unwrap().applied == known.1 {}
    let refused = hand.poll(Some(known)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    revoking.await.unwrap();
}

/// The embedded store: near-caches of a process that has ended may be fresh for longer than this one may
/// be, and a Revoke waits for them. When they are gone, the next start waits for nobody.
#[tokio::test]
async fn a_start_waits_for_the_near_caches_that_are_left() {
    let longer = |settings: &mut keyward::config::Settings| {
        settings.max_staleness = Duration::from_secs(6);
        settings.near_max_staleness = Duration::from_secs(5);
    };
    let local = Local::start_with(longer, |store| store).await;
    let admin = local.client().await;
    let ids = [
        admin.send(slot("1")).await.unwrap().key.unwrap().key_id,
        admin.send(slot("2")).await.unwrap().key.unwrap().key_id,
    ];
    let mut hand = Hand::open(&watcher(&local).await).await.unwrap();
    hand.follow().await;
    let last_poll = now();
    let local = local.restart().await;
    local.client().await.send(by_id(&ids[0])).await.unwrap();
    let waited = last_poll.elapsed();
    assert!(waited > Duration::from_secs(5), "{waited:?}");
    // The store is told soon.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let local = local.restart().await;
    let admin = local.client().await;
    let start = now();
    admin.send(by_id(&ids[1])).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(1_500));
}

/// It acknowledges so late that it loses its stream, and then its near-caches for a minute.
#[tokio::test]
async fn slow_near_caches_are_barred() {
    let local = Local::start().await;
    let (admin, client) = (local.client().await, watcher(&local).await);
    for account in ["1", "2", "3"] {
        let mut hand = Hand::open(&client).await.unwrap();
        let known = hand.follow().await;
        let key = admin.send(slot(account)).await.unwrap().key.unwrap();
        admin.send(by_id(&key.key_id)).await.unwrap();
        let answer = hand.poll(Some(known)).await;
        assert_eq!(answer.unwrap_err().code(), Code::ResourceExhausted);
    }
    let refused = Hand::open(&client).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let other = admin.send(creating_token("other", &ROLES)).await.unwrap();
    let other = Client::new(local.app.grpc_address(), Some(&other.token)).await;
    assert!(Hand::open(&other).await.is_ok());
}

/// It acknowledges each change, but late, and nothing else has changed meanwhile.
#[tokio::test]
async fn late_acknowledgements_bar_a_near_cache() {
    let local = Local::start().await;
    let (admin, client) = (local.client().await, watcher(&local).await);
    for account in ["1", "2", "3"] {
        let key = admin.send(slot(account)).await.unwrap().key.unwrap();
        let mut hand = Hand::open(&client).await.unwrap();
        let (epoch, before) = hand.follow().await;
        let revoker = local.client().await;
        let revoking = tokio::spawn(async move { revoker.send(by_id(&key.key_id)).await.unwrap() });
        let mut applied = before;
        // A heartbeat may come first.
        while applied == before {
            applied = hand.poll(Some((epoch, before))).await.unwrap().applied;
        }
        // The lease of the tests is 2 s.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let late = hand.poll(Some((epoch, applied))).await.unwrap_err();
        assert_eq!(late.code(), Code::ResourceExhausted);
        revoking.await.unwrap();
    }
    let barred = Hand::open(&client).await.err().unwrap();
    assert_eq!(barred.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn streams_are_limited_for_each_caller_and_in_all() {
    let local = Local::start_with(|settings| settings.max_near_caches = 4, |store| store).await;
    let (admin, client) = (local.client().await, watcher(&local).await);
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(Hand::open(&client).await.unwrap());
    }
    let refused = Hand::open(&client).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let token = admin.send(creating_token("other", &ROLES)).await.unwrap();
    let other = Client::new(local.app.grpc_address(), Some(&token.token)).await;
    for _ in 0..2 {
        open.push(Hand::open(&other).await.unwrap());
    }
    let token = admin.send(creating_token("third", &ROLES)).await.unwrap();
    let third = Client::new(local.app.grpc_address(), Some(&token.token)).await;
    let refused = Hand::open(&third).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}
