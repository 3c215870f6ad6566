//! Shows views in messages. A failed edit is repeated until it succeeds; until then the message
//! counts as one that shows its key. A repeated edit discloses no key, so it may come late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;
use uuid::Uuid;

use crate::account::Place;
use crate::answers::KeyName;
use crate::callback::{Callback, InvalidData};
use crate::events::Person;
use crate::flow::{Unclear, View};
use crate::i18n::Id;
use crate::metrics::{Metrics, count};
use crate::screens::Screens;
use crate::telegram::failure::Failure;
use crate::telegram::{MessageId, ONCE, SHORTLY, Telegram};
use crate::tracked::{BotUser, TrackedMessage, TrackedMessages};

/// Concurrent edits at a stop.
const MAX_CONCURRENT: usize = 16;

/// The messages of all users of a bot.
pub struct Messages {
    /// The position of the bot in the settings.
    pub bot: usize,
    /// Where the messages are.
    pub telegram: Arc<Telegram>,
    /// What they show.
    pub screens: Screens,
    /// Those that must be replaced, of all bots.
    pub tracked: Arc<TrackedMessages>,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// Nothing hides a key that is shown from now on.
    pub is_stopping: AtomicBool,
}

impl Messages {
    /// Shows a view in this message, or in a new one. Returns the message, if its id is known.
    pub async fn show(
        &self,
        person: Person,
        message: Option<MessageId>,
        place: &Place,
        view: &View,
    ) -> Option<MessageId> {
        let keyless = view.without_key();
        let view = match &keyless {
            Some(keyless) if self.is_stopping() => keyless,
            _ => view,
        };
        if let Some(message) = message
            && self.edit(person, message, place, view).await != Err(Failure::Gone)
        {
            return Some(message);
        }
        // Telegram may create a message and lose the answer with its id, and sending is repeated. So
        // a new message gets its key by an edit, after the bot knows which message it must hide.
        let first = keyless.as_ref().unwrap_or(view);
        let screen = self.screens.render(person.language, place, first);
        let sent = self.telegram.send(person.id, &screen).await;
        log_failure("sending a message", sent.as_ref());
        let message = sent.ok()?;
        if view.discloses().is_some() && !self.is_stopping() {
            // A failed edit is logged and repeated.
            let _ = self.edit(person, message, place, view).await;
        }
        Some(message)
    }

    async fn edit(
        &self,
        person: Person,
        message: MessageId,
        place: &Place,
        view: &View,
    ) -> Result<(), Failure> {
        let screen = self.screens.render(person.language, place, view);
        let now = Instant::now();
        let shown = view.discloses().cloned();
        let shows_key = shown.is_some();
        let tracked = TrackedMessage {
            user: self.user(person),
            id: message,
            key: shown.or_else(|| self.key(person, message)),
            place: place.clone(),
            replacement: view.without_key().unwrap_or_else(|| view.clone()),
            language: person.language,
            due: match shows_key {
                true => self.screens.hide_after.map(|after| now + after),
                false => Some(now),
            },
            cause: "time",
            failures: 0,
        };
        // Before the edit: it may succeed without an answer.
        self.tracked.put(tracked.clone(), now);
        let attempts = match view {
            // The result of the Revoke may replace it at any time.
            View::Unclear(_, Unclear::Running) => ONCE,
            _ => SHORTLY,
        };
        let edit = self.telegram.edit(person.id, message, &screen, attempts);
        let edited = edit.await;
        match &edited {
            Ok(()) if shows_key => {
                self.metrics.reveals.inc();
                if self.is_stopping() {
                    self.replace(tracked, SHORTLY).await;
                }
            }
            Ok(()) | Err(Failure::Gone) => self.tracked.remove(self.user(person), message),
            Err(failure) => {
                log_failure("editing a message", edited.as_ref());
                self.put_back(tracked, failure);
            }
        }
        self.count_tracked();
        edited
    }

    const fn user(&self, person: Person) -> BotUser {
        (self.bot, person.id)
    }

    /// The key, if this message is known to show one.
    pub fn key(&self, person: Person, message: MessageId) -> Option<KeyName> {
        self.tracked.key(self.user(person), message)
    }

    /// What a button does.
    ///
    /// # Errors
    ///
    /// Data that this bot did not write for this user.
    pub fn action(&self, person: Person, data: &str) -> Result<Callback, InvalidData> {
        self.telegram.codec().read(person.id, data)
    }

    /// Answers a tap, with a text in a window if there is one.
    pub async fn answer(&self, person: Person, query: &str, text: Option<Id>) {
        let text = text.map(|id| self.screens.texts.plain(person.language, id));
        log_failure("answering a tap", self.telegram.answer(query, text).await);
    }

    /// Says in a group that the bot works in private chats only.
    pub async fn send_to_group(&self, person: Person, chat: i64) {
        let screen = self
            .screens
            .render(person.language, &Place::default(), &View::Group);
        let sent = self.telegram.send_to_group(chat, &screen).await;
        log_failure("answering in a group", sent);
    }

    /// Replaces all messages that show this key, except one of this person: the person's own now, and
    /// those of others at the next sweep.
    pub async fn supersede(
        &self,
        person: Person,
        key_id: Uuid,
        except: Option<MessageId>,
        replacement: impl Fn(String) -> View,
    ) {
        let (user, now) = (self.user(person), Instant::now());
        self.tracked
            .supersede(user, key_id, except, replacement, now);
        self.replace_due(person.id, except).await;
    }

    /// The users who have messages to replace now.
    pub fn users_due(&self) -> Vec<u64> {
        self.tracked.users_due(self.bot, Instant::now())
    }

    /// Replaces the due messages of a user, except `except`.
    pub async fn replace_due(&self, user: u64, except: Option<MessageId>) {
        let user = (self.bot, user);
        for message in self.tracked.take_due(user, except, Instant::now()) {
            // A failed edit becomes due again.
            self.replace(message, ONCE).await;
        }
    }

    /// From now on, messages get the hints of keys.
    pub fn stop_showing(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Replaces every tracked message, at a stop.
    pub async fn replace_all(&self) {
        let replacing = self.tracked.take_all(self.bot).into_iter().map(|message| {
            let cause = match message.cause {
                "time" => "stop",
                other => other,
            };
            self.replace(TrackedMessage { cause, ..message }, SHORTLY)
        });
        // Collected, because the closure borrows for too short a time inside the stream.
        let replacing: Vec<_> = replacing.collect();
        let replacing = futures_util::stream::iter(replacing);
        futures_util::StreamExt::for_each_concurrent(replacing, MAX_CONCURRENT, |edit| edit).await;
    }

    async fn replace(&self, message: TrackedMessage, attempts: u32) {
        let (place, view) = (&message.place, &message.replacement);
        let screen = self.screens.render(message.language, place, view);
        let ((_, user), id) = (message.user, message.id);
        match self.telegram.edit(user, id, &screen, attempts).await {
            Ok(()) if message.key.is_some() => count(&self.metrics.hidden, "cause", message.cause),
            Ok(()) | Err(Failure::Gone) => {}
            Err(failure) => {
                log_failure("replacing a message", Err::<(), _>(&failure));
                self.put_back(message, &failure);
            }
        }
        self.count_tracked();
    }

    fn put_back(&self, message: TrackedMessage, failure: &Failure) {
        if matches!(failure, Failure::Refused(_)) && message.key.is_some() {
            tracing::error!(%failure, "a message still shows a key: Telegram refuses the edit");
        }
        self.tracked.put_back(message, failure, Instant::now());
    }

    fn count_tracked(&self) {
        let count = i64::try_from(self.tracked.count()).unwrap_or(i64::MAX);
        self.metrics.showing.set(count);
    }
}

/// Logs a failure, except that a user has blocked the bot.
fn log_failure<T, F: std::borrow::Borrow<Failure>>(call: &str, outcome: Result<T, F>) {
    if let Err(failure) = outcome
        && *failure.borrow() != Failure::Blocked
    {
        tracing::warn!(failure = %failure.borrow(), "{call} failed");
    }
}
