//! A long-lived task that ends by itself ends the service, and says so.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use keyward::app::{Parts, run};
use keyward_store::{Intercepted, Interceptor, Result, Store};
use keyward_testkit::{Local, PATIENCE, eventually, settings_in};
use tonic_health::pb::health_check_response::ServingStatus;

/// More reads of the log than a start makes.
const STARTED: usize = 10;

/// Panics in the tail, once a test asks for it.
#[derive(Default)]
struct Planted {
    is_due: AtomicBool,
    reads: AtomicUsize,
}

impl Planted {
    async fn plant(&self) {
        eventually("the tail runs", PATIENCE, async || {
            self.reads.load(Ordering::SeqCst) > STARTED
        })
        .await;
        self.is_due.store(true, Ordering::SeqCst);
    }
}

impl Interceptor for Planted {
    async fn intercept<T: Send>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        if call == "tail" {
            self.reads.fetch_add(1, Ordering::SeqCst);
            assert!(!self.is_due.load(Ordering::SeqCst), "planted in the tail");
        }
        work.await
    }
}

fn around(planted: &Arc<Planted>) -> impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + use<> {
    let planted = Arc::clone(planted);
    move |store| Arc::new(Intercepted::new(store, planted)) as Arc<dyn Store>
}

const ENDED: &str = "the task 'tail' panicked: planted in the tail";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_its_tail_stops_serving() {
    let planted = Arc::<Planted>::default();
    let local = Local::start_with(|_| {}, around(&planted)).await;
    let client = local.client().await;
    let (_, key) = client.issue("42", "").await.unwrap();
    assert_eq!(client.health().await, ServingStatus::Serving);
    planted.plant().await;
    let ended = tokio::time::timeout(PATIENCE, local.app.task_ended()).await;
    assert_eq!(ended.unwrap().to_string(), ENDED);
    local.app.stop().await;
    assert!(client.verify(&key).await.is_err());
}

/// What `keyward serve` runs ends with an error, so the process ends with a non-zero exit code.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_its_tail_ends_with_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let planted = Arc::<Planted>::default();
    let parts = Parts {
        around_store: Box::new(around(&planted)),
        ..Parts::system()
    };
    let settings = settings_in(directory.path());
    let running = tokio::spawn(async move { run(&settings, parts).await });
    planted.plant().await;
    let ended = tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.unwrap_err().to_string(), ENDED);
}
