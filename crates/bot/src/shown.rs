//! Which messages are to be replaced some time: those that show a key, after a time, at once when
//! the key is revoked, and at a stop; and those whose last edit failed, until it is made. In
//! memory: what a restart forgets stays until its user or the next screen in the same message
//! replaces it.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::flow::{Named, View};
use crate::i18n::Language;
use crate::telegram::failure::Failure;

/// How many messages are remembered. Beyond it, the oldest is replaced early.
const MAX_MESSAGES: usize = 10_000;
/// When to try again what failed; longer each time, up to a bound.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// What Telegram has refused so often it will not take.
const MAX_REFUSED: u8 = 10;

/// A message that is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose chat it is in; private chats have the id of their user.
    pub user: u64,
    /// Its id in the chat.
    pub id: i32,
    /// The key that it may show. `None`: it shows none, but not what it should either.
    pub key: Option<Named>,
    /// What is to stand there instead. It discloses no key, so it may come late.
    pub then: View,
    /// The language of the user.
    pub language: Language,
    /// When. `None`: not by time.
    pub due: Option<Instant>,
    /// Why its key goes, as it is counted.
    pub cause: &'static str,
    /// How often that failed, and how often because Telegram refused it.
    pub failures: (u32, u8),
}

/// The messages that are to be replaced.
pub struct Shown {
    messages: Mutex<HashMap<(u64, i32), Message>>,
    max: usize,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            messages: Mutex::default(),
            max: MAX_MESSAGES,
        }
    }
}

impl Shown {
    /// Remembers a message; it replaces what was known of it.
    pub fn put(&self, message: Message, now: Instant) {
        let mut messages = self.messages.lock();
        let place = (message.user, message.id);
        if messages.len() >= self.max && !messages.contains_key(&place) {
            // Those without a time come last; if there are no others, one of them goes.
            let due = |message: &Message| (message.due.is_none(), message.due);
            let first = messages
                .values_mut()
                .filter(|m| !m.is_due(now))
                .min_by_key(|m| due(m));
            if let Some(first) = first {
                first.due = Some(now);
            }
            // The due ones are on their way out; only if they do not go, the memory is cut.
            if messages.len() >= self.max * 2 {
                let any = messages.keys().next().copied();
                any.map(|place| messages.remove(&place));
            }
        }
        messages.insert(place, message);
    }

    /// Remembers a message that could not be replaced, for another attempt.
    pub fn put_back(&self, message: Message, failure: &Failure, now: Instant) {
        let (failures, refused) = message.failures;
        let refused = refused + u8::from(matches!(failure, Failure::Refused(_)));
        if refused >= MAX_REFUSED {
            return;
        }
        let pause = match failure {
            Failure::TooMany(wait) => *wait,
            // Nobody looks at it before the user is back.
            Failure::Blocked => LONGEST_PAUSE,
            _ => AGAIN_AFTER * 2_u32.saturating_pow(failures.min(16)),
        };
        let again = Message {
            due: Some(now + pause.min(LONGEST_PAUSE)),
            failures: (failures.saturating_add(1), refused),
            ..message
        };
        self.put(again, now);
    }

    /// Forgets a message: it shows what it should.
    pub fn remove(&self, user: u64, id: i32) -> Option<Message> {
        self.messages.lock().remove(&(user, id))
    }

    /// The key that this message may show.
    pub fn key(&self, user: u64, id: i32) -> Option<Named> {
        self.messages.lock().get(&(user, id))?.key.clone()
    }

    /// Has all messages of `user` that may show the key replaced at once, except the one in `except`.
    pub fn supersede(
        &self,
        user: u64,
        key_id: Uuid,
        except: Option<i32>,
        then: impl Fn(String) -> View,
        now: Instant,
    ) {
        let mut messages = self.messages.lock();
        let of_user = messages.values_mut().filter(|message| message.user == user);
        for message in of_user.filter(|message| Some(message.id) != except) {
            if let Some(key) = message.key.as_ref().filter(|key| key.key_id == key_id) {
                message.then = then(key.hint.clone());
                message.due = Some(now);
                message.cause = "revoked";
                message.failures = (0, 0);
            }
        }
    }

    /// Takes out the messages of `user` that are due, except the one in `except`.
    pub fn take_due(&self, user: u64, except: Option<i32>, now: Instant) -> Vec<Message> {
        self.take(|message| {
            message.user == user && message.is_due(now) && Some(message.id) != except
        })
    }

    /// Takes out all.
    pub fn take_all(&self) -> Vec<Message> {
        self.take(|_| true)
    }

    /// The users who have messages that are due.
    pub fn users_due(&self, now: Instant) -> Vec<u64> {
        let messages = self.messages.lock();
        let mut users: Vec<_> = messages
            .values()
            .filter(|message| message.is_due(now))
            .map(|message| message.user)
            .collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// How many may show a key.
    pub fn count(&self) -> usize {
        let messages = self.messages.lock();
        messages.values().filter(|m| m.key.is_some()).count()
    }

    fn take(&self, is_wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut messages = self.messages.lock();
        messages
            .extract_if(|_, m| is_wanted(m))
            .map(|(_, m)| m)
            .collect()
    }
}

impl Message {
    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn message(user: u64, id: i32, key: u128, due: Option<Instant>) -> Message {
        Message {
            user,
            id,
            key: Some(Named {
                key_id: Uuid::from_u128(key),
                hint: "kw_abcd".to_owned(),
            }),
            then: View::Help,
            language: Language::English,
            due,
            cause: "time",
            failures: (0, 0),
        }
    }

    #[test]
    fn what_is_due_is_taken_once() {
        let (shown, now) = (Shown::default(), Instant::now());
        shown.put(message(1, 1, 1, Some(now + MINUTE)), now);
        shown.put(message(1, 2, 1, None), now);
        shown.put(message(2, 1, 2, Some(now + MINUTE)), now);
        assert!(shown.users_due(now).is_empty());
        assert_eq!(shown.users_due(now + MINUTE), [1, 2]);
        assert!(shown.take_due(1, Some(1), now + MINUTE).is_empty());
        assert_eq!(shown.take_due(1, None, now + MINUTE).len(), 1);
        assert!(shown.take_due(1, None, now + MINUTE).is_empty());
        // Shown again before it was due.
        shown.put(message(2, 1, 2, Some(now + MINUTE * 2)), now);
        assert!(shown.take_due(2, None, now + MINUTE).is_empty());
        assert!(shown.remove(2, 9).is_none() && shown.count() == 2);
        assert_eq!(shown.take_all().len(), 2);
    }

    #[test]
    fn a_revoked_key_is_due_at_once_wherever_its_user_sees_it() {
        let (shown, now) = (Shown::default(), Instant::now());
        for (user, id, key) in [(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 1, 1)] {
            shown.put(message(user, id, key, None), now);
        }
        let then = View::Gone;
        shown.supersede(1, Uuid::from_u128(1), Some(1), then, now);
        let due = shown.take_due(1, None, now);
        let [only] = &due[..] else {
            panic!("{due:?}");
        };
        assert_eq!((only.id, only.cause), (2, "revoked"));
        assert_eq!(only.then, View::Gone("kw_abcd".to_owned()));
        assert!(shown.users_due(now + MINUTE).is_empty());
    }

    #[test]
    fn what_fails_is_tried_again_until_telegram_has_refused_it_often() {
        let (shown, mut now) = (Shown::default(), Instant::now());
        shown.put(message(1, 1, 1, Some(now)), now);
        let lost = Failure::Lost("x".to_owned());
        let mut try_again = |failure: &Failure, expected: Duration| {
            let message = shown.take_due(1, None, now).pop().unwrap();
            shown.put_back(message, failure, now);
            let almost = now + expected - Duration::from_millis(1);
            assert!(shown.take_due(1, None, almost).is_empty());
            now += expected;
        };
        for times in 0..30 {
            let pause = AGAIN_AFTER * 2_u32.pow(times.min(16));
            try_again(&lost, pause.min(LONGEST_PAUSE));
        }
        try_again(&Failure::TooMany(MINUTE), MINUTE);
        try_again(&Failure::Blocked, LONGEST_PAUSE);
        let refused = Failure::Refused("x".to_owned());
        for _ in 1..MAX_REFUSED {
            try_again(&refused, LONGEST_PAUSE);
        }
        let message = shown.take_due(1, None, now).pop().unwrap();
        shown.put_back(message, &refused, now);
        assert_eq!(shown.count(), 0);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_hidden_early() {
        let now = Instant::now();
        let shown = Shown {
            max: 3,
            ..Shown::default()
        };
        shown.put(message(9, 9, 1, None), now);
        for id in 0..100 {
            let at = now + MINUTE * u32::try_from(id + 1).unwrap();
            shown.put(message(1, id, 1, Some(at)), now);
            assert!(shown.count() <= 6);
        }
        assert_eq!(shown.users_due(now), [1]);
    }
}
