//! Turns an update into an event. This module extracts and checks all parts that the bot uses; the
//! text of a message stays here.

use keyward_client::Secret;
use serde::Deserialize;
use serde_json::Value;

use crate::i18n::Language;
use crate::telegram::MessageId;

/// An update, with the parts that the bot uses. A part that cannot be read counts as missing, so that
/// the update can be confirmed.
#[derive(Deserialize)]
pub struct Update {
    /// The id that confirms it.
    pub update_id: u32,
    #[serde(default)]
    message: Value,
    #[serde(default)]
    callback_query: Value,
}

/// The user of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// The Telegram id, which is also the id of the private chat.
    pub id: u64,
    /// The language.
    pub language: Language,
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `/start`
    Start,
    /// `/apikey`
    ApiKey,
    /// `/help`
    Help,
}

impl Command {
    /// All commands, in the order of the list in Telegram.
    pub const ALL: [Self; 3] = [Self::Start, Self::ApiKey, Self::Help];

    /// The name without the slash.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::ApiKey => "apikey",
            Self::Help => "help",
        }
    }

    /// The command at the start of `text`, unless it addresses another bot than `username`.
    fn of(text: &str, username: &str) -> Option<Self> {
        let word = text.strip_prefix('/')?.split_whitespace().next()?;
        let (name, bot) = word.split_once('@').unwrap_or((word, username));
        let mut all = Self::ALL.into_iter();
        all.find(|command| {
            command.name().eq_ignore_ascii_case(name) && bot.eq_ignore_ascii_case(username)
        })
    }
}

/// A tap on a button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The id for the answer.
    pub query: String,
    /// The message with the button, if it is in the private chat with the user.
    pub message: Option<MessageId>,
    /// The data of the button; anybody can forge it.
    pub data: Secret,
}

/// What a user wants from the bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The user.
    pub person: Person,
    /// What they want.
    pub request: Request,
}

/// A request of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A command in a private chat.
    Command(Command),
    /// Any other message in a private chat.
    Other,
    /// A command in the group with this id.
    Group(i64),
    /// A tap on a button.
    Tap(Tap),
}

impl Request {
    /// The name in metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Command(command) => command.name(),
            Self::Other => "other",
            Self::Group(_) => "group",
            Self::Tap(_) => "tap",
        }
    }
}

impl Event {
    /// The event of an update, for the bot with this name; `None` if the update asks for nothing.
    pub fn of(update: &Update, username: &str) -> Option<Self> {
        let (message, query) = (&update.message, &update.callback_query);
        Self::of_message(message, username).or_else(|| Self::of_query(query))
    }

    fn of_message(message: &Value, username: &str) -> Option<Self> {
        let (person, chat) = (person(&message["from"])?, &message["chat"]);
        // The user did not write a message that was sent via a bot or on behalf of a chat.
        if !message["via_bot"].is_null() || !message["sender_chat"].is_null() {
            return None;
        }
        let command = message["text"].as_str();
        let command = command.and_then(|text| Command::of(text, username));
        let is_group = ["group", "supergroup"].contains(&chat["type"].as_str()?);
        let request = match command {
            Some(command) if is_own(chat, person) => Request::Command(command),
            None if is_own(chat, person) => Request::Other,
            Some(_) if is_group => Request::Group(chat["id"].as_i64()?),
            _ => return None,
        };
        Some(Self { person, request })
    }

    fn of_query(query: &Value) -> Option<Self> {
        let (person, message) = (person(&query["from"])?, &query["message"]);
        let is_own = is_own(&message["chat"], person);
        let request = Request::Tap(Tap {
            query: query["id"].as_str()?.to_owned(),
            message: message["message_id"]
                .as_i64()
                .filter(|_| is_own)
                .map(MessageId),
            data: Secret::new(query["data"].as_str().unwrap_or_default()),
        });
        Some(Self { person, request })
    }
}

fn person(user: &Value) -> Option<Person> {
    (user["is_bot"] == false).then_some(Person {
        id: user["id"].as_u64()?,
        language: Language::of(user["language_code"].as_str()),
    })
}

/// Whether this is the private chat with `person`, which nobody else reads.
fn is_own(chat: &Value, person: Person) -> bool {
    chat["type"] == "private" && chat["id"].as_u64() == Some(person.id)
}

#[cfg(test)]
mod tests;
