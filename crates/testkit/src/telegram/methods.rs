//! The methods of the Bot API for messages and settings.

use serde_json::{Map, Value, json};

use super::calls::Refusal;
use super::format::Formatted;
use super::markup;
use super::parameters::Parameters as _;
use super::world::{BOT, Message, World};
use crate::deadline::unix_time;

/// All supported methods, in Telegram's spelling. [`perform`] does not execute the first one,
/// because it waits.
pub(super) const METHODS: [&str; 14] = [
    "getUpdates",
    "getMe",
    "sendMessage",
    "editMessageText",
    "editMessageReplyMarkup",
    "deleteMessage",
    "answerCallbackQuery",
    "sendChatAction",
    "setMyCommands",
    "getMyCommands",
    "deleteMyCommands",
    "setWebhook",
    "deleteWebhook",
    "getWebhookInfo",
];

/// Executes one of [`METHODS`].
pub(super) fn perform(
    world: &mut World,
    method: &str,
    arguments: &Map<String, Value>,
) -> Result<Value, Refusal> {
    match method {
        "getMe" => Ok(me(world)),
        "sendMessage" => send(world, arguments),
        "editMessageText" | "editMessageReplyMarkup" => edit(world, method, arguments),
        "deleteMessage" => delete(world, arguments),
        "answerCallbackQuery" => answer(world, arguments),
        "sendChatAction" => world.reach(chat(arguments)?).map(|()| json!(true)),
        "setMyCommands" => set_commands(world, arguments),
        "getMyCommands" => Ok(get_commands(world, arguments)),
        "deleteMyCommands" => {
            world.commands.remove(&language(arguments));
            Ok(json!(true))
        }
        "setWebhook" => super::webhook::set(world, arguments),
        "deleteWebhook" => super::webhook::delete(world, arguments),
        "getWebhookInfo" => Ok(super::webhook::info(world)),
        _ => Err(Refusal::new(404, "Not Found")),
    }
}

fn me(world: &World) -> Value {
    let mut me = world.user(BOT);
    for (field, value) in [
        ("can_join_groups", true),
        ("can_read_all_group_messages", false),
        ("supports_inline_queries", false),
        ("can_connect_to_business", false),
        ("has_main_web_app", false),
    ] {
        me[field] = json!(value);
    }
    me
}

fn chat(arguments: &Map<String, Value>) -> Result<i64, Refusal> {
    let chat = arguments.number("chat_id");
    chat.ok_or_else(|| Refusal::bad("chat_id is empty"))
}

fn send(world: &mut World, arguments: &Map<String, Value>) -> Result<Value, Refusal> {
    let chat = chat(arguments)?;
    let content = Formatted::of(arguments)?;
    let rows = markup::rows(arguments)?;
    world.reach(chat)?;
    let message = Message {
        id: world.draw(),
        chat,
        from: BOT,
        date: unix_time(),
        edits: 0,
        content,
        rows,
        other: None,
    };
    Ok(world.show(message))
}

fn edit(world: &mut World, method: &str, arguments: &Map<String, Value>) -> Result<Value, Refusal> {
    let place = (chat(arguments)?, arguments.number("message_id"));
    let content = match method {
        "editMessageText" => Some(Formatted::of(arguments)?),
        _ => None,
    };
    let rows = markup::rows(arguments)?;
    world.reach(place.0)?;
    let found = place.1.and_then(|id| world.messages.get(&(place.0, id)));
    let Some(found) = found else {
        return Err(Refusal::bad("message to edit not found"));
    };
    if found.from != BOT || found.other.is_some() {
        return Err(Refusal::bad("message can't be edited"));
    }
    let mut message = found.clone();
    message.content = content.unwrap_or(message.content);
    message.rows = rows;
    if (&message.content, &message.rows) == (&found.content, &found.rows) {
        return Err(Refusal::bad(
            "message is not modified: specified new message content and reply markup are exactly \
             the same as a current content and reply markup of the message",
        ));
    }
    message.edits += 1;
    Ok(world.show(message))
}

fn delete(world: &mut World, arguments: &Map<String, Value>) -> Result<Value, Refusal> {
    let chat = chat(arguments)?;
    let id = arguments.number("message_id").unwrap_or_default();
    let Some(message) = world.messages.get(&(chat, id)) else {
        return Err(Refusal::bad("message to delete not found"));
    };
    // In a group the bot may delete only its own messages.
    if chat < 0 && message.from != BOT {
        return Err(Refusal::bad("message can't be deleted"));
    }
    world.messages.remove(&(chat, id));
    Ok(json!(true))
}

fn answer(world: &mut World, arguments: &Map<String, Value>) -> Result<Value, Refusal> {
    /// The maximum length, in characters.
    const LONGEST: usize = 200;
    let id = arguments.text("callback_query_id").unwrap_or_default();
    let text = arguments.text("text").unwrap_or_default();
    if text.chars().count() > LONGEST {
        return Err(Refusal::bad("MESSAGE_TOO_LONG"));
    }
    let Some(query) = world.queries.get_mut(&id) else {
        return Err(Refusal::bad(
            "query is too old and response timeout expired or query ID is invalid",
        ));
    };
    query.answers.push(text);
    Ok(json!(true))
}

fn language(arguments: &Map<String, Value>) -> String {
    arguments.text("language_code").unwrap_or_default()
}

fn set_commands(world: &mut World, arguments: &Map<String, Value>) -> Result<Value, Refusal> {
    let commands = arguments.value("commands").unwrap_or_default();
    let mut set = Vec::new();
    for command in commands.as_array().into_iter().flatten() {
        let text = |field: &str| command[field].as_str().unwrap_or_default().to_owned();
        let (name, description) = (text("command"), text("description"));
        let signs = |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '_';
        if !(1..=32).contains(&name.len()) || !name.chars().all(signs) {
            return Err(Refusal::bad("BOT_COMMAND_INVALID"));
        }
        if !(1..=256).contains(&description.chars().count()) {
            return Err(Refusal::bad("BOT_COMMAND_DESCRIPTION_INVALID"));
        }
        set.push((name, description));
    }
    // Telegram uses two-letter language codes here.
    let language = language(arguments);
    if !language.is_empty() && language.len() != 2 {
        return Err(Refusal::bad("invalid language_code specified"));
    }
    world.commands.insert(language, set);
    Ok(json!(true))
}

fn get_commands(world: &World, arguments: &Map<String, Value>) -> Value {
    let commands = world
        .commands
        .get(&language(arguments))
        .into_iter()
        .flatten();
    let json = |(command, description): &(String, String)| json!({ "command": command, "description": description });
    commands.map(json).collect()
}
