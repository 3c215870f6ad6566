//! The promise with a slow or stalled store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward_proto::v1::{Consistency, RevokeResponse, Verdict};
use keyward_testkit::{Faults, Key, Local, PATIENCE, eventually, http_get, now, sqlite};
use parking_lot::Mutex;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt;

use super::{Caller, REVOKE_BY_HAND, Seen, change_by_hand};

/// The `max_staleness` of these tests.
const STALENESS: Duration = Duration::from_secs(2);

/// Verifies a key all the time until it is stopped. A STRONG read would put its result into the
/// cache and hide faults from the other reads, so each watch uses one consistency.
struct Watch {
    over: Arc<AtomicBool>,
    history: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn on(caller: &Caller, key: &Key, consistency: Consistency) -> Self {
        let over = Arc::<AtomicBool>::default();
        let history = Arc::<Mutex<Vec<Seen>>>::default();
        let (caller, key) = (caller.clone(), key.clone());
        let (stop, seen) = (Arc::clone(&over), Arc::clone(&history));
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let look = caller.look(&key, consistency).await;
                seen.lock().push(look);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self {
            over,
            history,
            task,
        }
    }

    /// The verdicts on calls that began after `from`.
    fn verdicts_after(&self, from: u64) -> Vec<Option<Verdict>> {
        let history = self.history.lock();
        let later = history.iter().filter(|seen| seen.began > from);
        later.map(|seen| seen.verdict).collect()
    }

    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

fn counts(receipt: &RevokeResponse) -> (u32, u32) {
    (receipt.confirmed_instances, receipt.waited_out_instances)
}

async fn stalling() -> (Local, Arc<Faults>, Caller) {
    let (local, faults) =
        Local::start_stalling(|settings| settings.max_staleness = STALENESS).await;
    let caller = Caller::new(local.client().await, local.directory.path());
    (local, faults, caller)
}

/// It may be a token of a generation that this instance has not loaded.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_token_is_not_refused_without_freshness() {
    let (local, faults, _caller) = stalling().await;
    let other = Local::start().await;
    let stranger = crate::Client::new(local.app.grpc_address(), Some(&other.token)).await;
    let refused = stranger.verify("").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    faults.tail.close();
    eventually("freshness ends", PATIENCE, async || {
        stranger.verify("").await.unwrap_err().code() == tonic::Code::Unavailable
    })
    .await;
    faults.tail.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_tail_stalled_verify_turns_unavailable_and_recovers_by_itself() {
    let (local, faults, caller) = stalling().await;
    let client = &caller.client;
    let side = local.app.http_address().unwrap();
    let (lives, dies) = (
        caller.live_key("lives").await,
        caller.live_key("dies").await,
    );
    assert_eq!(client.health().await, ServingStatus::Serving);

    faults.tail.close();
    faults.tail.is_holding().await;
    let stalled = caller.recorder.now();
    let watches = (
        Watch::on(&caller, &lives, Consistency::Strong),
        Watch::on(&caller, &dies, Consistency::Default),
    );
    caller.recorder.dying(&dies.id);
    let mut hand = sqlite(&local.database()).await;
    change_by_hand(&mut hand, REVOKE_BY_HAND, &dies.id).await;
    // P1: the commit bound, though nobody can tell this instance.
    caller.recorder.dead(&dies.id, STALENESS);
    tokio::time::sleep(STALENESS + Duration::from_millis(800)).await;
    assert_eq!(client.health().await, ServingStatus::NotServing);
    assert!(http_get(side, "/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(http_get(side, "/livez").await.starts_with("HTTP/1.1 200"));
    let error = client.verify(&lives.text).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert_eq!(error.get_details_error_info().unwrap().reason, "NOT_FRESH");

    let bound = stalled + u64::try_from(STALENESS.as_micros()).unwrap();
    for watch in [&watches.0, &watches.1] {
        // From the bound on there is no verdict, from memory or from the store.
        eventually("calls after the bound", PATIENCE, async || {
            watch.verdicts_after(bound).len() > 20
        })
        .await;
        let late = watch.verdicts_after(bound);
        assert!(late.iter().all(Option::is_none), "{late:?}");
    }
    let verdicts = watches.0.verdicts_after(0);
    let early = verdicts
        .iter()
        .filter(|seen| **seen == Some(Verdict::Valid));
    assert!(early.count() > 20, "{verdicts:?}");
    watches.0.end().await;
    watches.1.end().await;

    faults.tail.open();
    assert_eq!(client.verdict(&lives.text).await, Verdict::Valid);
    assert_eq!(client.verdict(&dies.text).await, Verdict::Revoked);
    assert!(http_get(side, "/readyz").await.starts_with("HTTP/1.1 200"));
    eventually("health follows", PATIENCE, async || {
        client.health().await == ServingStatus::Serving
    })
    .await;
    caller.assert_kept();
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_during_a_stall_returns_when_the_bound_has_passed() {
    let (local, faults, caller) = stalling().await;
    let key = caller.live_key("42").await;
    faults.tail.close();
    faults.tail.is_holding().await;
    let watch = Watch::on(&caller, &key, Consistency::Default);
    let begun = now();
    let receipt = caller.revoke(&key).await;
    assert!(begun.elapsed() > STALENESS + STALENESS / 50 + Duration::from_millis(100));
    assert_eq!(counts(&receipt), (0, 1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    faults.tail.open();
    assert_eq!(caller.client.verdict(&key.text).await, Verdict::Revoked);
    watch.end().await;
    caller.assert_kept();
    local.app.stop().await;
}

/// A page that was read before the revoke and arrives after its bound proves nothing about the time
/// of its arrival.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_comes_late_is_as_old_as_its_question() {
    let (local, faults, caller) = stalling().await;
    let key = caller.live_key("42").await;
    faults.page.close();
    faults.page.is_holding().await;
    let watch = Watch::on(&caller, &key, Consistency::Default);
    let receipt = caller.revoke(&key).await;
    let dead = caller.recorder.now();
    assert_eq!(counts(&receipt), (0, 1));
    // The late page comes; the next one, which would tell of the revoke, is held.
    faults.page.admit_one();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let late = watch.verdicts_after(dead);
    watch.end().await;
    assert!(late.iter().all(Option::is_none), "{late:?}");
    faults.page.open();
    assert_eq!(caller.client.verdict(&key.text).await, Verdict::Revoked);
    caller.assert_kept();
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_slow_tail_a_revoke_returns_only_when_it_is_applied() {
    let (local, faults, caller) = stalling().await;
    faults.delay_pages(Duration::from_millis(300));
    for n in 0..5 {
        let key = caller.live_key(&n.to_string()).await;
        let watch = Watch::on(&caller, &key, Consistency::Default);
        let receipt = caller.revoke(&key).await;
        assert_eq!(counts(&receipt), (1, 0));
        assert_eq!(caller.sees(&key).await, Some(Verdict::Revoked));
        watch.end().await;
    }
    caller.assert_kept();
    local.app.stop().await;
}

/// The classic hole of a cache with eviction alone: a slow read from before the revoke puts the key
/// back after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_answered_after_the_revoke_does_not_bring_the_key_back() {
    let (local, faults, caller) = stalling().await;
    let key = caller.issue("42").await;
    let verify = || {
        let (caller, key) = (caller.clone(), key.clone());
        tokio::spawn(async move { caller.sees(&key).await })
    };
    faults.record.close();
    let before = verify();
    faults.record.is_holding().await;
    let receipt = caller.revoke(&key).await;
    assert_eq!(receipt.confirmed_instances, 1);
    // Joins the read that is under way, and began after the revoke.
    let joined = verify();
    tokio::time::sleep(Duration::from_millis(100)).await;
    faults.record.open();
    before.await.unwrap();
    joined.await.unwrap();
    assert_eq!(caller.sees(&key).await, Some(Verdict::Revoked));
    caller.assert_kept();
    local.app.stop().await;
}
