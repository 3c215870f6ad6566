//! The users: what they write, tap and see.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Shared;
use super::format::{Entity, Formatted};
use super::screen::Screen;
use super::world::{BOT, Message, Query, World};
use crate::deadline::unix_time;

/// A user in a chat, alone with the bot or in a group. Each action is an update for the bot, whose
/// id is returned.
#[derive(Clone)]
pub struct Person {
    shared: Arc<Shared>,
    id: i64,
    chat: i64,
}

impl Person {
    pub(super) fn new(shared: Arc<Shared>, id: i64, chat: i64) -> Self {
        Self { shared, id, chat }
    }

    /// The user id.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The chat. The id of a private chat is the id of the user.
    pub fn chat(&self) -> i64 {
        self.chat
    }

    /// The same user in a group.
    pub fn within(&self, group: i64) -> Self {
        Self::new(Arc::clone(&self.shared), self.id, group)
    }

    /// Sends a text. A text that starts with a slash is a command.
    pub fn send(&self, text: &str) -> i64 {
        let command = text
            .split_whitespace()
            .next()
            .filter(|word| word.starts_with('/'));
        let entities = command.map(|word| Entity {
            kind: "bot_command".to_owned(),
            offset: 0,
            length: word.encode_utf16().count(),
            url: None,
        });
        let content = Formatted {
            text: text.to_owned(),
            entities: entities.into_iter().collect(),
        };
        self.write(content, None)
    }

    /// Sends a photo.
    pub fn send_photo(&self) -> i64 {
        let size = json!({
            "file_id": "photo", "file_unique_id": "p", "width": 90, "height": 60, "file_size": 1234,
        });
        self.write(Formatted::default(), Some(("photo", json!([size]))))
    }

    /// Sends a sticker.
    pub fn send_sticker(&self) -> i64 {
        let sticker = json!({
            "file_id": "sticker", "file_unique_id": "s", "type": "regular", "width": 512,
            "height": 512, "is_animated": false, "is_video": false, "emoji": "🔑",
        });
        self.write(Formatted::default(), Some(("sticker", sticker)))
    }

    fn write(&self, content: Formatted, other: Option<(&'static str, Value)>) -> i64 {
        self.shared.change(|world| {
            let message = Message {
                id: world.draw(),
                chat: self.chat,
                from: self.id,
                date: unix_time(),
                edits: 0,
                content,
                rows: Vec::new(),
                other,
            };
            if let Some(person) = world.people.get_mut(&self.id) {
                person.has_written |= self.chat == self.id;
            }
            let json = world.message_json(&message);
            world.messages.insert((message.chat, message.id), message);
            world.happen("message", json)
        })
    }

    /// Taps the button with this label or this callback data, on the newest message that has one.
    ///
    /// # Panics
    ///
    /// There is no such button, or its tap copies or opens something, so that the bot gets no
    /// update.
    pub fn tap(&self, button: &str) -> i64 {
        let screens: Vec<_> = self.screens();
        let screen = screens
            .iter()
            .rev()
            .find(|screen| screen.button(button).is_some());
        let screen = screen.unwrap_or_else(|| panic!("no button {button} in\n{}", self.story()));
        self.tap_on(screen, button)
    }

    /// Taps a button on an earlier state of a message, even if the message has changed.
    ///
    /// # Panics
    ///
    /// The same as for [`Self::tap`].
    pub fn tap_on(&self, screen: &Screen, button: &str) -> i64 {
        let found = screen.button(button).and_then(|button| button.data.clone());
        let data =
            found.unwrap_or_else(|| panic!("no button {button} that can be tapped:\n{screen}"));
        self.tap_data(screen.id, &data)
    }

    /// Sends a callback query with this data for a message, as a manipulated app can.
    pub fn tap_data(&self, message: i64, data: &str) -> i64 {
        self.shared.change(|world| {
            let query = world.draw().to_string();
            let update = query_json(world, self, &query, message, data);
            let callback = Query {
                person: self.id,
                answers: Vec::new(),
            };
            world.queries.insert(query, callback);
            world.happen("callback_query", update)
        })
    }

    /// Like [`Self::tap_data`], with arbitrary bytes. If they are not UTF-8, the Bot API passes
    /// each byte as a character.
    pub fn tap_bytes(&self, message: i64, data: &[u8]) -> i64 {
        let text = match std::str::from_utf8(data) {
            Ok(text) => text.to_owned(),
            Err(_) => data.iter().map(|byte| char::from(*byte)).collect(),
        };
        self.tap_data(message, &text)
    }

    /// Blocks the bot.
    pub fn block(&self) -> i64 {
        self.set_blocked(true)
    }

    /// Unblocks the bot.
    pub fn unblock(&self) -> i64 {
        self.set_blocked(false)
    }

    fn set_blocked(&self, blocks: bool) -> i64 {
        self.shared.change(|world| {
            if let Some(person) = world.people.get_mut(&self.id) {
                person.blocks = blocks;
            }
            let member = json!({ "user": world.user(BOT), "status": "member" });
            let kicked = json!({ "user": world.user(BOT), "status": "kicked", "until_date": 0 });
            let (old, new) = if blocks {
                (member, kicked)
            } else {
                (kicked, member)
            };
            let update = json!({
                "chat": world.chat(self.id), "from": world.user(self.id), "date": unix_time(),
                "old_chat_member": old, "new_chat_member": new,
            });
            world.happen("my_chat_member", update)
        })
    }

    /// Deletes a message for both sides. The bot gets no update.
    pub fn delete(&self, message: i64) {
        self.shared
            .change(|world| world.messages.remove(&(self.chat, message)));
    }

    /// The messages of the bot in this chat, oldest first.
    pub fn screens(&self) -> Vec<Screen> {
        self.shared.read(|world| world.screens(self.chat).collect())
    }

    /// The newest message of the bot.
    pub fn screen(&self) -> Option<Screen> {
        self.shared
            .read(|world| world.screens(self.chat).next_back())
    }

    /// The current state of a message of the bot, unless it was deleted.
    pub fn message(&self, id: i64) -> Option<Screen> {
        self.screens().into_iter().find(|screen| screen.id == id)
    }

    /// The texts of the answers to this user's callback queries, in no particular order.
    pub fn answers(&self) -> Vec<String> {
        self.shared.read(|world| {
            let own = world
                .queries
                .values()
                .filter(|query| query.person == self.id);
            own.flat_map(|query| query.answers.clone()).collect()
        })
    }

    /// Waits until the newest message of the bot matches.
    pub async fn sees(&self, what: &str, is_so: impl Fn(&Screen) -> bool) -> Screen {
        let newest = |world: &World| world.screens(self.chat).next_back();
        let found = |screen: Option<Screen>| screen.filter(&is_so);
        self.shared.wait(&self.waits(what), newest, found).await
    }

    /// Waits until any message of the bot matches, and returns the newest of them.
    pub async fn finds(&self, what: &str, is_so: impl Fn(&Screen) -> bool) -> Screen {
        let all = |world: &World| world.screens(self.chat).collect::<Vec<_>>();
        let found = |screens: Vec<Screen>| screens.into_iter().rev().find(&is_so);
        self.shared.wait(&self.waits(what), all, found).await
    }

    /// Waits until this message matches or is deleted. Returns its state, unless it was deleted.
    pub async fn watches(
        &self,
        message: i64,
        what: &str,
        is_so: impl Fn(&Screen) -> bool,
    ) -> Option<Screen> {
        let state = |world: &World| world.screens(self.chat).find(|screen| screen.id == message);
        let found = |screen: Option<Screen>| match screen {
            Some(screen) => is_so(&screen).then_some(Some(screen)),
            None => Some(None),
        };
        self.shared.wait(&self.waits(what), state, found).await
    }

    fn waits(&self, what: &str) -> String {
        format!("{} sees {what} in chat {}", self.id, self.chat)
    }

    fn story(&self) -> String {
        self.shared.read(World::story)
    }
}

/// The callback query of a tap. A deleted message comes without its content.
fn query_json(world: &World, person: &Person, id: &str, message: i64, data: &str) -> Value {
    let message = match world.messages.get(&(person.chat, message)) {
        Some(message) => world.message_json(message),
        None => json!({ "chat": world.chat(person.chat), "message_id": message, "date": 0 }),
    };
    json!({
        "id": id, "from": world.user(person.id), "message": message,
        "chat_instance": format!("{}", person.chat.wrapping_mul(7_919)), "data": data,
    })
}
