//! Load: some callers issue keys and end them in every possible way, others verify the same keys
//! all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use keyward_proto::v1::{self, Consistency, Verdict};
use keyward_testkit::Client;
use keyward_testkit::requests::*;
use parking_lot::RwLock;
use tonic::{Code, Status};

use super::history::{Key, Seen, now};

const WRITERS: usize = 6;
const CONNECTIONS: usize = 3;
const VERIFIERS: usize = 6;
/// The number of youngest keys that callers verify, live or just revoked.
const WINDOW: usize = 24;
const GRACE: Duration = Duration::from_millis(60);

/// The load ends when this much has happened.
pub(crate) struct Enough {
    pub(crate) ended: usize,
    pub(crate) verified: usize,
}

struct Board {
    enough: Enough,
    keys: RwLock<Vec<Arc<Key>>>,
    ended: AtomicUsize,
    verified: AtomicUsize,
    over: AtomicBool,
}

impl Board {
    fn publish(&self, key: &Arc<Key>) {
        self.keys.write().push(Arc::clone(key));
    }

    /// One of the youngest keys.
    fn pick(&self, n: usize) -> Option<Arc<Key>> {
        let keys = self.keys.read();
        let window = keys.len().min(WINDOW);
        let back = (n * 7 + n / 5) % window.max(1);
        keys.iter().rev().nth(back).cloned()
    }

    fn is_enough(&self) -> bool {
        self.ended.load(Ordering::Relaxed) >= self.enough.ended
            && self.verified.load(Ordering::Relaxed) >= self.enough.verified
    }
}

/// Puts the load on the service at `address` and returns what the callers saw.
pub(crate) async fn run(address: SocketAddr, token: &str, enough: Enough) -> Vec<Seen> {
    let board = Arc::new(Board {
        enough,
        keys: RwLock::default(),
        ended: AtomicUsize::new(0),
        verified: AtomicUsize::new(0),
        over: AtomicBool::new(false),
    });
    let mut verifiers = Vec::new();
    for n in 0..CONNECTIONS {
        let client = Client::new(address, Some(token)).await;
        for m in 0..VERIFIERS / CONNECTIONS {
            let (client, board) = (client.clone(), Arc::clone(&board));
            verifiers.push(tokio::spawn(verify(client, board, n * 1_000 + m * 100)));
        }
    }
    let client = Client::new(address, Some(token)).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| tokio::spawn(write(client.clone(), Arc::clone(&board), n)))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // The last keys to die are looked at once more, after their grace.
    tokio::time::sleep(2 * GRACE).await;
    board.over.store(true, Ordering::Relaxed);
    let mut history = Vec::new();
    for verifier in verifiers {
        history.extend(verifier.await.unwrap());
    }
    history
}

async fn verify(client: Client, board: Arc<Board>, from: usize) -> Vec<Seen> {
    let mut history = Vec::new();
    for n in from.. {
        if board.over.load(Ordering::Relaxed) {
            break;
        }
        let Some(key) = board.pick(n) else {
            tokio::task::yield_now().await;
            continue;
        };
        // Some keys are read from the store alone. A STRONG read of the others would put its result
        // into the cache and hide faults from the default reads.
        let consistency = match key.id.as_bytes().last() {
            Some(b'0' | b'1') => Consistency::Strong,
            _ => Consistency::Default,
        };
        history.push(look(&client, key, consistency).await);
        board.verified.fetch_add(1, Ordering::Relaxed);
    }
    history
}

/// One Verify. UNAVAILABLE counts as an answer; any other error fails the test.
pub(crate) async fn look(client: &Client, key: Arc<Key>, consistency: Consistency) -> Seen {
    let request = v1::VerifyRequest {
        consistency: consistency.into(),
        ..verifying(&key.text)
    };
    let began = now();
    let verdict = match client.send(request).await {
        Ok(answer) => Some(answer.verdict()),
        Err(status) if status.code() == Code::Unavailable => None,
        Err(status) => panic!("{status}"),
    };
    Seen::new(key, began, verdict)
}

/// Issues keys and ends them until there was enough.
async fn write(client: Client, board: Arc<Board>, writer: usize) {
    for n in 0.. {
        if board.is_enough() {
            return;
        }
        let issued = client.issue(&format!("{writer}-{n}"), "").await.unwrap();
        let key = Arc::new(Key::new(issued));
        board.publish(&key);
        // Every other key dies while it is being read for the first time.
        if n % 2 == 0 {
            wait_until_valid(&key).await;
        }
        let successor = end(&client, &key, &format!("{writer}-{n}"), n / 2 % 6)
            .await
            .unwrap();
        board.ended.fetch_add(1, Ordering::Relaxed);
        if let Some(successor) = successor {
            let successor = Arc::new(Key::new(successor));
            board.publish(&successor);
            wait_until_valid(&successor).await;
            end(&client, &successor, "", 0).await.unwrap();
            board.ended.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn wait_until_valid(key: &Key) {
    for _ in 0..100 {
        if key.seen_valid.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Ends a key in one of six ways, records the time from which the promise holds, and returns the
/// successor if there is one.
pub(crate) async fn end(
    client: &Client,
    key: &Key,
    account: &str,
    way: usize,
) -> Result<Option<(String, String)>, Status> {
    let request = match way {
        0 => by_id(&key.id),
        1 => by_text(&key.text),
        2 => by_account(account),
        3 => replacing(&key.id),
        4 => v1::RevokeRequest {
            grace: Some(prost_types::Duration::try_from(GRACE).unwrap()),
            ..by_id(&key.id)
        },
        _ => {
            key.dying.set(now()).unwrap();
            client.disable(&key.id, true).await?;
            key.dead.set(now()).unwrap();
            return Ok(None);
        }
    };
    let graceful = request.grace.is_some();
    key.dying.set(now()).unwrap();
    let answer = client.send(request).await?;
    let end = answer.revoke_time.filter(|_| graceful);
    key.dead
        .set(now() + end.map_or(Duration::ZERO, left_until))
        .unwrap();
    Ok(answer
        .replacement
        .map(|successor| (successor.key_id, answer.api_key)))
}

/// How long until the wall clock shows `end`; a millisecond more for clocks at other rates.
#[expect(
    clippy::disallowed_methods,
    reason = "the end of a grace is a time on the wall"
)]
pub(crate) fn left_until(end: prost_types::Timestamp) -> Duration {
    let end = SystemTime::try_from(end).unwrap();
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    left + Duration::from_millis(1)
}

/// Panics unless keys were live and ended in every way.
pub(crate) fn assert_enough(history: &[Seen], enough: &Enough) {
    let count = |verdict| {
        history
            .iter()
            .filter(|seen| seen.verdict == Some(verdict))
            .count()
    };
    let after_end = history
        .iter()
        .filter(|seen| seen.key.dead.get().is_some_and(|dead| seen.began > *dead))
        .count();
    assert!(
        history.len() >= enough.verified,
        "{} verifies",
        history.len()
    );
    assert!(
        count(Verdict::Valid) > enough.verified / 10,
        "few saw a key alive"
    );
    assert!(
        count(Verdict::Revoked) > enough.verified / 10,
        "few saw a key dead"
    );
    assert!(count(Verdict::Disabled) > 0, "nobody saw a key disabled");
    assert!(after_end > enough.verified / 10, "few looked after the end");
}
