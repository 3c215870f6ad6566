//! The status page in a real browser.

use std::fs;
use std::time::Duration;

use keyward_proto::v1;
use keyward_testkit::{
    Browser, Client, PATIENCE, Process, Reaction, Receiver, WEBHOOK_SECRET, now, wait_until,
};
use serde_json::{Value, json};

use crate::BINARY;

const ACCOUNT: &str = "account-canary";
const REASON: &str = "reason-canary";
const PICTURE: &str = "docs/guide/status.png";

/// Verifies a new key some times and revokes it. Returns its id, and what the page must not show.
async fn traffic(client: &mut Client) -> (String, String) {
    let (id, key) = client.issue(ACCOUNT, "").await.unwrap();
    for _ in 0..40 {
        client.verify(&key).await.unwrap();
    }
    client.verify("garbage").await.unwrap();
    let revoke = v1::RevokeRequest {
        key_id: id.clone(),
        reason: REASON.to_owned(),
        ..v1::RevokeRequest::default()
    };
    client.keys.revoke(revoke).await.unwrap();
    (id, key)
}

fn text(browser: &mut Browser, id: &str) -> String {
    let text = browser.evaluate(&format!("document.getElementById('{id}').textContent"));
    text.as_str().unwrap().to_owned()
}

fn page(browser: &mut Browser) -> String {
    browser.evaluate("document.body.innerText").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_renders_updates_and_shows_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let data = directory.path().join("data");
    let mut command = Process::command(BINARY, &data);
    command.env(
        "KEYWARD_WEBHOOKS",
        receiver.webhook("billing", directory.path()),
    );
    let process = Process::start(command, &data);
    let mut client = process.client().await;
    let mut browser = Browser::start();
    browser.look(1_000, 900, false);
    browser.open(&format!("http://{}/", process.http));
    let mut shown = (String::new(), String::new());
    let (mut is_drawn, begun) = (false, now());
    // A rate needs two refreshes with traffic between them, and a line four.
    while !is_drawn {
        assert!(begun.elapsed() < PATIENCE, "{}", page(&mut browser));
        shown = traffic(&mut client).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let points = "document.querySelector('#age-chart polyline')?.getAttribute('points') || ''";
        let points = browser.evaluate(points);
        is_drawn = points.as_str().unwrap().split_whitespace().count() >= 5
            && !text(&mut browser, "verify").starts_with('0')
            && text(&mut browser, "revoke").contains("ms")
            && text(&mut browser, "memory").ends_with(" %");
    }
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(PICTURE, browser.picture()).unwrap();
    }
    let (id, key) = shown;
    wait_until("the revocation is shown", PATIENCE, || {
        text(&mut browser, "revokes").contains(&id)
    });
    assert_eq!(
        text(&mut browser, "state"),
        "Fresh: this instance knows every change.",
        "{}",
        page(&mut browser)
    );
    assert!(text(&mut browser, "instances").contains("embedded (this one)"));
    assert_eq!(text(&mut browser, "near"), "0");
    let shown = text(&mut browser, "webhooks");
    assert!(
        shown.contains("billing") && shown.ends_with("nothing"),
        "{shown}"
    );

    receiver.react(Reaction::Status(410));
    traffic(&mut client).await;
    wait_until(
        "the page says what to do about the receiver",
        PATIENCE,
        || {
            let shown = text(&mut browser, "webhooks");
            shown.ends_with(
                "its receiver answered 410: repair it, then run keyward webhook replay billing",
            )
        },
    );

    let html = browser.evaluate("document.documentElement.outerHTML");
    let status = browser.evaluate("fetch('/status.json').then(answer => answer.text())");
    for shown in [html, status] {
        let shown = shown.as_str().unwrap();
        for secret in [
            &key[3..],
            &process.token()[4..],
            ACCOUNT,
            REASON,
            WEBHOOK_SECRET,
            &receiver.url(),
        ] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }

    let background = "getComputedStyle(document.body).backgroundColor";
    let light = browser.evaluate(background);
    for is_dark in [false, true] {
        browser.look(400, 800, is_dark);
        let width = browser.evaluate("document.documentElement.scrollWidth");
        assert!(width.as_u64() <= Some(400), "it fits a phone: {width}");
        assert_eq!(browser.evaluate(background) != light, is_dark);
    }
    assert_eq!(browser.take_errors(), Vec::<String>::new());

    // Nothing that somebody injects runs or reaches another place.
    let injected = "const made = document.createElement('script'); made.textContent = 'window.owned = 1'; \
                    document.body.append(made); window.owned";
    assert_eq!(browser.evaluate(injected), Value::Null);
    let elsewhere = "fetch('http://localhost:9/').then(() => 'sent', error => error.name)";
    assert_eq!(browser.evaluate(elsewhere), json!("TypeError"));
    let refusals = browser.take_errors();
    for what in ["inline script", "Connecting to 'http://localhost:9/'"] {
        let refused = refusals.iter().any(|error| error.contains(what));
        assert!(refused, "{what}: {refusals:?}");
    }

    drop(process);
    wait_until("the page says that the instance is gone", PATIENCE, || {
        text(&mut browser, "state").starts_with("This instance does not answer")
    });
}
