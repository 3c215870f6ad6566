//! How a bot gets updates: by polling and by webhook.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keyward_testkit::now;
use keyward_testkit::telegram::Telegram;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{done, keyboard, refused};

/// The ids of the updates in a response.
fn ids(updates: &Value) -> Vec<i64> {
    let updates = updates.as_array().unwrap();
    let ids = updates
        .iter()
        .map(|update| update["update_id"].as_i64().unwrap());
    ids.collect()
}

#[tokio::test]
async fn updates_come_again_until_they_are_confirmed() {
    let telegram = Telegram::start();
    let anna = telegram.person(1001, "zh-hans");
    let (first, second) = (anna.send("/start"), anna.send_photo());
    for _ in 0..2 {
        let updates = done(&telegram, "getUpdates", json!({})).await;
        assert_eq!(ids(&updates), [first, second]);
        let message = &updates[0]["message"];
        assert_eq!(message["from"]["language_code"], "zh-hans");
        assert_eq!(message["chat"]["type"], "private");
        assert_eq!(message["entities"][0]["type"], "bot_command");
        assert!(updates[1]["message"]["photo"].is_array());
    }
    let one = done(&telegram, "getUpdates", json!({ "limit": 1 })).await;
    assert_eq!(ids(&one), [first]);
    let rest = done(&telegram, "getUpdates", json!({ "offset": second })).await;
    assert_eq!(ids(&rest), [second]);
    let none = done(&telegram, "getUpdates", json!({ "offset": second + 1 })).await;
    assert_eq!(none, json!([]));
    telegram.settled().await;
    // An update is repeated if its confirmation was lost.
    telegram.redeliver(first);
    let again = done(&telegram, "getUpdates", json!({ "offset": second + 1 })).await;
    assert_eq!(ids(&again), [first]);
    // Also for a waiting poll, which has confirmed the previous update.
    let waits = json!({ "offset": second + 1, "timeout": 30 });
    let redelivers = async {
        telegram.settled().await;
        telegram.redeliver(second);
    };
    let (again, ()) = tokio::join!(done(&telegram, "getUpdates", waits), redelivers);
    assert_eq!(ids(&again), [second]);
}

#[tokio::test]
async fn a_poll_waits_and_a_newer_one_ends_it() {
    let telegram = Telegram::start();
    let anna = telegram.person(1001, "en");
    let long = json!({ "timeout": 30 });
    let first = refused(&telegram, "getUpdates", long.clone());
    let second = async {
        telegram.called("getUpdates", 1).await;
        done(&telegram, "getUpdates", long.clone()).await
    };
    let writes = async {
        telegram.called("getUpdates", 2).await;
        anna.send("/start")
    };
    let ((code, why), updates, sent) = tokio::join!(first, second, writes);
    assert_eq!(code, 409);
    assert!(
        why.starts_with("Conflict: terminated by other getUpdates"),
        "{why}"
    );
    assert_eq!(ids(&updates), [sent]);
    let begun = now();
    done(
        &telegram,
        "getUpdates",
        json!({ "offset": sent + 1, "timeout": 1 }),
    )
    .await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn only_the_kinds_come_that_the_bot_wants() {
    let telegram = Telegram::start();
    let anna = telegram.person(1001, "en");
    let wanted = json!({ "allowed_updates": ["message"] });
    done(&telegram, "getUpdates", wanted).await;
    let sent = anna.send("/start");
    anna.block();
    let updates = done(&telegram, "getUpdates", json!({})).await;
    assert_eq!(ids(&updates), [sent]);
    let wanted = json!({ "offset": sent + 1, "allowed_updates": [] });
    done(&telegram, "getUpdates", wanted).await;
    let unblocked = anna.unblock();
    let updates = done(&telegram, "getUpdates", json!({})).await;
    assert_eq!(ids(&updates), [unblocked]);
    assert_eq!(
        updates[0]["my_chat_member"]["new_chat_member"]["status"],
        "member"
    );
}

#[tokio::test]
async fn a_tap_names_the_message_and_is_answered_once_known() {
    let telegram = Telegram::start();
    let anna = telegram.person(1001, "en");
    anna.send("/start");
    let screen = json!({ "chat_id": 1001, "text": "x", "reply_markup": keyboard("Go", "data") });
    let message = done(&telegram, "sendMessage", screen).await;
    let tap = anna.tap("Go");
    anna.tap_bytes(message["message_id"].as_i64().unwrap(), &[0xff, b'a', 0]);
    let updates = done(&telegram, "getUpdates", json!({ "offset": tap })).await;
    let query = &updates[0]["callback_query"];
    assert_eq!(
        (&query["data"], &query["from"]["id"]),
        (&json!("data"), &json!(1001))
    );
    assert_eq!(query["message"], message);
    assert_eq!(updates[1]["callback_query"]["data"], "ÿa\0");
    let answer = json!({ "callback_query_id": query["id"], "text": "Done" });
    done(&telegram, "answerCallbackQuery", answer.clone()).await;
    assert_eq!(anna.answers(), ["Done"]);
    telegram.age_queries();
    let (code, why) = refused(&telegram, "answerCallbackQuery", answer).await;
    assert_eq!(code, 400);
    assert!(why.contains("query is too old"), "{why}");
    // A tap on a deleted message.
    let seen = anna.screen().unwrap();
    anna.delete(seen.id);
    let tap = anna.tap_on(&seen, "Go");
    let updates = done(&telegram, "getUpdates", json!({ "offset": tap })).await;
    let gone = json!({ "chat": message["chat"], "message_id": seen.id, "date": 0 });
    assert_eq!(updates[0]["callback_query"]["message"], gone);
}

#[tokio::test]
async fn anything_can_be_injected_and_is_confirmed_by_its_id() {
    let telegram = Telegram::start();
    telegram.inject(json!("no object"));
    let id = telegram.inject(json!({ "update_id": 600_000_000, "nonsense": [] }));
    let drawn = telegram.inject(json!({ "callback_query": {} }));
    let updates = done(&telegram, "getUpdates", json!({})).await;
    assert_eq!(updates[0], "no object");
    assert_eq!(updates[1]["update_id"], id);
    assert_eq!(updates[2]["update_id"], drawn);
}

/// A bot with a webhook that answers with these statuses in turn. Returns the received bodies.
async fn posted_to(statuses: Vec<u16>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let told = Arc::<Mutex<Vec<String>>>::default();
    let heard = Arc::clone(&told);
    tokio::spawn(async move {
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.ends_with('}') {
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).await.unwrap();
                request.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
            heard.lock().push(request);
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, told)
}

#[tokio::test]
async fn a_webhook_is_posted_to_until_it_says_200() {
    let telegram = Telegram::start();
    let (address, told) = posted_to(vec![500, 200, 200]).await;
    telegram.resolve("bot.example", address);
    let plain = json!({ "url": "http://bot.example/hook" });
    assert_eq!(refused(&telegram, "setWebhook", plain).await.0, 400);
    let url = "https://bot.example/hook";
    let arguments = json!({ "url": url, "secret_token": "s-1" });
    done(&telegram, "setWebhook", arguments).await;
    assert_eq!(telegram.webhook().as_deref(), Some(url));
    let anna = telegram.person(1001, "en");
    let (first, second) = (anna.send("one"), anna.send("two"));
    telegram.settled().await;
    let told = told.lock().clone();
    for (text, id) in [(&told[0], first), (&told[1], first), (&told[2], second)] {
        assert!(text.starts_with("POST /hook HTTP/1.1\r\n"), "{text}");
        assert!(
            text.contains("x-telegram-bot-api-secret-token: s-1\r\n"),
            "{text}"
        );
        assert!(text.contains(&format!("\"update_id\":{id}")), "{text}");
    }
    let info = done(&telegram, "getWebhookInfo", json!({})).await;
    assert_eq!(
        info["last_error_message"],
        "Wrong response from the webhook: 500"
    );
    let (code, why) = refused(&telegram, "getUpdates", json!({})).await;
    assert!(code == 409 && why.contains("webhook is active"), "{why}");
    done(&telegram, "deleteWebhook", json!({})).await;
    assert_eq!(done(&telegram, "getUpdates", json!({})).await, json!([]));
}
