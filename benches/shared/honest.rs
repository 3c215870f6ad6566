//! An honest caller and the freshness of its instance, while others take what they can.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::machine::Times;
use keyward_testkit::{Client, http_get, now};
use tokio::time::{sleep, timeout};

/// Texts of valid keys, and the number of the next one.
pub(crate) type Texts = (Arc<Vec<String>>, Arc<AtomicUsize>);

/// Calls Verify until `stop`, with a `pause` between two calls. Returns the times of answered calls and the
/// number of failed ones.
pub(crate) async fn honest(
    client: Client,
    (texts, next): Texts,
    pause: Duration,
    stop: Arc<AtomicBool>,
) -> (Times, usize) {
    let (mut times, mut failed) = (Times(Vec::new()), 0);
    while !stop.load(Relaxed) {
        let text = &texts[next.fetch_add(1, Relaxed) % texts.len()];
        let start = now();
        match timeout(Duration::from_secs(5), client.verify(text)).await {
            Ok(Ok(Verdict::Valid)) => times.0.push(start.elapsed()),
            _ => failed += 1,
        }
        sleep(pause).await;
    }
    (times, failed)
}

/// The largest freshness age that the side port reports until `stop`, in seconds.
pub(crate) async fn freshness(http: SocketAddr, stop: Arc<AtomicBool>) -> f64 {
    let mut oldest = 0.0_f64;
    while !stop.load(Relaxed) {
        // The task of a scrape that an attack displaces fails; the next one asks again.
        let scrape = tokio::spawn(http_get(http, "/metrics"));
        if let Ok(Ok(text)) = timeout(Duration::from_secs(2), scrape).await {
            let name = "keyward_freshness_age_seconds ";
            let age = text.lines().find_map(|line| line.strip_prefix(name));
            oldest = oldest.max(age.and_then(|age| age.parse().ok()).unwrap_or_default());
        }
        sleep(Duration::from_millis(300)).await;
    }
    oldest
}
