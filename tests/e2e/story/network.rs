//! Failures of Telegram, deleted messages, blocks, crowds and a webhook do not change the outcome.

use std::io::Write as _;
use std::time::Duration;

use keyward_testkit::telegram::{Fault, When};
use keyward_testkit::{Stage, http_ask};
use serde_json::json;

use super::actor::Actor;
use super::whole::{assert_whole, dies};

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_telegram_delay_the_new_key_and_change_nothing_else() {
    let stage = Stage::start(&[]);
    let faults = [
        Fault::TooManyRequests(1),
        Fault::Drop(When::Before),
        Fault::Drop(When::After),
        Fault::bad_gateway(),
        Fault::Slow(Duration::from_secs(2)),
    ];
    for (id, fault) in (1001..).zip(faults) {
        let actor = Actor::english(&stage, id);
        let (old, ask) = actor.ask().await;
        for method in ["answerCallbackQuery", "editMessageText", "getUpdates"] {
            stage.telegram.fault(method, 1, fault.clone());
        }
        actor.confirm(&ask);
        let new = actor.new_key(&old).await;
        stage.telegram.settled().await;
        assert_whole(&stage, &actor, &new, &[&old]).await;
        stage.telegram.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_message_is_sent_again() {
    let stage = Stage::start(&[]);
    let actor = Actor::english(&stage, 1001);
    let (old, ask) = actor.ask().await;
    let held = stage.telegram.hold("editMessageText", When::Before);
    actor.confirm(&ask);
    held.arrived().await;
    actor.person.delete(ask.id);
    held.release();
    let screen = actor.sees_other_key(&old).await;
    assert_ne!(screen.id, ask.id);
    assert_whole(&stage, &actor, screen.key().unwrap(), &[&old]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_blocks_the_bot_during_a_revoke_finds_the_new_key_later() {
    let mut stage = Stage::start(&[]);
    let actor = Actor::english(&stage, 1001);
    let (old, ask) = actor.ask().await;
    actor.confirm(&ask);
    actor.person.block();
    dies(&stage, &old).await;
    stage.telegram.settled().await;
    assert!(stage.bot_runs());
    actor.person.unblock();
    actor.person.send("/apikey");
    let new = actor.new_key(&old).await;
    stage.telegram.settled().await;
    assert_whole(&stage, &actor, &new, &[&old]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_and_an_impatient_person_are_served() {
    // On a busy machine the last key is read late.
    let stage = Stage::start(&[("KEYWARD_BOT_HIDE_AFTER", "none")]);
    let impatient = Actor::english(&stage, 1001);
    let (old, ask) = impatient.ask().await;
    let crowd: Vec<_> = (2001..=2120).map(|id| Actor::english(&stage, id)).collect();
    for actor in &crowd {
        actor.person.send("/apikey");
    }
    for _ in 0..20 {
        impatient.confirm(&ask);
    }
    stage.telegram.settled().await;
    let new = impatient.new_key(&old).await;
    assert_whole(&stage, &impatient, &new, &[&old]).await;
    let mut keys = Vec::new();
    for actor in &crowd {
        keys.push(actor.sees_key().await.key().unwrap().to_owned());
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), crowd.len(), "each person has a different key");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flow_works_with_a_webhook_that_refuses_other_senders() {
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    write!(secret, "a-secret-of-enough-length").unwrap();
    let stage = Stage::start(&[
        ("KEYWARD_BOT_WEBHOOK_URL", "https://bot.example/telegram"),
        ("KEYWARD_BOT_WEBHOOK_LISTEN", "127.0.0.1:0"),
        (
            "KEYWARD_BOT_WEBHOOK_SECRET_FILE",
            secret.path().to_str().unwrap(),
        ),
    ]);
    let webhook = stage.bot_webhook().unwrap();
    stage.telegram.resolve("bot.example", webhook);
    let actor = Actor::english(&stage, 1001);
    let (old, ask) = actor.ask().await;
    // An attacker who knows the address of the webhook and the data of the button.
    let data = ask.button(actor.words.label("button-confirm"));
    let chat = json!({ "id": 1001, "type": "private", "first_name": "X" });
    let forged = json!({ "update_id": 900_000_000, "callback_query": {
        "id": "1", "from": { "id": 1001, "is_bot": false, "first_name": "X" },
        "chat_instance": "1", "data": data.unwrap().data,
        "message": { "message_id": ask.id, "date": 1, "chat": chat, "text": "x" },
    }});
    let wrong = [(
        "x-telegram-bot-api-secret-token",
        "another-secret-of-this-length",
    )];
    for headers in [&[][..], &wrong] {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        let body = forged.to_string();
        let answer = http_ask(webhook, "POST", "/telegram", &headers, &body).await;
        let status = answer.unwrap().status;
        assert!([401, 403, 404].contains(&status), "{status}");
    }
    actor.confirm(&ask);
    actor.confirm(&ask);
    stage.telegram.settled().await;
    let new = actor.new_key(&old).await;
    assert_whole(&stage, &actor, &new, &[&old]).await;
    assert!(stage.telegram.calls_of("getUpdates").is_empty());
}
