//! Only the requested faults occur.

use std::time::Duration;

use keyward_testkit::telegram::{Fault, Telegram, When};
use keyward_testkit::{http_ask, now};
use serde_json::{Value, json};

use super::{call, done};

/// A fake with a user who has written, and a message to that user.
fn begin() -> (Telegram, Value) {
    let telegram = Telegram::start();
    telegram.person(1001, "en").send("/start");
    (telegram, json!({ "chat_id": 1001, "text": "x" }))
}

fn shown(telegram: &Telegram) -> usize {
    telegram.person(1001, "en").screens().len()
}

#[tokio::test]
async fn too_many_requests_names_the_retry_time() {
    let (telegram, message) = begin();
    telegram.fault("sendMessage", 2, Fault::TooManyRequests(3));
    for _ in 0..2 {
        let (status, body) = call(&telegram, "sendMessage", message.clone()).await;
        assert_eq!(status, 429);
        assert_eq!(body["parameters"]["retry_after"], 3);
    }
    assert_eq!(shown(&telegram), 0);
    done(&telegram, "sendMessage", message.clone()).await;
    telegram.fault("sendMessage", 1, Fault::TooManyRequests(3));
    telegram.heal();
    done(&telegram, "sendMessage", message).await;
    let statuses: Vec<_> = telegram
        .calls_of("sendMessage")
        .iter()
        .map(|c| c.status)
        .collect();
    assert_eq!(statuses, [Some(429), Some(429), Some(200), Some(200)]);
}

#[tokio::test]
async fn a_dropped_call_is_executed_only_with_when_after() {
    let (telegram, message) = begin();
    let path = format!("/bot{}/sendMessage", telegram.token());
    for (when, performed) in [(When::Before, 0), (When::After, 1)] {
        telegram.fault("sendMessage", 1, Fault::Drop(when));
        let headers = [("content-type", "application/json")];
        let body = message.to_string();
        let answer = http_ask(telegram.address(), "POST", &path, &headers, &body).await;
        assert!(answer.is_err(), "{answer:?}");
        assert_eq!(shown(&telegram), performed, "{when:?}");
    }
    assert!(
        telegram
            .calls_of("sendMessage")
            .iter()
            .all(|call| call.status.is_none())
    );
}

#[tokio::test]
async fn a_proxy_in_between_answers_in_html() {
    let (telegram, message) = begin();
    telegram.fault("sendMessage", 1, Fault::bad_gateway());
    let path = format!("/bot{}/sendMessage", telegram.token());
    let body = message.to_string();
    let headers = [("content-type", "application/json")];
    let answer = http_ask(telegram.address(), "POST", &path, &headers, &body)
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (502, Some("text/html"))
    );
    assert_eq!(shown(&telegram), 0);
}

#[tokio::test]
async fn a_slow_call_is_performed_after_its_time() {
    let (telegram, message) = begin();
    let slow = Duration::from_millis(300);
    telegram.fault("sendMessage", 1, Fault::Slow(slow));
    let begun = now();
    done(&telegram, "sendMessage", message).await;
    assert!(begun.elapsed() >= slow);
}

#[tokio::test]
async fn a_held_call_waits_before_or_after_its_execution() {
    let (telegram, message) = begin();
    for (when, meanwhile) in [(When::Before, 0), (When::After, 2)] {
        let held = telegram.hold("sendMessage", when);
        let sends = done(&telegram, "sendMessage", message.clone());
        let releases = async {
            held.arrived().await;
            assert_eq!(shown(&telegram), meanwhile, "{when:?}");
            held.release();
        };
        tokio::join!(sends, releases);
    }
    assert_eq!(shown(&telegram), 2);
}

#[tokio::test]
async fn a_call_abandoned_while_held_is_not_executed() {
    let (telegram, message) = begin();
    let held = telegram.hold("sendMessage", When::Before);
    tokio::select! {
        _ = call(&telegram, "sendMessage", message) => unreachable!("it is held"),
        () = held.arrived() => {}
    }
    held.abandoned().await;
    held.release();
    done(&telegram, "getMe", json!({})).await;
    assert_eq!(shown(&telegram), 0);
}
