//! Which messages show a key at the moment, so that they can be hidden: after a time, at once when
//! the key is revoked, and at a stop. In memory: what a restart forgets stays until its user or
//! the next screen in the same message replaces it.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::flow::Named;
use crate::i18n::Language;

/// How many messages are remembered. Beyond it, the oldest is hidden early.
const MAX_MESSAGES: usize = 10_000;
/// When to try again what could not be hidden, and how often.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
const MAX_ATTEMPTS: u8 = 10;

/// A message that shows a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose chat it is in; private chats have the id of their user.
    pub user: u64,
    /// Its id in the chat.
    pub id: i32,
    /// The key.
    pub key: Named,
    /// The language of the user.
    pub language: Language,
    /// When to hide it. `None`: not by time.
    pub hide_at: Option<Instant>,
    /// How often that failed.
    pub attempts: u8,
}

/// The messages that show a key.
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
            let due = |message: &Message| (message.hide_at.is_none(), message.hide_at);
            let first = messages
                .values_mut()
                .filter(|m| !m.is_due(now))
                .min_by_key(|m| due(m));
            if let Some(first) = first {
                first.hide_at = Some(now);
            }
            // The due ones are on their way out; only if they do not go, the memory is cut.
            if messages.len() >= self.max * 2 {
                let any = messages.keys().next().copied();
                any.map(|place| messages.remove(&place));
            }
        }
        messages.insert(place, message);
    }

    /// Remembers a message that could not be hidden, for another attempt; not for ever.
    pub fn put_back(&self, message: Message, now: Instant) {
        if message.attempts < MAX_ATTEMPTS {
            let again = Message {
                hide_at: Some(now + AGAIN_AFTER),
                attempts: message.attempts + 1,
                ..message
            };
            self.put(again, now);
        }
    }

    /// Forgets a message: it shows something else now.
    pub fn remove(&self, user: u64, id: i32) -> Option<Message> {
        self.messages.lock().remove(&(user, id))
    }

    /// The beginning of the key, if this message is known to show it.
    pub fn hint(&self, user: u64, id: i32, key_id: Uuid) -> Option<String> {
        let messages = self.messages.lock();
        let message = messages.get(&(user, id))?;
        (message.key.key_id == key_id).then(|| message.key.hint.clone())
    }

    /// Takes out the messages of `user` that show the key.
    pub fn take_of_key(&self, user: u64, key_id: Uuid) -> Vec<Message> {
        self.take(|message| message.user == user && message.key.key_id == key_id)
    }

    /// Takes out the messages of `user` that are due.
    pub fn take_due(&self, user: u64, now: Instant) -> Vec<Message> {
        self.take(|message| message.user == user && message.is_due(now))
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

    /// How many there are.
    pub fn count(&self) -> usize {
        self.messages.lock().len()
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
        self.hide_at.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn message(user: u64, id: i32, key: u128, hide_at: Option<Instant>) -> Message {
        Message {
            user,
            id,
            key: Named {
                key_id: Uuid::from_u128(key),
                hint: "kw_abcd".to_owned(),
            },
            language: Language::English,
            hide_at,
            attempts: 0,
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
        assert_eq!(shown.take_due(1, now + MINUTE).len(), 1);
        assert!(shown.take_due(1, now + MINUTE).is_empty());
        // Shown again before it was due.
        shown.put(message(2, 1, 2, Some(now + MINUTE * 2)), now);
        assert!(shown.take_due(2, now + MINUTE).is_empty());
        assert_eq!(shown.take_of_key(1, Uuid::from_u128(1)).len(), 1);
        assert!(shown.take_of_key(1, Uuid::from_u128(2)).is_empty());
        assert!(shown.remove(2, 9).is_none() && shown.count() == 1);
        assert_eq!(shown.take_all().len(), 1);
    }

    #[test]
    fn what_cannot_be_hidden_is_tried_again_but_not_for_ever() {
        let (shown, mut now) = (Shown::default(), Instant::now());
        shown.put(message(1, 1, 1, Some(now)), now);
        let mut attempts = 0;
        while let Some(message) = shown.take_due(1, now).pop() {
            attempts += 1;
            shown.put_back(message, now);
            assert!(shown.take_due(1, now).is_empty());
            now += AGAIN_AFTER;
        }
        assert_eq!(attempts, u32::from(MAX_ATTEMPTS) + 1);
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
