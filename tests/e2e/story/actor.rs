//! A person who uses the bot.

use keyward_testkit::Front;
use keyward_testkit::telegram::{Person, Screen};

use super::words::Words;

/// A person, with the texts of their language.
pub(crate) struct Actor {
    pub(crate) person: Person,
    pub(crate) words: Words,
    account: String,
}

impl Actor {
    /// A person whose Telegram has the language `tag`; the bot uses the texts of `file` for it.
    pub(crate) fn new(front: &Front, id: i64, file: &str, tag: &str) -> Self {
        let person = front.telegram.person(id, tag);
        Self {
            account: front.account(&person),
            words: Words::of(file),
            person,
        }
    }

    /// A person whose Telegram is in English.
    pub(crate) fn english(front: &Front, id: i64) -> Self {
        Self::new(front, id, "en", "en")
    }

    /// The account in Keyward.
    pub(crate) fn account(&self) -> String {
        self.account.clone()
    }

    /// Taps the newest button with this text id.
    pub(crate) fn tap(&self, button: &str) -> i64 {
        self.person.tap(self.words.label(button))
    }

    /// Waits until the newest message contains the text with this id.
    pub(crate) async fn sees(&self, name: &str) -> Screen {
        self.person
            .sees(name, |screen| self.words.says(screen, name))
            .await
    }

    /// Waits until the newest message shows a key.
    pub(crate) async fn sees_key(&self) -> Screen {
        self.person
            .sees("a key", |screen| screen.key().is_some())
            .await
    }

    /// Waits until the newest message shows another key than this.
    pub(crate) async fn sees_other_key(&self, old: &str) -> Screen {
        let is_other = |screen: &Screen| screen.key().is_some_and(|key| key != old);
        self.person.sees("another key", is_other).await
    }

    /// Waits until the newest message shows another key than this, and returns it.
    pub(crate) async fn new_key(&self, old: &str) -> String {
        let screen = self.sees_other_key(old).await;
        screen.key().unwrap_or_default().to_owned()
    }

    /// Sends /start. Returns the main menu, which is a new message.
    pub(crate) async fn start(&self) -> Screen {
        let before = self.person.screen().map(|screen| screen.id);
        self.person.send("/start");
        let is_menu =
            |screen: &Screen| Some(screen.id) != before && self.words.says(screen, "menu-text");
        self.person.sees("the menu", is_menu).await
    }

    /// Opens the key from the main menu. Returns its screen.
    pub(crate) async fn open(&self) -> Screen {
        self.start().await;
        self.tap("button-account");
        self.sees("account-text").await;
        self.tap("button-key");
        self.sees_key().await
    }

    /// Opens the question whether to revoke. Returns the key and the question.
    pub(crate) async fn ask(&self) -> (String, Screen) {
        let key = self.open().await.key().unwrap_or_default().to_owned();
        self.tap("button-revoke");
        (key, self.sees("ask-text").await)
    }

    /// Confirms on this question.
    pub(crate) fn confirm(&self, ask: &Screen) -> i64 {
        self.person.tap_on(ask, self.words.label("button-confirm"))
    }

    /// Waits until the newest message shows another key than `old`, and taps Retry whenever the bot
    /// offers it. Returns the key and the number of retries.
    pub(crate) async fn retries_until_another_key(
        &self,
        front: &Front,
        old: &str,
    ) -> (String, usize) {
        let retry = self.words.label("button-retry");
        let is_end = |screen: &Screen| screen.key().is_some_and(|key| key != old);
        for retries in 0..100 {
            let is_news = |screen: &Screen| is_end(screen) || screen.button(retry).is_some();
            let screen = self.person.sees("another key, or Retry", is_news).await;
            if let Some(key) = screen.key() {
                return (key.to_owned(), retries);
            }
            self.person.tap_on(&screen, retry);
            // The answer may be the same screen.
            front.telegram.settled().await;
        }
        panic!("no key after 100 retries");
    }
}
