//! Updates from Telegram, and updates that Telegram should never send.

use serde_json::{Value, json};

use super::*;

fn event(update: Value) -> Event {
    Event::of(
        serde_json::from_str(&update.to_string()).unwrap(),
        "Keys_bot",
    )
}

fn user(id: u64) -> Value {
    json!({"id": id, "is_bot": false, "first_name": "<b>A</b>", "language_code": "ru"})
}

fn private(id: u64) -> Value {
    json!({"id": id, "type": "private", "first_name": "A"})
}

fn group() -> Value {
    json!({"id": -100, "type": "supergroup", "title": "G"})
}

fn message(chat: Value, content: (&str, Value)) -> Value {
    let mut message = json!({"message_id": 7, "date": 1, "chat": chat, "from": user(42)});
    message[content.0] = content.1;
    json!({"update_id": 1, "message": message})
}

fn text(chat: Value, text: &str) -> Event {
    event(message(chat, ("text", json!(text))))
}

const PERSON: Person = Person {
    id: 42,
    language: Language::Russian,
};

#[test]
fn commands_are_read_in_the_private_chat() {
    for (input, command) in [
        ("/start", Some(Command::Start)),
        ("/start deep-link", Some(Command::Start)),
        ("/APIKEY", Some(Command::ApiKey)),
        ("/help@keys_bot", Some(Command::Help)),
        ("/help@other_bot", None),
        ("/stop", None),
        ("start", None),
        ("/", None),
        ("", None),
    ] {
        let expected = match command {
            Some(command) => Event::Command(PERSON, command),
            None => Event::Other(PERSON),
        };
        assert_eq!(text(private(42), input), expected, "{input:?}");
    }
    let long = format!("/apikey{}", "x".repeat(4096));
    assert_eq!(text(private(42), &long), Event::Other(PERSON));
}

#[test]
fn a_message_without_text_is_other() {
    let sticker = json!({"phone_number": "1", "first_name": "A"});
    let found = event(message(private(42), ("contact", sticker)));
    assert_eq!(found, Event::Other(PERSON));
}

#[test]
fn a_group_is_answered_only_where_a_command_addresses_the_bot() {
    assert_eq!(
        text(group(), "/apikey@Keys_bot"),
        Event::Group(PERSON, -100)
    );
    assert_eq!(text(group(), "/apikey"), Event::Group(PERSON, -100));
    assert_eq!(text(group(), "/apikey@other_bot"), Event::Nothing);
    assert_eq!(text(group(), "hello"), Event::Nothing);
}

#[test]
fn a_message_outside_the_own_private_chat_or_of_a_bot_is_ignored() {
    assert_eq!(text(private(43), "/apikey"), Event::Nothing);
    let mut through_a_bot = message(private(42), ("text", json!("/apikey")));
    through_a_bot["message"]["via_bot"] = json!({"id": 5, "is_bot": true, "first_name": "B"});
    assert_eq!(event(through_a_bot), Event::Nothing);
    let mut bot = message(private(42), ("text", json!("/apikey")));
    bot["message"]["from"]["is_bot"] = json!(true);
    assert_eq!(event(bot), Event::Nothing);
}

#[test]
fn edited_messages_channel_posts_and_unknown_updates_are_ignored() {
    let content = message(private(42), ("text", json!("/apikey")))["message"].clone();
    for kind in [
        "edited_message",
        "channel_post",
        "edited_channel_post",
        "hologram",
    ] {
        let found = event(json!({"update_id": 1, kind: content}));
        assert_eq!(found, Event::Nothing, "{kind}");
    }
    assert_eq!(
        event(json!({"update_id": 1, "message": {"x": 1}})),
        Event::Nothing
    );
}

#[test]
fn a_tap_has_its_message_only_in_the_own_private_chat() {
    let tap = |chat: Value, date: u64| {
        let query = json!({
            "id": "q", "from": user(42), "chat_instance": "c", "data": "v1",
            "message": {"message_id": 9, "date": date, "chat": chat, "text": "x"},
        });
        match event(json!({"update_id": 1, "callback_query": query})) {
            Event::Tap(PERSON, tap) => tap.message.map(|id| id.0),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tap(private(42), 5), Some(9));
    assert_eq!(
        tap(private(42), 0),
        Some(9),
        "the message is too old to be readable"
    );
    assert_eq!(tap(private(43), 5), None);
    assert_eq!(tap(group(), 5), None);
}

#[test]
fn the_data_of_a_tap_is_not_printed() {
    let tap = Tap {
        query: CallbackQueryId("q".to_owned()),
        message: Some(MessageId(1)),
        data: "v1.canary".to_owned(),
    };
    assert!(!format!("{:?}", Event::Tap(PERSON, tap)).contains("canary"));
}
