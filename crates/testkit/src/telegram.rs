//! A fake Telegram: the Bot API over HTTP for a bot in its own process, and the users who talk to
//! the bot.
//!
//! It behaves like the Bot API wherever a bot can notice a difference. An update is repeated until
//! a higher `offset` confirms it. A second poll ends the first with 409. An edit without a change
//! is refused. HTML is parsed, and limits are checked. Tests cause faults with [`Fault`] and
//! [`HeldCall`]. All calls of the bot and all its messages are recorded, so that a test can search
//! them for secrets.
//!
//! The crate teremock is not suitable: it feeds updates into a handler in the test's own process,
//! and provides no `getUpdates` for another process.

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
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

pub use calls::Call;
pub use fault::{Fault, HeldCall, When};
pub use markup::Button;
pub use person::Person;
pub use screen::Screen;
use world::World;

use crate::deadline::PATIENCE;
use crate::server::{listen, run_on_thread};

/// The bot's token. It is not secret, because only this fake accepts it.
pub(crate) const TOKEN: &str = "7000000001:AAfakeTokenOfATestBot_0123456789abc";

/// The state that the server and the users share.
struct Shared {
    /// The bot's token.
    token: &'static str,
    world: Mutex<World>,
    /// The number of changes.
    changed: watch::Sender<u64>,
}

impl Shared {
    /// Reads the state.
    fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.lock())
    }

    /// Changes the state and wakes all tasks that wait for a change.
    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let outcome = change(&mut self.world.lock());
        self.changed.send_modify(|times| *times += 1);
        outcome
    }

    /// Waits until `find` returns a value for the part of the state that `look` reads. `find` may
    /// also read the state.
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
                "timed out after {PATIENCE:?}: {what}\n{}",
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
    /// Starts the fake on its own thread, so that a blocking test does not block it.
    pub fn start() -> Self {
        Self::with_token(TOKEN)
    }

    /// The same for another bot.
    pub fn with_token(token: &'static str) -> Self {
        let (listener, address) = listen();
        let shared = Arc::new(Shared {
            token,
            world: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let (stop, stopped) = watch::channel(());
        let served = Arc::clone(&shared);
        let thread = run_on_thread(move || server::serve(listener, served, stopped));
        Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The URL that replaces `https://api.telegram.org`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The address of the fake.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bot's token.
    pub fn token(&self) -> &'static str {
        self.shared.token
    }

    /// A user with this id in the private chat with the bot. `language` is the language of the app:
    /// an IETF tag such as `en` or `zh-hans`, or empty if the app does not send it.
    pub fn person(&self, id: i64, language: &str) -> Person {
        self.shared.change(|world| world.meet(id, language));
        Person::new(Arc::clone(&self.shared), id, id)
    }

    /// Creates a group with this negative id. [`Person::within`] moves a user there.
    pub fn group(&self, id: i64) {
        self.shared.change(|world| world.found(id));
    }

    /// All calls of the bot so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.read(|world| world.calls.clone())
    }

    /// The calls of one method, such as `sendMessage`.
    pub fn calls_of(&self, method: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.method == method);
        calls
    }

    /// Waits for this number of calls of a method, including calls in progress.
    pub async fn called(&self, method: &str, times: usize) {
        let what = format!("{times} calls of {method}");
        let count = |world: &World| {
            let calls = world.calls.iter().filter(|call| call.method == method);
            calls.count()
        };
        let is_enough = |count| (count >= times).then_some(());
        self.shared.wait(&what, count, is_enough).await;
    }

    /// All states of all messages of the bot, in order, including deleted messages.
    pub fn shown(&self) -> Vec<Screen> {
        self.shared.read(|world| world.shown.clone())
    }

    /// The commands that the bot has set for a language (empty: for all other languages), with
    /// their descriptions.
    pub fn commands(&self) -> BTreeMap<String, Vec<(String, String)>> {
        self.shared.read(|world| world.commands.clone())
    }

    /// Makes the next calls of a method fail.
    pub fn fault(&self, method: &str, times: usize, fault: Fault) {
        self.shared
            .change(|world| world.faults.add(method, times, fault));
    }

    /// Removes the pending faults.
    pub fn heal(&self) {
        self.shared.change(|world| world.faults.clear());
    }

    /// Holds the next call of a method, before or after its execution, until it is released.
    pub fn hold(&self, method: &str, when: When) -> HeldCall {
        let held = HeldCall::new(when);
        self.fault(method, 1, held.fault());
        held
    }

    /// Sends the bot an arbitrary update. An object without `update_id` gets one. Returns the id
    /// that confirms the update.
    pub fn inject(&self, update: Value) -> i64 {
        self.shared.change(|world| world.inject(update))
    }

    /// Sends the bot an update again, as if its confirmation was lost.
    pub fn redeliver(&self, update: i64) {
        self.shared.change(|world| world.redeliver(update));
    }

    /// Waits until the bot has confirmed, and so handled, every update.
    pub async fn settled(&self) {
        let what = "every update is confirmed";
        let confirmed = World::all_confirmed;
        self.shared
            .wait(what, confirmed, |is_so| is_so.then_some(()))
            .await;
    }

    /// Makes all callback queries so far too old to be answered.
    pub fn age_queries(&self) {
        self.shared.change(|world| world.queries.clear());
    }

    /// Sets the address for `host` of a webhook's URL. Requests to `https://host` arrive there in
    /// plain HTTP, as from a proxy that terminates TLS.
    pub fn resolve(&self, host: &str, address: SocketAddr) {
        self.shared
            .change(|world| world.hosts.insert(host.to_owned(), address));
    }

    /// The URL of the bot's webhook.
    pub fn webhook(&self) -> Option<String> {
        self.shared
            .read(|world| Some(world.webhook.as_ref()?.url.clone()))
    }

    /// A summary for people: the last calls, and the messages in each chat.
    pub fn story(&self) -> String {
        self.shared.read(World::story)
    }
}

impl Drop for Telegram {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The panic of the thread was already printed.
            let _ = thread.join();
        }
    }
}
