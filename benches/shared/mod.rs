//! What the benchmarks of many instances share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyward_proto::v1::Verdict;
use keyward_testkit::{Client, Cluster};
use tokio::task::JoinSet;

/// Callers at a time, when there are many.
pub(crate) const CALLERS: usize = 64;

/// How long each of some calls took.
pub(crate) struct Times(pub(crate) Vec<Duration>);

impl Times {
    /// In milliseconds, what this share of the calls took at most.
    pub(crate) fn at(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let last = self.0.len() - 1;
        let place = (last as f64 * share).round();
        let place = (0..=last).min_by(|a, b| {
            let off = |n: &usize| (*n as f64 - place).abs();
            off(a).total_cmp(&off(b))
        });
        self.0[place.unwrap()].as_secs_f64() * 1_000.0
    }
}

/// A client of each instance that runs.
pub(crate) async fn clients(cluster: &Cluster) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in cluster.running() {
        clients.push(cluster.client(number).await);
    }
    clients
}

/// Issues so many keys, many at a time: ids and texts, and how long it took.
pub(crate) async fn issue(
    clients: &[Client],
    name: &str,
    count: usize,
) -> (Vec<(String, String)>, Duration) {
    let next = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
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
    (keys, begun.elapsed())
}

/// Verifies each key once on one instance, by so many callers; all live.
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

/// Puts `text` between the marks `name` of a document.
pub(crate) fn write_between(path: &str, name: &str, text: &str) {
    let says = std::fs::read_to_string(path).unwrap();
    let (begin, end) = (format!("<!-- {name} -->\n"), "<!-- end -->");
    let at = says.find(&begin).unwrap() + begin.len();
    let until = at + says[at..].find(end).unwrap();
    let new = format!("{}{text}{}", &says[..at], &says[until..]);
    std::fs::write(path, new).unwrap();
}
