//! What stands in which message. An edit that fails is owed: it is made again until it is done, and
//! so long the message counts as one that shows whatever key it may show. What is owed discloses no
//! key, so it is right whenever it comes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::events::Person;
use crate::flow::{Named, View};
use crate::metrics::Metrics;
use crate::screens::Screens;
use crate::shown::{Message, Shown};
use crate::telegram::failure::Failure;
use crate::telegram::{Repeat, Telegram};

/// How many messages are replaced at the same time at a stop.
const AT_ONCE: usize = 16;

/// Where a screen goes: in the place of this message, or into a new one.
pub type Place = Option<i32>;

/// The messages of all users.
pub struct Board {
    /// Where users are.
    pub telegram: Telegram,
    /// What things look like.
    pub screens: Screens,
    /// When a shown key is hidden. `None`: not by time.
    pub hide_after: Option<Duration>,
    /// Which messages are to be replaced.
    pub shown: Shown,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Board {
    /// Shows a view in `place`, or in a new message if there is none; gives where it is.
    pub async fn put(&self, person: Person, place: Place, view: &View) -> Place {
        if let Some(message) = place {
            match self.edit(person, message, view).await {
                Err(Failure::Gone) => {}
                _ => return place,
            }
        }
        // A new message may come through without its id. So it gets a key by an edit, before which
        // it is known that the message is to be hidden.
        let keyless = view.without_key();
        let first = keyless.as_ref().unwrap_or(view);
        let screen = self.screens.render(person.language, first);
        match self.telegram.send(person.id, &screen).await {
            Ok(message) => {
                if keyless.is_some() {
                    // What fails is logged, and owed.
                    let _ = self.edit(person, message, view).await;
                }
                Some(message)
            }
            failed => {
                log_failure("sending a message", failed);
                None
            }
        }
    }

    async fn edit(&self, person: Person, message: i32, view: &View) -> Result<(), Failure> {
        let screen = self.screens.render(person.language, view);
        let now = Instant::now();
        let shown = screen.discloses.is_some();
        // Before the edit: it may come through without an answer.
        let known = Message {
            user: person.id,
            id: message,
            key: screen
                .discloses
                .clone()
                .or_else(|| self.shown.key(person.id, message)),
            then: view.without_key().unwrap_or_else(|| view.clone()),
            language: person.language,
            due: if shown {
                self.hide_after.map(|after| now + after)
            } else {
                Some(now)
            },
            cause: "time",
            failures: (0, 0),
        };
        self.shown.put(known.clone(), now);
        // The answer may come at any moment, and with it what is to stand here then.
        let repeat = match view {
            View::Revoking { .. } => Repeat::No,
            _ => Repeat::Yes,
        };
        let edited = self
            .telegram
            .edit(person.id, message, &screen, repeat)
            .await;
        match &edited {
            Ok(()) if shown => {
                self.metrics.reveals.inc();
            }
            Ok(()) | Err(Failure::Gone) => drop(self.shown.remove(person.id, message)),
            Err(failure) => {
                self.shown.put_back(known, failure, Instant::now());
                log_failure("editing a message", edited.as_ref());
            }
        }
        self.count_shown();
        edited
    }

    /// The key, if this message is known to show it.
    pub fn key(&self, person: Person, message: i32) -> Option<Named> {
        self.shown.key(person.id, message)
    }

    /// Replaces what else may show this key of a user, outside of `place`.
    pub async fn supersede(
        &self,
        user: u64,
        key_id: Uuid,
        place: Place,
        then: impl Fn(String) -> View,
    ) {
        self.shown
            .supersede(user, key_id, place, then, Instant::now());
        self.settle(user, place).await;
    }

    /// Replaces the messages of a user whose time has come, outside of `place`.
    pub async fn settle(&self, user: u64, place: Place) {
        for message in self.shown.take_due(user, place, Instant::now()) {
            // What fails comes again.
            self.replace(message, Repeat::No).await;
        }
    }

    /// Replaces every message that is to be replaced some time.
    pub async fn settle_all(&self) {
        let replacing = self.shown.take_all().into_iter().map(|message| {
            let cause = match message.cause {
                "time" => "stop",
                other => other,
            };
            self.replace(Message { cause, ..message }, Repeat::Yes)
        });
        // A closure within the iterator would borrow for too short a time.
        let replacing: Vec<_> = replacing.collect();
        let replacing = futures_util::stream::iter(replacing);
        futures_util::StreamExt::for_each_concurrent(replacing, AT_ONCE, |one| one).await;
    }

    async fn replace(&self, message: Message, repeat: Repeat) {
        let screen = self.screens.render(message.language, &message.then);
        let edited = self
            .telegram
            .edit(message.user, message.id, &screen, repeat)
            .await;
        match edited {
            Ok(()) if message.key.is_some() => self.metrics.hidden(message.cause),
            Ok(()) | Err(Failure::Gone) => {}
            Err(failure) => {
                if failure != Failure::Blocked {
                    tracing::warn!(%failure, "a message could not be replaced yet");
                }
                self.shown.put_back(message, &failure, Instant::now());
            }
        }
        self.count_shown();
    }

    fn count_shown(&self) {
        let count = i64::try_from(self.shown.count()).unwrap_or(i64::MAX);
        self.metrics.showing.set(count);
    }
}

/// A user who has blocked the bot is no failure worth a line.
pub fn log_failure<T, F: std::borrow::Borrow<Failure>>(doing: &str, outcome: Result<T, F>) {
    match outcome {
        Ok(_) => {}
        Err(failure) if *failure.borrow() == Failure::Blocked => {}
        Err(failure) => tracing::warn!(failure = %failure.borrow(), "{doing} failed"),
    }
}
