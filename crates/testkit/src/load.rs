//! Load on instances: some callers issue keys and end them in every possible way, others verify the
//! keys on every instance all the time. A history records what they see.

mod calls;
mod outcome;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyward_proto::v1::Consistency;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::Status;

use crate::deadline::{PATIENCE, eventually};
use crate::{Client, Recorder, Scheme, importing, uuid_v4};
pub use calls::{End, Key, graceful, is_unavailable, left_until, patiently};
use calls::{RETRY_PAUSE, is_broken};
pub use outcome::{Least, Outcome};

/// The number of youngest keys that callers verify, live or just revoked.
const WINDOW: usize = 40;
/// How long a writer waits for its key to be known everywhere; a paused instance answers later.
const WARM: Duration = Duration::from_millis(200);
/// The verifies on each instance after all that a test did, so that they show its effect.
const ONCE_MORE: usize = 150;
/// How long the last keys to die are looked at.
const AFTERMATH: Duration = Duration::from_millis(300);

/// How callers call.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Callers of each member that issue keys and end them.
    pub writers: usize,
    /// Callers of each member that verify keys.
    pub verifiers: usize,
    /// The pause between two calls of a verifier.
    pub verify_pause: Duration,
    /// The pause of a writer after each key.
    pub write_pause: Duration,
    /// How keys end.
    pub ends: &'static [End],
    /// Whether keys are imported instead of issued, and imported again under each scheme after their end.
    pub imports: bool,
    /// Whether calls may end without an answer, because instances come and go.
    pub coming_and_going: bool,
}

/// An instance that callers call.
struct Member {
    number: usize,
    client: Client,
    left: AtomicBool,
    verified: AtomicUsize,
}

struct Board {
    recorder: Recorder,
    options: LoadOptions,
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
pub struct Load(Arc<Board>);

impl Load {
    /// A load without members. The history is written to `path`.
    pub fn new(path: &Path, options: LoadOptions) -> Self {
        Self(Arc::new(Board {
            recorder: Recorder::new(path),
            options,
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
    pub fn recorder(&self) -> &Recorder {
        &self.0.recorder
    }

    /// Starts to call an instance.
    pub fn join(&self, number: usize, client: Client) {
        let member = Arc::new(Member {
            number,
            client,
            left: AtomicBool::new(false),
            verified: AtomicUsize::new(0),
        });
        self.0.members.write().push(Arc::clone(&member));
        for n in 0..self.0.options.verifiers {
            let (board, member) = (Arc::clone(&self.0), Arc::clone(&member));
            self.0.readers.lock().spawn(verify(board, member, n * 100));
        }
        for n in 0..self.0.options.writers {
            let (board, member) = (Arc::clone(&self.0), Arc::clone(&member));
            self.0.writers.lock().spawn(write(board, member, n));
        }
    }

    /// Stops to call an instance.
    pub fn leave(&self, number: usize) {
        self.0.members.write().retain(|member| {
            let stays = member.number != number;
            member.left.fetch_or(!stays, Ordering::Relaxed);
            stays
        });
    }

    /// Adds a key that the test ends itself, and waits until every instance knows it.
    pub async fn pin(&self, key: Key) -> Arc<Key> {
        let key = Arc::new(key);
        self.0.recorder.issued(&key.id);
        self.0.pinned.write().push(Arc::clone(&key));
        self.0.warm(&key).await;
        key
    }

    /// Waits until this number of further keys has ended.
    pub async fn wait_for_ends(&self, more: usize) {
        let enough = self.0.ended.load(Ordering::Relaxed) + more;
        eventually("keys are ended", 5 * PATIENCE, async || {
            self.0.ended.load(Ordering::Relaxed) >= enough
        })
        .await;
    }

    /// Waits for this number of further verifies on each instance.
    pub async fn wait_for_verifies(&self, more: usize) {
        let members = self.0.members.read().clone();
        let verified = |member: &Arc<Member>| member.verified.load(Ordering::Relaxed);
        let before: Vec<usize> = members.iter().map(verified).collect();
        eventually("keys are verified", 5 * PATIENCE, async || {
            let mut all = members.iter().zip(&before);
            all.all(|(member, before)| verified(member) >= before + more)
        })
        .await;
    }

    /// Ends the load when every instance is fresh and was called once more, and checks the history.
    pub async fn end(self) -> Outcome {
        let board = &self.0;
        self.wait_for_ends(ONCE_MORE / 10).await;
        self.wait_for_verifies(ONCE_MORE).await;
        board.writing.store(false, Ordering::Relaxed);
        finish(&board.writers).await;
        let stayed = board.members.read().clone();
        let last = board.recent.read().back().cloned();
        for member in &stayed {
            let last = last.as_ref().expect("a key was issued");
            member.client.verdict(&last.text).await;
        }
        tokio::time::sleep(AFTERMATH).await;
        board.verifying.store(false, Ordering::Relaxed);
        finish(&board.readers).await;
        let stayed = stayed.iter().map(|member| member.number).collect();
        let ended = board.ended.load(Ordering::Relaxed);
        Outcome::new(board.recorder.finish(), ended, stayed)
    }
}

/// Waits for all tasks. A panic of a task panics here.
async fn finish(tasks: &Mutex<JoinSet<()>>) {
    let mut tasks = std::mem::take(&mut *tasks.lock());
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a caller ends well");
    }
}

impl Board {
    fn publish(&self, key: Key) -> Arc<Key> {
        let key = Arc::new(key);
        self.recorder.issued(&key.id);
        let mut recent = self.recent.write();
        recent.push_back(Arc::clone(&key));
        while recent.len() > WINDOW {
            recent.pop_front();
        }
        key
    }

    /// A key of the test's own, or one of the youngest.
    fn pick(&self, n: usize) -> Option<Arc<Key>> {
        let pinned = self.pinned.read();
        if n.is_multiple_of(2) && !pinned.is_empty() {
            return pinned.get(n / 2 % pinned.len()).cloned();
        }
        let recent = self.recent.read();
        let back = (n * 7 + n / 5) % recent.len().max(1);
        recent.iter().rev().nth(back).cloned()
    }

    /// Verifies a key once on every instance, without waiting for the answers. Each answer adds a
    /// permit.
    fn look_everywhere(self: &Arc<Self>, key: &Arc<Key>) -> (Arc<Semaphore>, usize) {
        let members = self.members.read().clone();
        let done = Arc::new(Semaphore::new(0));
        let count = members.len();
        for member in members {
            let (board, key, done) = (Arc::clone(self), Arc::clone(key), Arc::clone(&done));
            self.readers.lock().spawn(async move {
                board.look(&member, &key, Consistency::Default).await;
                done.add_permits(1);
            });
        }
        (done, count)
    }

    /// Makes every instance know a key that lives.
    async fn warm(self: &Arc<Self>, key: &Arc<Key>) {
        let (done, count) = self.look_everywhere(key);
        let all = done.acquire_many(u32::try_from(count).expect("few members"));
        // The late ones were asked all the same.
        let _ = tokio::time::timeout(WARM, all).await;
    }

    /// Whether a call may fail like this. Such a call promises nothing and is no verdict.
    fn tolerates(&self, member: &Member, status: &Status) -> bool {
        let may_break = self.options.coming_and_going || member.left.load(Ordering::Relaxed);
        is_unavailable(status) || (may_break && is_broken(status))
    }

    /// One Verify, for the history.
    async fn look(&self, member: &Member, key: &Key, consistency: Consistency) {
        let tolerates = |status: &Status| self.tolerates(member, status);
        let (client, number) = (&member.client, member.number);
        let look = self
            .recorder
            .look(client, number, key, consistency, tolerates);
        look.await;
        member.verified.fetch_add(1, Ordering::Relaxed);
    }

    fn goes_on(&self, member: &Member) -> bool {
        self.writing.load(Ordering::Relaxed) && !member.left.load(Ordering::Relaxed)
    }

    /// Issues a key; `None` when the load is over.
    async fn issue(&self, member: &Member, account: &str) -> Option<Key> {
        for n in 0.. {
            if !self.goes_on(member) {
                break;
            }
            // A failed call may have made a key, so another slot is used.
            let account = format!("{account}-{n}");
            let made = match self.options.imports {
                true => self.import(member, &account, None).await,
                false => member.client.issue(&account, "").await,
            };
            match made {
                Ok((id, text)) => return Some(Key { id, text, account }),
                Err(status) if self.tolerates(member, &status) => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(status) => panic!("instance {}: {status:?}", member.number),
            }
        }
        None
    }

    /// Imports a new key, or one with a known text under each scheme. Returns the id and the text.
    async fn import(
        &self,
        member: &Member,
        account: &str,
        known: Option<&str>,
    ) -> Result<(String, String), Status> {
        let text = known.map_or_else(uuid_v4, str::to_owned);
        let sum: usize = account.bytes().map(usize::from).sum();
        let place = sum % Scheme::ALL.len();
        let schemes = match known {
            Some(_) => &Scheme::ALL[..],
            None => &Scheme::ALL[place..=place],
        };
        if known.is_none() {
            // Instances know for now that there is no such key.
            let members = self.members.read().clone();
            for member in members {
                let _ = member.client.verify(&text).await;
            }
        }
        let account = |n| match known {
            Some(_) => format!("{account}-{n}"),
            None => account.to_owned(),
        };
        let keys = schemes.iter().zip(0..);
        let keys = keys.map(|(scheme, n)| scheme.key(&account(n), &text));
        let request = importing(keys.collect::<Vec<_>>());
        let answer = member.client.send(request).await?;
        let first = answer.results.first().map(|result| result.key_id.clone());
        Ok((first.unwrap_or_default(), text))
    }

    /// Imports a key that has ended once more, and looks at it everywhere.
    async fn import_again(self: &Arc<Self>, member: &Member, key: &Arc<Key>) {
        let account = format!("again-{}", key.account);
        match self.import(member, &account, Some(&key.text)).await {
            Err(status) if !self.tolerates(member, &status) => {
                panic!("instance {}: {status:?}", member.number);
            }
            _ => drop(self.look_everywhere(key)),
        }
    }

    /// Ends a key, and repeats the call until it is confirmed. Returns its successor, if it has one.
    async fn end(self: &Arc<Self>, member: &Member, key: &Arc<Key>, way: End) -> Option<Key> {
        self.recorder.dying(&key.id);
        loop {
            match way.call(&member.client, key).await {
                Ok((left, successor)) => {
                    self.recorder.dead(&key.id, left);
                    self.ended.fetch_add(1, Ordering::Relaxed);
                    // No call can come sooner after the return than this.
                    self.look_everywhere(key);
                    return successor;
                }
                Err(status) if self.tolerates(member, &status) => {}
                Err(status) => panic!("instance {}: {way:?}: {status:?}", member.number),
            }
            if !self.goes_on(member) {
                return None;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
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
            board.look(&member, &key, consistency).await;
        }
        tokio::time::sleep(board.options.verify_pause).await;
    }
}

/// Issues keys and ends them.
async fn write(board: Arc<Board>, member: Arc<Member>, writer: usize) {
    let ends = board.options.ends;
    for n in 0.. {
        let account = format!("{}-{writer}-{n}-{}", member.number, board.recorder.now());
        let Some(key) = board.issue(&member, &account).await else {
            return;
        };
        let key = board.publish(key);
        // Every other key dies while it is being read for the first time.
        if n % 2 == 0 {
            board.warm(&key).await;
        }
        let way = ends[(writer + n / 2) % ends.len()];
        let successor = board.end(&member, &key, way).await;
        if board.options.imports {
            board.import_again(&member, &key).await;
        }
        if let Some(successor) = successor {
            let successor = board.publish(successor);
            board.warm(&successor).await;
            board.end(&member, &successor, End::ById).await;
        }
        tokio::time::sleep(board.options.write_pause).await;
    }
}
