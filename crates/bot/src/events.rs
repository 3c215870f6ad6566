//! Turns an update into an event. This module extracts and checks all parts that the bot uses; the
//! text of a message stays here.

use teloxide_core::types::{
    CallbackQuery, CallbackQueryId, Chat, MaybeInaccessibleMessage, Message, MessageId, Update,
    UpdateKind, User,
};

use crate::i18n::Language;

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
#[derive(Clone, PartialEq, Eq)]
pub struct Tap {
    /// The id for the answer.
    pub query: CallbackQueryId,
    /// The message with the button, if it is in the private chat with the user.
    pub message: Option<MessageId>,
    /// The data of the button; anybody can forge it.
    pub data: String,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// What a user wants from the bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command in a private chat.
    Command(Person, Command),
    /// Any other message in a private chat.
    Other(Person),
    /// A command in the group with this id.
    Group(Person, i64),
    /// A tap on a button.
    Tap(Person, Tap),
    /// Nothing.
    Nothing,
}

impl Event {
    /// The name in metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Command(_, Command::Start) => "start",
            Self::Command(_, Command::ApiKey) => "apikey",
            Self::Command(_, Command::Help) => "help",
            Self::Other(_) => "other",
            Self::Group(..) => "group",
            Self::Tap(..) => "tap",
            Self::Nothing => "ignored",
        }
    }

    /// The user.
    pub const fn person(&self) -> Option<Person> {
        match self {
            Self::Command(person, _)
            | Self::Other(person)
            | Self::Group(person, _)
            | Self::Tap(person, _) => Some(*person),
            Self::Nothing => None,
        }
    }

    /// The event of an update, for the bot with this name.
    pub fn of(update: Update, username: &str) -> Self {
        match update.kind {
            UpdateKind::Message(message) => Self::of_message(&message, username),
            UpdateKind::CallbackQuery(query) => Self::of_query(query),
            _ => Self::Nothing,
        }
    }

    fn of_message(message: &Message, username: &str) -> Self {
        let Some(person) = message.from.as_ref().and_then(person) else {
            return Self::Nothing;
        };
        // The user did not write a message that was sent via a bot or on behalf of a chat.
        if message.via_bot.is_some() || message.sender_chat.is_some() {
            return Self::Nothing;
        }
        let command = message.text().and_then(|text| Command::of(text, username));
        match (&message.chat, command) {
            (chat, Some(command)) if is_own(chat, person) => Self::Command(person, command),
            (chat, None) if is_own(chat, person) => Self::Other(person),
            (chat, Some(_)) if chat.is_group() || chat.is_supergroup() => {
                Self::Group(person, chat.id.0)
            }
            _ => Self::Nothing,
        }
    }

    fn of_query(query: CallbackQuery) -> Self {
        let Some(person) = person(&query.from) else {
            return Self::Nothing;
        };
        let message = query.message.as_ref();
        let message = message.filter(|message| is_own(message.chat(), person));
        let tap = Tap {
            query: query.id,
            message: message.map(MaybeInaccessibleMessage::id),
            data: query.data.unwrap_or_default(),
        };
        Self::Tap(person, tap)
    }
}

fn person(user: &User) -> Option<Person> {
    (!user.is_bot).then(|| Person {
        id: user.id.0,
        language: Language::of(user.language_code.as_deref()),
    })
}

/// Whether this is the private chat with `person`, which nobody else reads.
fn is_own(chat: &Chat, person: Person) -> bool {
    chat.is_private() && u64::try_from(chat.id.0).is_ok_and(|id| id == person.id)
}

#[cfg(test)]
mod tests;
