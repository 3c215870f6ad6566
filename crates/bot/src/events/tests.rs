//! Updates from Telegram, and updates that Telegram should never send.

use serde_json::{Value, json};

use super::*;

/// The request of the person with the id 42.
fn request(update: Value) -> Option<Request> {
    let event = Event::of(&serde_json::from_value(update).unwrap(), "Keys_bot")?;
    let language = Language::Russian;
    assert_eq!(event.person, Person { id: 42, language });
    Some(event.request)
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

fn text(chat: Value, text: &str) -> Option<Request> {
    request(message(chat, ("text", json!(text))))
}

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
        let expected = command.map_or(Request::Other, Request::Command);
        assert_eq!(text(private(42), input), Some(expected), "{input:?}");
    }
    let long = format!("/apikey{}", "x".repeat(4096));
    assert_eq!(text(private(42), &long), Some(Request::Other));
}

#[test]
fn a_message_without_text_is_other() {
    let sticker = json!({"phone_number": "1", "first_name": "A"});
    let found = request(message(private(42), ("contact", sticker)));
    assert_eq!(found, Some(Request::Other));
}

#[test]
fn a_group_is_answered_only_where_a_command_addresses_the_bot() {
    assert_eq!(
        text(group(), "/apikey@Keys_bot"),
        Some(Request::Group(-100))
    );
    assert_eq!(text(group(), "/apikey"), Some(Request::Group(-100)));
    assert_eq!(text(group(), "/apikey@other_bot"), None);
    assert_eq!(text(group(), "hello"), None);
}

#[test]
fn a_message_outside_the_own_private_chat_or_of_a_bot_is_ignored() {
    assert_eq!(text(private(43), "/apikey"), None);
    let mut through_a_bot = message(private(42), ("text", json!("/apikey")));
    through_a_bot["message"]["via_bot"] = json!({"id": 5, "is_bot": true, "first_name": "B"});
    assert_eq!(request(through_a_bot), None);
    let mut bot = message(private(42), ("text", json!("/apikey")));
    bot["message"]["from"]["is_bot"] = json!(true);
    assert_eq!(request(bot), None);
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
        let found = request(json!({"update_id": 1, kind: content}));
        assert_eq!(found, None, "{kind}");
    }
    assert_eq!(request(json!({"update_id": 1, "message": {"x": 1}})), None);
}

#[test]
fn a_tap_has_its_message_only_in_the_own_private_chat() {
    let tap = |chat: Value, date: u64| {
        let query = json!({
            "id": "q", "from": user(42), "chat_instance": "c", "data": "v1",
            "message": {"message_id": 9, "date": date, "chat": chat, "text": "x"},
        });
        match request(json!({"update_id": 1, "callback_query": query})) {
            Some(Request::Tap(tap)) => tap.message.map(|id| id.0),
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
        query: "q".to_owned(),
        message: Some(MessageId(1)),
        data: Secret::new("v1.canary"),
    };
    assert!(!format!("{:?}", Request::Tap(tap)).contains("canary"));
}
