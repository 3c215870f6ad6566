//! Hostile updates cause no panic, show no key and revoke nothing, and the bot keeps running.

use keyward_bot::i18n::Id;
use serde_json::{Value, json};

use crate::world::{World, en};

#[tokio::test]
async fn forged_and_foreign_buttons_cause_no_call_to_keyward() {
    let world = World::start(&[]).await;
    let [who, other] = [5, 6].map(|id| world.telegram.person(id, "en"));
    let (shown, key) = world.open_key(&who).await;
    let button = shown.button("♻️ Revoke").unwrap();
    let (revoke, before) = (button.data.clone().unwrap(), world.keyward.count());
    let mut forged = vec![revoke.replacen(".r.", ".c.", 1)];
    forged.extend(["", "v1", "v1.k..", "v1.c.%s.%n", "\u{0}\u{202e}"].map(str::to_owned));
    forged.push("x".repeat(10_000));
    // A valid one with each byte changed.
    for at in 0..revoke.len() {
        let mut bytes = revoke.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        forged.push(String::from_utf8(bytes).unwrap());
    }
    for batch in forged.chunks(20) {
        for data in batch {
            who.tap_data(shown.id, data);
        }
        world.telegram.settled().await;
    }
    who.tap_bytes(shown.id, &[0xff, 0xfe, 0x00]);
    // Another person presses a valid one: in their chat, in a group, and with a forged chat.
    world.telegram.group(-100_123);
    other.tap_data(shown.id, &revoke);
    other.within(-100_123).tap_data(shown.id, &revoke);
    let tap = json!({
        "id": "q", "from": {"id": 6, "is_bot": false, "first_name": "x"}, "chat_instance": "x",
        "data": revoke,
        "message": {
            "message_id": shown.id, "date": 1, "text": "x",
            "chat": {"id": 5, "type": "private", "first_name": "x"},
        },
    });
    world.telegram.inject(json!({"callback_query": tap}));
    world.telegram.settled().await;
    assert_eq!(world.keyward.count(), before, "Keyward was not called");
    assert!(other.screens().is_empty(), "the other person sees nothing");
    let refused = en(Id::ANSWER_NOT_YOURS);
    let answers = who.answers();
    assert!(
        answers.iter().filter(|answer| **answer == refused).count() > 40,
        "{answers:?}"
    );
    assert!(
        answers
            .iter()
            .chain(&other.answers())
            .all(|answer| !answer.contains(&key))
    );
    // The real one still works.
    let asked = world.press(&who, &shown, Id::BUTTON_REVOKE).await;
    assert!(asked.button("✅ Confirm").is_some(), "{asked}");
}

#[tokio::test]
async fn a_repeated_old_button_uses_up_the_reveals_of_its_user_alone() {
    let world = World::start(&[]).await;
    let [who, other] = [5, 6].map(|id| world.telegram.person(id, "en"));
    let (shown, _) = world.open_key(&who).await;
    let revoke = shown.button("♻️ Revoke").unwrap().data.clone().unwrap();
    world.press(&who, &shown, Id::BUTTON_BACK).await;
    // The message shows no key any more, so each of these needs an Issue.
    for _ in 0..40 {
        who.tap_data(shown.id, &revoke);
    }
    world.telegram.settled().await;
    assert_eq!(world.keyward.count().1, 30);
    let limited = who.message(shown.id).unwrap();
    assert!(limited.text.contains("in 2 minutes"), "{limited}");
    world.open_key(&other).await;
}

#[tokio::test]
async fn a_button_of_another_version_opens_the_account() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (shown, _) = world.open_key(&who).await;
    who.tap_data(shown.id, "v7.confirm.something");
    world.telegram.settled().await;
    let account = who.message(shown.id).unwrap();
    assert!(
        account.text.contains("older version") && account.key().is_none(),
        "{account}"
    );
    assert!(account.button("🔑 API key").is_some());
    assert_eq!(world.keyward.count().2, 0);
}

#[tokio::test]
async fn a_group_gets_no_key() {
    let world = World::start(&[]).await;
    world.telegram.group(-100_123);
    let who = world.telegram.person(5, "en").within(-100_123);
    for text in ["/apikey", "hello", "/apikey@other_bot"] {
        who.send(text);
    }
    world.telegram.settled().await;
    let [answer] = &who.screens()[..] else {
        panic!("one answer:\n{}", world.telegram.story());
    };
    assert_eq!(answer.text, en(Id::GROUP_TEXT));
    let open = answer
        .button("Open the bot")
        .and_then(|button| button.url.clone());
    assert!(
        open.is_some_and(|url| url.starts_with("https://t.me/")),
        "{answer}"
    );
    assert_eq!(world.keyward.count(), (0, 0, 0));
}

#[tokio::test]
async fn odd_updates_are_confirmed_and_not_quoted() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    who.send("/start");
    who.send(&"canary <b>&\u{202e}".repeat(250));
    who.send(&format!("/apikey@{}", "x".repeat(4000)));
    let private = json!({"id": 5, "type": "private", "first_name": "canary"});
    let from = |id: i64| json!({"id": id, "is_bot": false, "first_name": "canary"});
    let message = |from: Value, content: (&str, Value)| {
        let mut message = json!({"message_id": 1, "date": 1, "chat": private, "from": from});
        message[content.0] = content.1;
        message
    };
    for update in [
        json!({"message": message(from(5), ("contact", json!({"phone_number": "1", "first_name": "canary"})))}),
        json!({"message": message(from(5), ("location", json!({"latitude": 1.0, "longitude": 2.0})))}),
        json!({"message": message(from(5), ("hologram", json!({"canary": 1})))}),
        json!({"message": {"nothing": "is right"}}),
        json!({"unheard_of": [1, 2, 3]}),
        json!({"channel_post": message(from(5), ("text", json!("/apikey")))}),
        json!({"edited_message": message(from(5), ("text", json!("/apikey")))}),
        // Another person's private chat, which Telegram never sends.
        json!({"message": message(from(6), ("text", json!("/apikey")))}),
    ] {
        world.telegram.inject(update);
    }
    world.telegram.settled().await;
    let shown = world.telegram.shown();
    assert!(
        shown.iter().all(|screen| !screen.text.contains("canary")),
        "{shown:?}"
    );
    assert_eq!(world.keyward.count(), (0, 0, 0));
    world.open_key(&who).await;
}
