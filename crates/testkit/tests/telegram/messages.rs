//! The messages of a bot, and the messages that Telegram refuses.

use keyward_testkit::telegram::Telegram;
use serde_json::{Value, json};

use super::{done, keyboard, refused, shows};

/// Creates a user who has written, and a message of the bot in that chat. Returns its id.
async fn shown(telegram: &Telegram) -> Value {
    telegram.person(1001, "en").send("/start");
    let arguments = json!({
        "chat_id": 1001, "text": "<b>Key</b> <code>kw_1</code>", "parse_mode": "HTML",
        "reply_markup": { "inline_keyboard": [
            [{ "text": "Copy", "copy_text": { "text": "kw_1" } }],
            [{ "text": "Back", "callback_data": "back" }, { "text": "Web", "url": "https://a.example" }],
        ] },
    });
    done(telegram, "sendMessage", arguments).await["message_id"].clone()
}

#[tokio::test]
async fn a_person_sees_the_text_the_monospace_and_the_buttons() {
    let telegram = Telegram::start();
    shown(&telegram).await;
    let anna = telegram.person(1001, "en");
    let screen = anna.sees("the key", shows("Key kw_1")).await;
    assert_eq!(screen.code, ["kw_1"]);
    assert_eq!(screen.key(), Some("kw_1"));
    assert_eq!(screen.labels(), ["Copy", "Back", "Web"]);
    assert_eq!(screen.button("Back").unwrap().data.as_deref(), Some("back"));
    assert_eq!(screen.to_string(), "Key kw_1\n[ Copy ]\n[ Back ] [ Web ]\n");
}

#[tokio::test]
async fn an_edit_must_change_the_message() {
    let telegram = Telegram::start();
    let id = shown(&telegram).await;
    let anna = telegram.person(1001, "en");
    let mut arguments = json!({
        "chat_id": 1001, "message_id": id, "text": "Hidden", "reply_markup": keyboard("Show", "s"),
    });
    done(&telegram, "editMessageText", arguments.clone()).await;
    let screen = anna.sees("the hint", shows("Hidden")).await;
    assert_eq!(
        (screen.edits, screen.labels(), screen.key()),
        (1, vec!["Show"], None)
    );
    let (code, why) = refused(&telegram, "editMessageText", arguments.clone()).await;
    assert_eq!(code, 400);
    assert!(
        why.starts_with("Bad Request: message is not modified: "),
        "{why}"
    );
    // The same text in HTML does not change the message.
    arguments["parse_mode"] = json!("HTML");
    assert!(
        refused(&telegram, "editMessageText", arguments)
            .await
            .1
            .contains("not modified")
    );
    // An edit without a keyboard removes the keyboard.
    let bare = json!({ "chat_id": 1001, "message_id": id });
    done(&telegram, "editMessageReplyMarkup", bare.clone()).await;
    assert_eq!(anna.screen().unwrap().rows, Vec::<Vec<_>>::new());
    assert!(
        refused(&telegram, "editMessageReplyMarkup", bare)
            .await
            .1
            .contains("not modified")
    );
    assert_eq!(telegram.shown().len(), 3);
}

#[tokio::test]
async fn only_existing_messages_of_the_bot_can_be_edited() {
    let telegram = Telegram::start();
    let id = shown(&telegram).await;
    let anna = telegram.person(1001, "en");
    let edit = |id: Value| json!({ "chat_id": 1001, "message_id": id, "text": "x" });
    anna.send("mine");
    let updates = done(&telegram, "getUpdates", json!({})).await;
    let mine = updates[1]["message"]["message_id"].clone();
    let why = refused(&telegram, "editMessageText", edit(mine)).await.1;
    assert_eq!(why, "Bad Request: message can't be edited");
    anna.delete(id.as_i64().unwrap());
    let why = refused(&telegram, "editMessageText", edit(id.clone()))
        .await
        .1;
    assert_eq!(why, "Bad Request: message to edit not found");
    let gone = json!({ "chat_id": 1001, "message_id": id });
    let why = refused(&telegram, "deleteMessage", gone).await.1;
    assert_eq!(why, "Bad Request: message to delete not found");
}

#[tokio::test]
async fn limits_are_enforced() {
    let telegram = Telegram::start();
    telegram.person(1001, "en").send("/start");
    let text = |text: String| json!({ "chat_id": 1001, "text": text, "parse_mode": "HTML" });
    let button = |button: Value| {
        json!({
            "chat_id": 1001, "text": "x", "reply_markup": { "inline_keyboard": [[button]] },
        })
    };
    let data = |data: String| button(json!({ "text": "x", "callback_data": data }));
    let page = |url: &str| button(json!({ "text": "x", "url": url }));
    let copied = |text: String| button(json!({ "text": "x", "copy_text": { "text": text } }));
    // Tags do not count, and a reference counts as one character.
    for arguments in [
        text(format!("<b>{}</b>", "&lt;".repeat(4096))),
        data("钥".repeat(21) + "x"),
        copied("钥".repeat(256)),
        page("https://host.example/?a=b"),
    ] {
        done(&telegram, "sendMessage", arguments).await;
    }
    for (arguments, why) in [
        (text("x".repeat(4097)), "message is too long"),
        (text(" \n".to_owned()), "message text is empty"),
        (
            text("<key>".to_owned()),
            "can't parse entities: Unsupported start tag \"key\" at byte offset 0",
        ),
        (data("钥".repeat(22)), "BUTTON_DATA_INVALID"),
        (data(String::new()), "BUTTON_DATA_INVALID"),
        (copied("x".repeat(257)), "BUTTON_COPY_TEXT_INVALID"),
        (
            button(json!({ "text": "", "callback_data": "x" })),
            "can't parse inline keyboard button: Text must be non-empty",
        ),
        (
            page("https://localhost/"),
            "inline keyboard button URL 'https://localhost/' is invalid: Wrong HTTP URL",
        ),
        (
            page("javascript:x"),
            "inline keyboard button URL 'javascript:x' is invalid: Wrong HTTP URL",
        ),
        (json!({ "chat_id": 5, "text": "x" }), "chat not found"),
    ] {
        let found = refused(&telegram, "sendMessage", arguments).await;
        assert_eq!(found, (400, format!("Bad Request: {why}")));
    }
}

#[tokio::test]
async fn a_user_who_blocked_the_bot_or_never_wrote_is_unreachable() {
    let telegram = Telegram::start();
    let anna = telegram.person(1001, "en");
    let hello = json!({ "chat_id": 1001, "text": "x" });
    let found = refused(&telegram, "sendMessage", hello.clone()).await;
    let never = "Forbidden: bot can't initiate conversation with a user";
    assert_eq!(found, (403, never.to_owned()));
    anna.send("/start");
    anna.block();
    let found = refused(&telegram, "sendMessage", hello.clone()).await;
    assert_eq!(
        found,
        (403, "Forbidden: bot was blocked by the user".to_owned())
    );
    anna.unblock();
    done(&telegram, "sendMessage", hello).await;
}
