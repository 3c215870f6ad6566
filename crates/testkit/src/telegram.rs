//! Telegram's servers, played on this machine: the Bot API over HTTP for a bot that runs as a process
//! of its own, and the side of the people who talk to it.
//!
//! It behaves as the Bot API does where a bot can notice: an update is given again until a higher
//! `offset` confirms it, a second poll ends the first with 409, a screen that does not change is
//! refused, HTML is parsed, limits are held to. Faults come on demand: see [`Fault`] and [`Held`].
//! Everything that a bot has asked for and all that it has ever shown is kept, so that a test can
//! look for what must not be there.
//!
//! The crate teremock does not fit here: it puts updates into a handler tree of the test's own
//! process, and serves no `getUpdates` that another process could ask.

mod calls;
mod fault;
mod format;
mod html;
mod markup;
mod methods;
mod parameters;
mod person;
mod screen;
mod server;
mod updates;
mod webhook;
mod world;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

pub use calls::Call;
pub use fault::{Fault, Held, When};
pub use markup::Button;
pub use person::Person;
pub use screen::Screen;
use world::World;

/// The bot's token. It is no secret: it is good for this fake alone.
pub(crate) const TOKEN: &str = "7000000001:AAfakeTokenOfATestBot_0123456789abc";
/// What a test waits for must come within this time, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server and the people share.
struct Shared {
    world: Mutex<World>,
    /// How often the world has changed.
    changed: watch::Sender<u64>,
}

impl Shared {
    /// Looks at the world.
    fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.lock())
    }

    /// Changes the world, and wakes who waits for a change.
    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let outcome = change(&mut self.world.lock());
        self.changed.send_modify(|times| *times += 1);
        outcome
    }

    /// Waits until `find` finds something in what `look` sees of the world. `find` may look at the
    /// world itself.
    async fn wait<S, T>(
        &self,
        what: &str,
        look: impl Fn(&World) -> S,
        mut find: impl FnMut(S) -> Option<T>,
    ) -> T {
        let mut changes = self.changed.subscribe();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let seen = self.read(&look);
                if let Some(found) = find(seen) {
                    return found;
                }
                changes.changed().await.expect("the world is there");
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!(
                "waited {PATIENCE:?} in vain: {what}\n{}",
                self.read(World::story)
            ),
        }
    }
}

/// A fake Telegram on a free port of 127.0.0.1, with one bot. It ends when it is dropped.
pub struct Telegram {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Telegram {
    /// Starts it, on a thread and a runtime of its own, so that a test that blocks does not block
    /// it.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .expect("a free port can be listened on");
        listener
            .set_nonblocking(true)
            .expect("a listener can be made asynchronous");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            world: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let (stop, stopped) = watch::channel(());
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made")
                .block_on(server::serve(listener, served, stopped));
        });
        Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// What stands in place of `https://api.telegram.org`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bot's token.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// A person with this id, at the app in this language (an IETF tag such as `en` or `zh-hans`;
    /// empty: the app does not say). They are in their private chat with the bot.
    pub fn person(&self, id: i64, language: &str) -> Person {
        self.shared.change(|world| world.meet(id, language));
        Person::new(Arc::clone(&self.shared), id, id)
    }

    /// Makes a group with this id, a negative number; [`Person::within`] takes a person there.
    pub fn group(&self, id: i64) {
        self.shared.change(|world| world.found(id));
    }

    /// What the bot has asked for so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.read(|world| world.calls.clone())
    }

    /// The calls of one method, such as `sendMessage`.
    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.method == method);
        calls
    }

    /// Waits until there are so many calls of a method, those that are under way included.
    pub async fn called(&self, method: &str, times: usize) {
        let what = format!("{times} calls of {method}");
        let count = |world: &World| {
            let calls = world.calls.iter().filter(|call| call.method == method);
            calls.count()
        };
        let is_enough = |count| (count >= times).then_some(());
        self.shared.wait(&what, count, is_enough).await;
    }

    /// Every state of every message of the bot, in order, also of those that are gone.
    pub fn shown(&self) -> Vec<Screen> {
        self.shared.read(|world| world.shown.clone())
    }

    /// The commands that the bot has set: by language (empty: for all others), each with its
    /// description.
    pub fn commands(&self) -> BTreeMap<String, Vec<(String, String)>> {
        self.shared.read(|world| world.commands.clone())
    }

    /// The next so many calls of a method go wrong.
    pub fn fault(&self, method: &str, times: usize, fault: Fault) {
        self.shared
            .change(|world| world.faults.add(method, times, fault));
    }

    /// Takes away the faults that have not happened yet.
    pub fn heal(&self) {
        self.shared.change(|world| world.faults.clear());
    }

    /// Holds the next call of a method, before or after it is performed, until it is released.
    pub fn hold(&self, method: &str, when: When) -> Held {
        let held = Held::new(when);
        self.fault(method, 1, held.fault());
        held
    }

    /// Gives the bot an update that no person would cause: anything at all. An object without an
    /// `update_id` gets one; the id under which it is confirmed is returned.
    pub fn inject(&self, update: Value) -> i64 {
        self.shared.change(|world| world.inject(update))
    }

    /// Gives the bot an update once more, as when its confirmation was lost.
    pub fn redeliver(&self, update: i64) {
        self.shared.change(|world| world.redeliver(update));
    }

    /// Waits until the bot has confirmed every update, that is, has handled it.
    pub async fn settled(&self) {
        let what = "every update is confirmed";
        let confirmed = World::all_confirmed;
        self.shared
            .wait(what, confirmed, |is_so| is_so.then_some(()))
            .await;
    }

    /// From now on every query that a tap has made so far is too old to be answered.
    pub fn age_queries(&self) {
        self.shared.change(|world| world.queries.clear());
    }

    /// Says where `host` of a webhook's URL is. What is posted to `https://host` comes there in plain
    /// HTTP, as from a server that ends TLS.
    pub fn resolve(&self, host: &str, address: SocketAddr) {
        self.shared
            .change(|world| world.hosts.insert(host.to_owned(), address));
    }

    /// Where the bot wants its updates posted.
    pub fn webhook(&self) -> Option<String> {
        self.shared
            .read(|world| Some(world.webhook.as_ref()?.url.clone()))
    }

    /// What happened, for a person to read: the last calls, and what stands in each chat.
    pub fn story(&self) -> String {
        self.shared.read(World::story)
    }
}

impl Drop for Telegram {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            let _ = thread.join();
        }
    }
}
