//! The state of the fake: users, chats, messages, and unconfirmed updates.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::calls::{Call, Refusal};
use super::fault::Faults;
use super::format::Formatted;
use super::markup::{self, Button};
use super::screen::Screen;
use super::webhook::Webhook;
use crate::deadline::unix_time;

/// The bot's user id.
pub(super) const BOT: i64 = 7_000_000_001;
/// The bot's name in links and in group commands.
pub(super) const BOT_NAME: &str = "keyward_test_bot";

/// A message in a chat.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) id: i64,
    pub(super) chat: i64,
    pub(super) from: i64,
    pub(super) date: i64,
    pub(super) edits: usize,
    pub(super) content: Formatted,
    pub(super) rows: Vec<Vec<Button>>,
    /// A photo or a sticker: the name of the field, and its value.
    pub(super) other: Option<(&'static str, Value)>,
}

/// A user.
pub(super) struct Somebody {
    language: String,
    /// Whether the user has blocked the bot.
    pub(super) blocks: bool,
    /// Whether the user has written to the bot. Before that, the bot cannot write to the user.
    pub(super) has_written: bool,
}

/// The whole state.
pub(super) struct World {
    pub(super) people: HashMap<i64, Somebody>,
    /// By chat and id, without deleted messages.
    pub(super) messages: BTreeMap<(i64, i64), Message>,
    groups: BTreeSet<i64>,
    /// The callback queries that can still be answered.
    pub(super) queries: HashMap<String, Query>,
    pub(super) commands: BTreeMap<String, Vec<(String, String)>>,
    pub(super) calls: Vec<Call>,
    pub(super) shown: Vec<Screen>,
    pub(super) faults: Faults,
    pub(super) updates: Updates,
    pub(super) webhook: Option<Webhook>,
    /// The addresses of webhook hosts.
    pub(super) hosts: HashMap<String, SocketAddr>,
    next: i64,
}

/// An unanswered callback query.
pub(super) struct Query {
    pub(super) person: i64,
    /// The bot's answer, which the app shows briefly.
    pub(super) answers: Vec<String>,
}

/// The updates for the bot.
#[derive(Default)]
pub(super) struct Updates {
    /// The unconfirmed updates, by id.
    pub(super) pending: VecDeque<(i64, Value)>,
    /// The updates to repeat, even if they were confirmed.
    pub(super) again: Vec<(i64, Value)>,
    /// All updates.
    all: Vec<(i64, Value)>,
    /// The kinds of updates that the bot gets; `None` means all.
    pub(super) allowed: Option<Vec<String>>,
    /// The number of polls. A newer poll ends an older one.
    pub(super) polls: u64,
}

impl Default for World {
    fn default() -> Self {
        Self {
            people: HashMap::new(),
            messages: BTreeMap::new(),
            groups: BTreeSet::new(),
            queries: HashMap::new(),
            commands: BTreeMap::new(),
            calls: Vec::new(),
            shown: Vec::new(),
            faults: Faults::default(),
            updates: Updates::default(),
            webhook: None,
            hosts: HashMap::new(),
            // A realistic id, which is not a small number.
            next: 500_000_000,
        }
    }
}

impl World {
    /// Adds a user, or changes the language of an existing one.
    pub(super) fn meet(&mut self, id: i64, language: &str) {
        let somebody = self.people.entry(id).or_insert(Somebody {
            language: String::new(),
            blocks: false,
            has_written: false,
        });
        language.clone_into(&mut somebody.language);
    }

    /// Adds a group.
    pub(super) fn found(&mut self, id: i64) {
        self.groups.insert(id);
    }

    /// A unique number.
    pub(super) fn draw(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// Whether the bot may write to the chat.
    pub(super) fn reach(&self, chat: i64) -> Result<(), Refusal> {
        if self.groups.contains(&chat) {
            return Ok(());
        }
        match self.people.get(&chat) {
            None => Err(Refusal::bad("chat not found")),
            Some(person) if person.blocks => {
                Err(Refusal::new(403, "Forbidden: bot was blocked by the user"))
            }
            Some(person) if !person.has_written => Err(Refusal::new(
                403,
                "Forbidden: bot can't initiate conversation with a user",
            )),
            Some(_) => Ok(()),
        }
    }

    /// Adds a message of the bot to a chat, or replaces an existing one.
    pub(super) fn show(&mut self, message: Message) -> Value {
        self.shown.push(Screen::of(&message));
        let json = self.message_json(&message);
        self.messages.insert((message.chat, message.id), message);
        json
    }

    /// The messages of the bot in a chat, oldest first.
    pub(super) fn screens(&self, chat: i64) -> impl DoubleEndedIterator<Item = Screen> {
        let messages = self.messages.range((chat, i64::MIN)..=(chat, i64::MAX));
        messages
            .filter(|(_, message)| message.from == BOT)
            .map(|(_, message)| Screen::of(message))
    }

    /// The Bot API's representation of a user.
    pub(super) fn user(&self, id: i64) -> Value {
        if id == BOT {
            return json!({
                "id": BOT, "is_bot": true, "first_name": "Keys", "username": BOT_NAME,
            });
        }
        let mut user = json!({ "id": id, "is_bot": false, "first_name": format!("P{id}") });
        if let Some(person) = self.people.get(&id).filter(|p| !p.language.is_empty()) {
            user["language_code"] = json!(person.language);
        }
        user
    }

    /// The Bot API's representation of a chat.
    pub(super) fn chat(&self, id: i64) -> Value {
        if self.groups.contains(&id) {
            return json!({ "id": id, "type": "supergroup", "title": "A group" });
        }
        json!({ "id": id, "type": "private", "first_name": format!("P{id}") })
    }

    /// The Bot API's representation of a message.
    pub(super) fn message_json(&self, message: &Message) -> Value {
        let mut json = json!({
            "message_id": message.id, "from": self.user(message.from),
            "chat": self.chat(message.chat), "date": message.date,
        });
        match &message.other {
            Some((field, value)) => json[*field] = value.clone(),
            None => json["text"] = json!(message.content.text),
        }
        if !message.content.entities.is_empty() {
            json["entities"] = json!(message.content.entities);
        }
        if !message.rows.is_empty() {
            json["reply_markup"] = markup::json(&message.rows);
        }
        if message.edits > 0 {
            json["edit_date"] = json!(unix_time());
        }
        json
    }

    /// Adds an update, if the bot wants its kind. Returns its id.
    pub(super) fn happen(&mut self, kind: &str, what: Value) -> i64 {
        let id = self.draw();
        let update = json!({ "update_id": id, kind: what });
        let wanted = self.updates.allowed.as_ref();
        if wanted.is_none_or(|kinds| kinds.iter().any(|wanted| wanted == kind)) {
            self.updates.add(id, update);
        }
        id
    }

    /// Adds an update that no user caused.
    pub(super) fn inject(&mut self, mut update: Value) -> i64 {
        let drawn = self.draw();
        let id = update.get("update_id").and_then(Value::as_i64);
        if let Some(object) = update.as_object_mut() {
            object.entry("update_id").or_insert(json!(drawn));
        }
        let id = id.unwrap_or(drawn);
        self.updates.add(id, update);
        id
    }

    /// Repeats an update.
    pub(super) fn redeliver(&mut self, id: i64) {
        let known = self.updates.all.iter().find(|(known, _)| *known == id);
        let known = known.expect("there was such an update").clone();
        self.updates.again.push(known);
    }

    /// Whether all updates are confirmed.
    pub(super) fn all_confirmed(&self) -> bool {
        self.updates.pending.is_empty() && self.updates.again.is_empty()
    }

    /// The last calls, and the messages in each chat.
    pub(super) fn story(&self) -> String {
        let mut story = String::new();
        for call in self.calls.iter().rev().take(30).rev() {
            let arguments = Value::Object(call.arguments.clone());
            let _ = writeln!(story, "{} {arguments} -> {:?}", call.method, call.status);
        }
        for message in self.messages.values() {
            let _ = writeln!(
                story,
                "--- chat {}, message {}, from {}\n{}",
                message.chat,
                message.id,
                message.from,
                Screen::of(message)
            );
        }
        let _ = writeln!(story, "not confirmed: {:?}", self.updates.pending);
        story
    }
}

impl Updates {
    fn add(&mut self, id: i64, update: Value) {
        self.all.push((id, update.clone()));
        self.pending.push_back((id, update));
    }

    /// Removes the updates below `offset`, and puts the repeated ones first.
    pub(super) fn confirm(&mut self, offset: i64) {
        if offset > 0 {
            self.pending.retain(|(id, _)| *id >= offset);
        }
        for update in self.again.drain(..).rev() {
            self.pending.push_front(update);
        }
    }
}
