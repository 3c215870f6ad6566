//! Updates that Telegram pushes to a webhook.

use std::net::SocketAddr;
use std::time::Duration;

use keyward_bot::i18n::Id;
use keyward_testkit::telegram::Fault;
use keyward_testkit::{PATIENCE, http_ask};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{World, key_in};

const SECRET: &str = "canary-secret-of-the-webhook";

/// A bot with a webhook, and the address of the webhook.
async fn pushed() -> (World, SocketAddr) {
    let mut world = World::new().await;
    let file = world.files.path().join("webhook");
    std::fs::write(&file, SECRET).unwrap();
    let flags = [
        ("webhook_url", "https://bot.example/hook"),
        ("webhook_listen", "127.0.0.1:0"),
        ("webhook_secret_file", file.to_str().unwrap()),
    ];
    let address = world.start_bot(&flags).await.webhook.unwrap();
    world.telegram.resolve("bot.example", address);
    (world, address)
}

/// A call of the Bot API with the bot's token.
async fn by_another_program(world: &World, call: &str) {
    let path = format!("/bot{}/{call}", world.telegram.token());
    let answer = http_ask(world.telegram.address(), "POST", &path, &[], "").await;
    assert_eq!(answer.unwrap().status, 200);
}

#[tokio::test]
async fn a_webhook_that_is_left_over_is_named_and_deleted_only_on_demand() {
    let mut world = World::new().await;
    by_another_program(&world, "setWebhook?url=https://other.example/hook").await;
    let side_port = world.start_bot(&[]).await.http.unwrap();
    let told = async {
        loop {
            let answer = http_ask(side_port, "GET", "/readyz", &[], "").await;
            let answer = answer.unwrap();
            if answer.status == 503 {
                return answer.body;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.unwrap();
    let expected = [
        "a webhook is registered",
        "deleteWebhook",
        "delete_webhook = true",
    ];
    assert!(expected.iter().all(|part| told.contains(part)), "{told}");
    assert!(world.telegram.webhook().is_some(), "the bot keeps it");

    world.stop_bot().await;
    world.start_bot(&[("delete_webhook", "true")]).await;
    world.ask(&world.telegram.person(5, "en"), "/start").await;
}

#[tokio::test]
async fn a_deleted_webhook_is_registered_again() {
    let (world, _) = pushed().await;
    let who = world.telegram.person(5, "en");
    world.ask(&who, "/start").await;
    by_another_program(&world, "deleteWebhook").await;
    let before = who.screens().len();
    who.send("/start");
    who.sees("another menu", |screen| {
        screen.id > 0 && who.screens().len() > before
    })
    .await;
}

#[tokio::test]
async fn slow_and_silent_requests_end() {
    let (_world, address) = pushed().await;
    let mut ends = Vec::new();
    let begun = format!(
        "POST /hook HTTP/1.1\r\nhost: x\r\nx-telegram-bot-api-secret-token: {SECRET}\r\n\
         content-length: 1000\r\n\r\n{{"
    );
    for (sent, answer) in [("POST /ho", ""), (&begun, "HTTP/1.1 408")] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        ends.push(async move {
            let mut read = String::new();
            stream.read_to_string(&mut read).await.unwrap();
            assert!(
                read.starts_with(answer) && read.is_empty() == answer.is_empty(),
                "{read}"
            );
        });
    }
    let ends = tokio::time::timeout(PATIENCE, futures_util::future::join_all(ends));
    ends.await.expect("the bot closes both");
}

#[tokio::test]
async fn slow_chats_do_not_keep_all_connections_of_telegram() {
    let (world, address) = pushed().await;
    let slow = Fault::TooManyRequests(30);
    world.telegram.fault("sendMessage", 100, slow);
    let mut answers = tokio::task::JoinSet::new();
    for id in 1001..=1100 {
        world.telegram.person(id, "en");
        let update = json!({"update_id": id, "message": {
            "message_id": 1, "date": 1, "text": "/start",
            "from": {"id": id, "is_bot": false, "first_name": "x"},
            "chat": {"id": id, "type": "private", "first_name": "x"},
        }});
        let secret = [("x-telegram-bot-api-secret-token", SECRET)];
        answers.spawn(async move {
            let update = update.to_string();
            http_ask(address, "POST", "/hook", &secret, &update).await
        });
    }
    let half = async {
        for _ in 0..50 {
            let answer = answers.join_next().await.unwrap().unwrap();
            assert_eq!(answer.unwrap().status, 200);
        }
    };
    let half = tokio::time::timeout(Duration::from_secs(25), half).await;
    half.expect("they are answered before their end");
}

#[tokio::test]
async fn pushed_updates_are_handled_before_they_are_answered() {
    let (mut world, address) = pushed().await;
    let who = world.telegram.person(5, "en");
    let (asked, old) = world.ask_to_revoke(&who).await;
    let new = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    assert!(key_in(&new) != old && key_in(&new) == world.live(&who));
    assert!(world.telegram.calls_of("getUpdates").is_empty());

    // A request without the secret is refused.
    let before = world.keyward.count();
    let update = r#"{"update_id":1,"message":{"message_id":1,"date":1,"text":"/apikey",
        "from":{"id":5,"is_bot":false,"first_name":"x"},
        "chat":{"id":5,"type":"private","first_name":"x"}}}"#;
    let secret = |text| [("x-telegram-bot-api-secret-token", text)];
    for (headers, body, status) in [
        (vec![], update, 401),
        (secret("").into(), update, 401),
        (secret("canary-secret-of-the-webhooj").into(), update, 401),
        (secret(SECRET).into(), "not json", 200),
    ] {
        let answer = http_ask(address, "POST", "/hook", &headers, body).await;
        assert_eq!(answer.unwrap().status, status);
    }
    assert_eq!(world.keyward.count(), before);
    // Of a request without the secret, the bot does not wait for the rest.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer));
    read.await.expect("an answer without the body").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    // The connection may close before the answer.
    let large = " ".repeat(2 << 20);
    let answer = http_ask(address, "POST", "/hook", &secret(SECRET), &large).await;
    assert!(answer.map_or(413, |answer| answer.status) == 413);
    world.stop_bot().await;
    assert!(
        who.message(new.id)
            .is_some_and(|screen| screen.key().is_none())
    );
}
