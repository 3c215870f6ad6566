//! The promise with a slow or stalled store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyward_proto::v1::{Consistency, RevokeResponse, Verdict};
use keyward_testkit::{Client, Faults, Local, http_get};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use super::history::{Key, Seen, count, faults, now};
use super::load::look;
use super::{REVOKE_BY_HAND, by_hand, change_by_hand};

/// The `max_staleness` of these tests.
const STALENESS: Duration = Duration::from_secs(2);

type History = Vec<Seen>;

/// A live key that is in the cache.
async fn live_key(client: &Client, account: &str) -> Arc<Key> {
    let key = Arc::new(Key::new(client.issue(account, "").await.unwrap()));
    let seen = look(client, Arc::clone(&key), Consistency::Default).await;
    assert_eq!(seen.verdict, Some(Verdict::Valid));
    key
}

/// Verifies a key all the time until it is stopped. A STRONG read would put its result into the
/// cache and hide faults from the other reads, so each watch uses one consistency.
struct Watch {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<History>,
}

impl Watch {
    fn on(client: &Client, key: &Arc<Key>, consistency: Consistency) -> Self {
        let over = Arc::<AtomicBool>::default();
        let (client, key, stop) = (client.clone(), Arc::clone(key), Arc::clone(&over));
        let task = tokio::spawn(async move {
            let mut history = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                history.push(look(&client, Arc::clone(&key), consistency).await);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            history
        });
        Self { over, task }
    }

    async fn end(self) -> History {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Revokes `key` and records it.
async fn revoke(client: &Client, key: &Key) -> RevokeResponse {
    key.dying.set(now()).unwrap();
    let answer = client.revoke(&key.id).await.unwrap();
    key.dead.set(now()).unwrap();
    answer
}

fn verdicts_after(history: &History, from: Instant) -> Vec<Option<Verdict>> {
    let later = history.iter().filter(|seen| seen.began > from);
    later.map(|seen| seen.verdict).collect()
}

/// Waits until Verify gives a verdict again.
async fn recovery(client: &Client, key: &Arc<Key>) -> Verdict {
    let begun = now();
    loop {
        let seen = look(client, Arc::clone(key), Consistency::Default).await;
        if let Some(verdict) = seen.verdict {
            return verdict;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it does not recover"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn stalling() -> (Local, Arc<Faults>) {
    Local::start_stalling(|settings| settings.max_staleness = STALENESS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_tail_stalled_verify_turns_unavailable_and_recovers_by_itself() {
    let (local, faults_of_store) = stalling().await;
    let client = local.client().await;
    let side = local.app.http_address().unwrap();
    let (lives, dies) = (
        live_key(&client, "lives").await,
        live_key(&client, "dies").await,
    );
    assert_eq!(client.health().await, ServingStatus::Serving);

    faults_of_store.tail.close();
    faults_of_store.tail.is_holding().await;
    let stalled = now();
    let watches = (
        Watch::on(&client, &lives, Consistency::Strong),
        Watch::on(&client, &dies, Consistency::Default),
    );
    dies.dying.set(now()).unwrap();
    let mut hand = by_hand(&local.database()).await;
    change_by_hand(&mut hand, REVOKE_BY_HAND, &dies.id).await;
    // P1: the commit bound, though nobody can tell this instance.
    dies.dead.set(now() + STALENESS).unwrap();
    tokio::time::sleep(STALENESS + Duration::from_millis(800)).await;
    assert_eq!(client.health().await, ServingStatus::NotServing);
    assert!(http_get(side, "/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(http_get(side, "/livez").await.starts_with("HTTP/1.1 200"));
    let error = client.verify(&lives.text).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert_eq!(error.get_details_error_info().unwrap().reason, "NOT_FRESH");
    let (of_lives, of_dies) = (watches.0.end().await, watches.1.end().await);

    for history in [&of_lives, &of_dies] {
        assert!(faults(history).is_empty(), "{:#?}", faults(history));
        // From the bound on there is no verdict, from memory or from the store.
        let late = verdicts_after(history, stalled + STALENESS);
        assert!(
            late.len() > 20 && late.iter().all(Option::is_none),
            "{late:?}"
        );
    }
    let early = of_lives
        .iter()
        .filter(|seen| seen.verdict == Some(Verdict::Valid));
    assert!(early.count() > 20, "{:?}", count(&of_lives));

    faults_of_store.tail.open();
    assert_eq!(recovery(&client, &lives).await, Verdict::Valid);
    assert_eq!(recovery(&client, &dies).await, Verdict::Revoked);
    assert!(http_get(side, "/readyz").await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client.health().await, ServingStatus::Serving);
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_during_a_stall_returns_when_the_bound_has_passed() {
    let (local, faults_of_store) = stalling().await;
    let client = local.client().await;
    let key = live_key(&client, "42").await;
    faults_of_store.tail.close();
    faults_of_store.tail.is_holding().await;
    let watch = Watch::on(&client, &key, Consistency::Default);
    let begun = now();
    let answer = revoke(&client, &key).await;
    assert!(begun.elapsed() > STALENESS + STALENESS / 50 + Duration::from_millis(100));
    assert_eq!(
        (answer.confirmed_instances, answer.waited_out_instances),
        (0, 1)
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    faults_of_store.tail.open();
    assert_eq!(recovery(&client, &key).await, Verdict::Revoked);
    let history = watch.end().await;
    assert!(faults(&history).is_empty(), "{:#?}", faults(&history));
    local.app.stop().await;
}

/// A page that was read before the revoke and arrives after its bound proves nothing about the time
/// of its arrival.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_comes_late_is_as_old_as_its_question() {
    let (local, faults_of_store) = stalling().await;
    let client = local.client().await;
    let key = live_key(&client, "42").await;
    faults_of_store.page.close();
    faults_of_store.page.is_holding().await;
    let watch = Watch::on(&client, &key, Consistency::Default);
    let answer = revoke(&client, &key).await;
    assert_eq!(
        (answer.confirmed_instances, answer.waited_out_instances),
        (0, 1)
    );
    // The late page comes; the next one, which would tell of the revoke, is held.
    faults_of_store.page.admit_one();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let history = watch.end().await;
    assert!(faults(&history).is_empty(), "{:#?}", faults(&history));
    assert!(
        verdicts_after(&history, *key.dead.get().unwrap())
            .iter()
            .all(Option::is_none)
    );
    faults_of_store.page.open();
    assert_eq!(recovery(&client, &key).await, Verdict::Revoked);
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_slow_tail_a_revoke_returns_only_when_it_is_applied() {
    let (local, faults_of_store) = stalling().await;
    let client = local.client().await;
    faults_of_store.delay_pages(Duration::from_millis(300));
    for n in 0..5 {
        let key = live_key(&client, &n.to_string()).await;
        let watch = Watch::on(&client, &key, Consistency::Default);
        let answer = revoke(&client, &key).await;
        assert_eq!(
            (answer.confirmed_instances, answer.waited_out_instances),
            (1, 0)
        );
        let after = look(&client, Arc::clone(&key), Consistency::Default).await;
        assert_eq!(after.verdict, Some(Verdict::Revoked));
        let history = watch.end().await;
        assert!(faults(&history).is_empty(), "{:#?}", faults(&history));
    }
    local.app.stop().await;
}

/// The classic hole of a cache with eviction alone: a slow read from before the revoke puts the key
/// back after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_answered_after_the_revoke_does_not_bring_the_key_back() {
    let (local, faults_of_store) = stalling().await;
    let client = local.client().await;
    let key = Arc::new(Key::new(client.issue("42", "").await.unwrap()));
    let verify = || {
        let (client, key) = (client.clone(), Arc::clone(&key));
        tokio::spawn(async move { look(&client, key, Consistency::Default).await })
    };
    faults_of_store.record.close();
    let before = verify();
    faults_of_store.record.is_holding().await;
    let answer = revoke(&client, &key).await;
    assert_eq!(answer.confirmed_instances, 1);
    // Joins the read that is under way, and began after the revoke.
    let joined = verify();
    tokio::time::sleep(Duration::from_millis(100)).await;
    faults_of_store.record.open();
    let mut history = vec![before.await.unwrap(), joined.await.unwrap()];
    history.push(look(&client, Arc::clone(&key), Consistency::Default).await);
    assert!(faults(&history).is_empty(), "{:#?}", faults(&history));
    assert_eq!(history[2].verdict, Some(Verdict::Revoked));
    local.app.stop().await;
}
