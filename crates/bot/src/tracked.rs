//! The messages that the bot must replace: those that show a key (after a time, when the key is
//! revoked, and at a stop), and those whose last edit failed.
//!
//! This memory does not survive a restart: a forgotten message stays until the user continues in
//! it.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::account::Place;
use crate::answers::KeyName;
use crate::flow::View;
use crate::i18n::Language;
use crate::telegram::MessageId;
use crate::telegram::failure::Failure;

/// Above this number, the oldest message is replaced early.
const MAX_MESSAGES: usize = 10_000;
/// The pause after the first failure; each failure doubles it, up to `MAX_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// After so many failures, an edit that Telegram refuses is given up, unless the message shows a key.
const MAX_FAILURES: u32 = 10;

/// After so many failures, about a week, the message of a user who has blocked the bot is given up.
const MAX_BLOCKED: u32 = 24 * 7;

/// A bot of this process, by its position in the settings, and one of its users.
pub type BotUser = (usize, u64);

/// A message that must be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedMessage {
    /// The user, whose id is also that of the private chat.
    pub user: BotUser,
    /// Its id in the chat.
    pub id: MessageId,
    /// The key that it may show; `None` if only its last edit failed.
    pub key: Option<KeyName>,
    /// The place that it is about.
    pub place: Place,
    /// The view that replaces it. It discloses no key, so it may come late.
    pub replacement: View,
    /// The language of the user.
    pub language: Language,
    /// When it is replaced; `None` means at no fixed time.
    pub due: Option<Instant>,
    /// Why its key is hidden, as a label in metrics.
    pub cause: &'static str,
    /// How many edits have failed.
    pub failures: u32,
}

/// The messages that must be replaced, of all bots of the process.
#[derive(Default)]
pub struct TrackedMessages {
    messages: Mutex<HashMap<(BotUser, MessageId), TrackedMessage>>,
}

impl TrackedMessages {
    /// Tracks a message, in place of what was known about it.
    pub fn put(&self, message: TrackedMessage, now: Instant) {
        let mut messages = self.messages.lock();
        let key = (message.user, message.id);
        if messages.len() >= MAX_MESSAGES && !messages.contains_key(&key) {
            // Messages without a time come last.
            let oldest = messages
                .values_mut()
                .filter(|m| !m.is_due(now))
                .min_by_key(|m| (m.due.is_none(), m.due));
            if let Some(oldest) = oldest {
                oldest.due = Some(now);
            }
            // Due messages leave soon. Only if they cannot, one message is forgotten.
            if messages.len() >= MAX_MESSAGES * 2 {
                let any = messages.keys().next().copied();
                any.map(|key| messages.remove(&key));
            }
        }
        messages.insert(key, message);
    }

    /// Tracks a message after a failed edit, for another attempt.
    pub fn put_back(&self, mut message: TrackedMessage, failure: &Failure, now: Instant) {
        let failures = message.failures.saturating_add(1);
        match (failure, &message.key) {
            // Telegram may refuse what the view contains from others. The hint of a key is harmless.
            (Failure::Refused(_), Some(key)) => {
                message.replacement = View::HiddenKey(None, key.hint.clone());
            }
            (Failure::Refused(_), None) if failures >= MAX_FAILURES => return,
            (Failure::Blocked, _) if failures >= MAX_BLOCKED => return,
            _ => {}
        }
        let pause = match failure {
            Failure::TooMany(wait) => *wait,
            // The user does not look at it before they unblock the bot.
            Failure::Blocked => MAX_PAUSE,
            _ => FIRST_PAUSE * 2_u32.saturating_pow(message.failures.min(16)),
        };
        let again = TrackedMessage {
            due: Some(now + pause.min(MAX_PAUSE)),
            failures,
            ..message
        };
        self.put(again, now);
    }

    /// Forgets a message, because it shows what it should.
    pub fn remove(&self, user: BotUser, id: MessageId) {
        self.messages.lock().remove(&(user, id));
    }

    /// The key that this message may show.
    pub fn key(&self, user: BotUser, id: MessageId) -> Option<KeyName> {
        self.messages.lock().get(&(user, id))?.key.clone()
    }

    /// Makes all messages that may show the key due now, except this message of `user`: several users
    /// and bots can share an account.
    pub fn supersede(
        &self,
        user: BotUser,
        key_id: Uuid,
        except: Option<MessageId>,
        replacement: impl Fn(String) -> View,
        now: Instant,
    ) {
        let is_except =
            |message: &TrackedMessage| (message.user, Some(message.id)) == (user, except);
        let mut messages = self.messages.lock();
        for message in messages.values_mut().filter(|message| !is_except(message)) {
            if let Some(key) = message.key.as_ref().filter(|key| key.key_id == key_id) {
                message.replacement = replacement(key.hint.clone());
                message.due = Some(now);
                message.cause = "revoked";
                message.failures = 0;
            }
        }
    }

    /// Removes and returns the due messages of `user`, except `except`.
    pub fn take_due(
        &self,
        user: BotUser,
        except: Option<MessageId>,
        now: Instant,
    ) -> Vec<TrackedMessage> {
        self.take(|message| {
            message.user == user && message.is_due(now) && Some(message.id) != except
        })
    }

    /// Removes and returns all messages of a bot; first those whose edit has not failed.
    pub fn take_all(&self, bot: usize) -> Vec<TrackedMessage> {
        let mut all = self.take(|message| message.user.0 == bot);
        all.sort_by_key(|message| message.failures);
        all
    }

    /// The users of a bot who have due messages.
    pub fn users_due(&self, bot: usize, now: Instant) -> Vec<u64> {
        let messages = self.messages.lock();
        let due = messages
            .values()
            .filter(|message| message.user.0 == bot && message.is_due(now));
        let mut users: Vec<_> = due.map(|message| message.user.1).collect();
        users.sort_unstable();
        users.dedup();
        users
    }

    /// How many messages may show a key.
    pub fn count(&self) -> usize {
        let messages = self.messages.lock();
        messages.values().filter(|m| m.key.is_some()).count()
    }

    fn take(&self, is_wanted: impl Fn(&TrackedMessage) -> bool) -> Vec<TrackedMessage> {
        let mut messages = self.messages.lock();
        let wanted = messages.extract_if(|_, message| is_wanted(message));
        wanted.map(|(_, message)| message).collect()
    }
}

impl TrackedMessage {
    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn message(user: u64, id: i64, key: u128, due: Option<Instant>) -> TrackedMessage {
        TrackedMessage {
            user: (0, user),
            id: MessageId(id),
            key: Some(KeyName {
                key_id: Uuid::from_u128(key),
                hint: "kw_abcd".to_owned(),
                ..KeyName::default()
            }),
            place: Place::default(),
            replacement: View::Help,
            language: Language::English,
            due,
            cause: "time",
            failures: 0,
        }
    }

    #[test]
    fn due_messages_are_taken_once() {
        let (tracked, now) = (TrackedMessages::default(), Instant::now());
        tracked.put(message(1, 1, 1, Some(now + MINUTE)), now);
        tracked.put(message(1, 2, 1, None), now);
        tracked.put(message(2, 1, 2, Some(now + MINUTE)), now);
        assert!(tracked.users_due(0, now).is_empty());
        assert_eq!(tracked.users_due(0, now + MINUTE), [1, 2]);
        assert!(
            tracked
                .take_due((0, 1), Some(MessageId(1)), now + MINUTE)
                .is_empty()
        );
        assert_eq!(tracked.take_due((0, 1), None, now + MINUTE).len(), 1);
        assert!(tracked.take_due((0, 1), None, now + MINUTE).is_empty());
        // The key is shown again before the message was due.
        tracked.put(message(2, 1, 2, Some(now + MINUTE * 2)), now);
        assert!(tracked.take_due((0, 2), None, now + MINUTE).is_empty());
        tracked.remove((0, 2), MessageId(9));
        assert_eq!(tracked.count(), 2);
        assert_eq!(tracked.take_all(0).len(), 2);
    }

    #[test]
    fn all_messages_with_a_revoked_key_are_due_at_once() {
        let (tracked, now) = (TrackedMessages::default(), Instant::now());
        for (user, id, key) in [(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 1, 1)] {
            tracked.put(message(user, id, key, None), now);
        }
        let of_other_bot = TrackedMessage {
            user: (1, 1),
            ..message(1, 1, 1, None)
        };
        tracked.put(of_other_bot, now);
        let replacement = |hint| View::RevokedKey(hint, None);
        let except = Some(MessageId(1));
        tracked.supersede((0, 1), Uuid::from_u128(1), except, replacement, now);
        let due = tracked.take_due((0, 1), None, now);
        let [only] = &due[..] else {
            panic!("{due:?}");
        };
        assert_eq!((only.id, only.cause), (MessageId(2), "revoked"));
        assert_eq!(only.replacement, replacement("kw_abcd".to_owned()));
        // Others share the account, in this bot and in another one.
        assert_eq!(tracked.users_due(0, now + MINUTE), [2]);
        assert_eq!(tracked.users_due(1, now), [1]);
    }

    #[test]
    fn a_refused_edit_becomes_one_that_hides_the_key_and_is_not_given_up() {
        let (tracked, mut now) = (TrackedMessages::default(), Instant::now());
        tracked.put(message(1, 1, 1, Some(now)), now);
        for _ in 0..20 {
            let message = tracked.take_due((0, 1), None, now).pop().unwrap();
            tracked.put_back(message, &Failure::Refused("x".to_owned()), now);
            now += MAX_PAUSE;
        }
        let message = tracked.take_due((0, 1), None, now).pop().unwrap();
        assert_eq!(
            message.replacement,
            View::HiddenKey(None, "kw_abcd".to_owned())
        );
    }

    #[test]
    fn failed_edits_are_repeated_unless_telegram_still_refuses_them_at_the_tenth_failure() {
        let (tracked, mut now) = (TrackedMessages::default(), Instant::now());
        let without_key = TrackedMessage {
            key: None,
            ..message(1, 1, 1, Some(now))
        };
        tracked.put(without_key, now);
        let lost = Failure::Lost("x".to_owned());
        let mut try_again = |failure: &Failure, expected: Duration| {
            let message = tracked.take_due((0, 1), None, now).pop().unwrap();
            tracked.put_back(message, failure, now);
            let almost = now + expected - Duration::from_millis(1);
            assert!(tracked.take_due((0, 1), None, almost).is_empty());
            now += expected;
        };
        let refused = Failure::Refused("x".to_owned());
        try_again(&refused, FIRST_PAUSE);
        for times in 1..30 {
            let pause = FIRST_PAUSE * 2_u32.pow(times.min(16));
            try_again(&lost, pause.min(MAX_PAUSE));
        }
        try_again(&Failure::TooMany(MINUTE), MINUTE);
        try_again(&Failure::Blocked, MAX_PAUSE);
        let message = tracked.take_due((0, 1), None, now).pop().unwrap();
        tracked.put_back(message, &refused, now);
        assert!(tracked.take_all(0).is_empty());
    }

    #[test]
    fn users_who_block_the_bot_come_last_and_are_given_up_after_a_week() {
        let (tracked, mut now) = (TrackedMessages::default(), Instant::now());
        tracked.put(message(1, 1, 1, Some(now)), now);
        let mut hours = 0;
        while let Some(message) = tracked.take_due((0, 1), None, now).pop() {
            tracked.put_back(message, &Failure::Blocked, now);
            now += MAX_PAUSE;
            hours += 1;
        }
        assert_eq!(hours, MAX_BLOCKED);
        for (id, failures) in [(1, 5), (2, 0), (3, 7)] {
            let message = TrackedMessage {
                failures,
                ..message(1, id, 1, Some(now))
            };
            tracked.put(message, now);
        }
        let order = tracked.take_all(0).into_iter().map(|message| message.id.0);
        assert_eq!(order.collect::<Vec<_>>(), [2, 1, 3]);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_message_is_due_early() {
        let (now, tracked) = (Instant::now(), TrackedMessages::default());
        tracked.put(message(9, 9, 1, None), now);
        for id in 0..i64::try_from(MAX_MESSAGES).unwrap() + 100 {
            let at = now + MINUTE * u32::try_from(id + 1).unwrap();
            tracked.put(message(1, id, 1, Some(at)), now);
        }
        assert!(tracked.count() <= 2 * MAX_MESSAGES);
        assert_eq!(tracked.users_due(0, now), [1]);
        let due = tracked.take_due((0, 1), None, now);
        assert!(
            due.iter().all(|message| message.id.0 <= 100),
            "the oldest first"
        );
    }
}
