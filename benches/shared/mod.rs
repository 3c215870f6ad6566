//! Shared functions of the benchmarks with several instances.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::{Client, Cluster, now};
use tokio::task::JoinSet;

/// The number of concurrent callers.
pub(crate) const CALLERS: usize = 64;

/// One client for each running instance.
pub(crate) async fn clients(cluster: &Cluster) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in cluster.running() {
        clients.push(cluster.client(number).await);
    }
    clients
}

/// Issues `count` keys concurrently. Returns their ids and texts, and the duration.
pub(crate) async fn issue(
    clients: &[Client],
    name: &str,
    count: usize,
) -> (Vec<(String, String)>, Duration) {
    let next = Arc::new(AtomicUsize::new(0));
    let start = now();
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let (client, next, name) = (
            clients[n % clients.len()].clone(),
            Arc::clone(&next),
            name.to_owned(),
        );
        callers.spawn(async move {
            let mut keys = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return keys;
                }
                keys.push(client.issue(&format!("{name}-{n}"), "").await.unwrap());
            }
        });
    }
    let keys = callers.join_all().await.into_iter().flatten().collect();
    (keys, start.elapsed())
}

/// Verifies each key once on one instance, with this number of callers. All keys must be valid.
pub(crate) async fn verify_each(client: &Client, texts: &Arc<Vec<String>>, callers: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (client, texts, next) = (client.clone(), Arc::clone(texts), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let Some(text) = texts.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                assert_eq!(client.verify(text).await.unwrap(), Verdict::Valid);
            }
        });
    }
    tasks.join_all().await;
}
