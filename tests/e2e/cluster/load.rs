//! Load on all instances: some callers issue keys and end them in every possible way, others verify
//! the keys on every instance all the time. A history records what they see.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyward_proto::v1::{Consistency, VerifyRequest};
use keyward_testkit::requests::verifying;
use keyward_testkit::{Client, Cluster, Recorder};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::Status;

use super::calls::{End, Key, is_broken, is_unavailable};
use super::outcome::Outcome;
use super::recovery;

/// On each instance.
const WRITERS: usize = 3;
const VERIFIERS: usize = 2;
/// The number of youngest keys that callers verify, live or just revoked.
const WINDOW: usize = 40;
/// Between two calls of one caller.
const VERIFY_PAUSE: Duration = Duration::from_millis(4);
const WRITE_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a writer waits for its key to be known everywhere; a paused instance answers later.
const WARM: Duration = Duration::from_millis(200);
/// How long the last keys to die are looked at.
const AFTERMATH: Duration = Duration::from_millis(300);

/// An instance that callers call.
struct Member {
    number: usize,
    client: Client,
    left: AtomicBool,
}

struct Board {
    recorder: Recorder,
    /// Whether calls may end without an answer.
    coming_and_going: bool,
    members: RwLock<Vec<Arc<Member>>>,
    recent: RwLock<VecDeque<Arc<Key>>>,
    /// Keys of the test's own, which are verified as long as the load lasts.
    pinned: RwLock<Vec<Arc<Key>>>,
    ended: AtomicUsize,
    writing: AtomicBool,
    verifying: AtomicBool,
    writers: Mutex<JoinSet<()>>,
    readers: Mutex<JoinSet<()>>,
}

/// A load that goes on until [`Self::end`].
pub(crate) struct Load(Arc<Board>);

impl Load {
    /// Starts it on all instances that run. The history is written to `path`.
    pub(crate) async fn start(cluster: &Cluster, path: &Path, coming_and_going: bool) -> Self {
        let load = Self::new(path, coming_and_going);
        for number in cluster.running() {
            load.join(number, cluster.client(number).await);
        }
        load
    }

    fn new(path: &Path, coming_and_going: bool) -> Self {
        Self(Arc::new(Board {
            recorder: Recorder::new(path),
            coming_and_going,
            members: RwLock::default(),
            recent: RwLock::default(),
            pinned: RwLock::default(),
            ended: AtomicUsize::new(0),
            writing: AtomicBool::new(true),
            verifying: AtomicBool::new(true),
            writers: Mutex::default(),
            readers: Mutex::default(),
        }))
    }

    /// The history.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.0.recorder
    }

    /// Takes an instance in.
    pub(crate) fn join(&self, number: usize, client: Client) {
        let member = Arc::new(Member {
            number,
            client,
            left: AtomicBool::new(false),
        });
        self.0.members.write().push(Arc::clone(&member));
        for n in 0..VERIFIERS {
            let (board, member) = (Arc::clone(&self.0), Arc::clone(&member));
            self.0.readers.lock().spawn(verify(board, member, n * 100));
        }
        for n in 0..WRITERS {
            let (board, member) = (Arc::clone(&self.0), Arc::clone(&member));
            self.0.writers.lock().spawn(write(board, member, n));
        }
    }

    /// Calls an instance no more.
    pub(crate) fn leave(&self, number: usize) {
        self.0.members.write().retain(|member| {
            let stays = member.number != number;
            member.left.fetch_or(!stays, Ordering::Relaxed);
            stays
        });
    }

    /// Takes a key in that the test ends itself, and waits until every instance knows it.
    pub(crate) async fn pin(&self, key: Key) -> Arc<Key> {
        let key = Arc::new(key);
        self.0.recorder.issued(&key.id);
        self.0.pinned.write().push(Arc::clone(&key));
        self.0.warm(&key).await;
        key
    }

    /// Waits until so many more keys were ended.
    pub(crate) async fn wait_for_ends(&self, more: usize) {
        let enough = self.0.ended.load(Ordering::Relaxed) + more;
        keyward_testkit::eventually("keys are ended", Duration::from_secs(60), async || {
            self.0.ended.load(Ordering::Relaxed) >= enough
        })
        .await;
    }

    /// Ends the load when every instance is fresh, and judges what was seen.
    pub(crate) async fn end(self) -> Outcome {
        let board = &self.0;
        board.writing.store(false, Ordering::Relaxed);
        finish(&board.writers).await;
        let stayed = board.members.read().clone();
        let last = board.recent.read().back().cloned().unwrap();
        for member in &stayed {
            recovery(&member.client, &last.text).await;
        }
        tokio::time::sleep(AFTERMATH).await;
        board.verifying.store(false, Ordering::Relaxed);
        finish(&board.readers).await;
        let stayed = stayed.iter().map(|member| member.number).collect();
        let ended = board.ended.load(Ordering::Relaxed);
        Outcome::new(board.recorder.finish(), ended, stayed)
    }
}

/// Waits for all tasks; one that panicked panics here.
async fn finish(tasks: &Mutex<JoinSet<()>>) {
    let mut tasks = std::mem::take(&mut *tasks.lock());
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

impl Board {
    fn publish(&self, key: &Arc<Key>) {
        self.recorder.issued(&key.id);
        let mut recent = self.recent.write();
        recent.push_back(Arc::clone(key));
        while recent.len() > WINDOW {
            recent.pop_front();
        }
    }

    /// Some key: of the test's own, or out of the youngest.
    fn pick(&self, n: usize) -> Option<Arc<Key>> {
        let pinned = self.pinned.read();
        if n.is_multiple_of(2) && !pinned.is_empty() {
            return pinned.get(n / 2 % pinned.len()).cloned();
        }
        let recent = self.recent.read();
        let back = (n * 7 + n / 5) % recent.len().max(1);
        recent.iter().rev().nth(back).cloned()
    }

    /// Verifies a key once on every instance, without waiting for what comes of it; each adds a
    /// permit when it has.
    fn look_everywhere(self: &Arc<Self>, key: &Arc<Key>) -> (Arc<Semaphore>, usize) {
        let members = self.members.read().clone();
        let done = Arc::new(Semaphore::new(0));
        let count = members.len();
        for member in members {
            let (board, key, done) = (Arc::clone(self), Arc::clone(key), Arc::clone(&done));
            self.readers.lock().spawn(async move {
                look(&board, &member, &key, Consistency::Default).await;
                done.add_permits(1);
            });
        }
        (done, count)
    }

    /// Makes every instance know a key that lives.
    async fn warm(self: &Arc<Self>, key: &Arc<Key>) {
        let (done, count) = self.look_everywhere(key);
        let all = done.acquire_many(u32::try_from(count).unwrap());
        // Those that are late were asked all the same.
        let _ = tokio::time::timeout(WARM, all).await;
    }

    /// Whether a call that failed failed as it may; it promises nothing, and is no verdict.
    fn tolerates(&self, member: &Member, status: &Status) -> bool {
        let may_break = self.coming_and_going || member.left.load(Ordering::Relaxed);
        is_unavailable(status) || (may_break && is_broken(status))
    }
}

/// One Verify, for the history.
async fn look(board: &Board, member: &Member, key: &Key, consistency: Consistency) {
    let request = VerifyRequest {
        consistency: consistency.into(),
        ..verifying(&key.text)
    };
    let began = board.recorder.now();
    let verdict = match member.client.send(request).await {
        Ok(answer) => Some(answer.verdict()),
        Err(status) if board.tolerates(member, &status) => None,
        Err(status) => panic!("instance {}: {status:?}", member.number),
    };
    board
        .recorder
        .verify(&key.id, member.number, began, verdict);
}

async fn verify(board: Arc<Board>, member: Arc<Member>, from: usize) {
    for n in from.. {
        if !board.verifying.load(Ordering::Relaxed) || member.left.load(Ordering::Relaxed) {
            return;
        }
        if let Some(key) = board.pick(n) {
            // Some keys are read from the store alone. A STRONG read of the others would put its
            // result into the cache and hide faults from the default reads.
            let consistency = match key.id.as_bytes().last() {
                Some(b'0' | b'1') => Consistency::Strong,
                _ => Consistency::Default,
            };
            look(&board, &member, &key, consistency).await;
        }
        tokio::time::sleep(VERIFY_PAUSE).await;
    }
}

/// Issues keys and ends them.
async fn write(board: Arc<Board>, member: Arc<Member>, writer: usize) {
    for n in 0.. {
        let account = format!("{}-{writer}-{n}-{}", member.number, board.recorder.now());
        let Some(key) = issue(&board, &member, &account).await else {
            return;
        };
        let key = Arc::new(key);
        board.publish(&key);
        // Every other key dies while it is being read for the first time.
        if n % 2 == 0 {
            board.warm(&key).await;
        }
        let way = End::ALL[(writer + n / 2) % End::ALL.len()];
        if let Some(successor) = end(&board, &member, &key, way).await {
            let successor = Arc::new(successor);
            board.publish(&successor);
            board.warm(&successor).await;
            end(&board, &member, &successor, End::ById).await;
        }
        tokio::time::sleep(WRITE_PAUSE).await;
    }
}

/// Issues a key; `None` when the load is over.
async fn issue(board: &Board, member: &Member, account: &str) -> Option<Key> {
    for n in 0.. {
        if !goes_on(board, member) {
            break;
        }
        // Whether a call that failed has made a key is not known: not that slot again, then.
        let account = format!("{account}-{n}");
        match member.client.issue(&account, "").await {
            Ok((id, text)) => return Some(Key { id, text, account }),
            Err(status) if board.tolerates(member, &status) => {
                tokio::time::sleep(RETRY_PAUSE).await
            }
            Err(status) => panic!("instance {}: {status:?}", member.number),
        }
    }
    None
}

fn goes_on(board: &Board, member: &Member) -> bool {
    board.writing.load(Ordering::Relaxed) && !member.left.load(Ordering::Relaxed)
}

/// Ends a key, and says so again until it is confirmed: its successor, if it has one.
async fn end(board: &Arc<Board>, member: &Member, key: &Arc<Key>, way: End) -> Option<Key> {
    board.recorder.dying(&key.id);
    loop {
        match way.call(&member.client, key).await {
            Ok(successor) => {
                board.recorder.dead(&key.id, Duration::ZERO);
                board.ended.fetch_add(1, Ordering::Relaxed);
                // Nobody can come sooner after the return than this.
                board.look_everywhere(key);
                return successor;
            }
            Err(status) if board.tolerates(member, &status) => {}
            Err(status) => panic!("instance {}: {way:?}: {status:?}", member.number),
        }
        if !goes_on(board, member) {
            return None;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}
