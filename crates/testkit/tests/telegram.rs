//! The fake Telegram behaves like the Bot API, and causes the requested faults.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use keyward_testkit::http_ask;
use keyward_testkit::telegram::{Screen, Telegram};
use serde_json::{Value, json};

#[path = "telegram/faults.rs"]
mod faults;
#[path = "telegram/messages.rs"]
mod messages;
#[path = "telegram/updates.rs"]
mod updates;

/// The status and the body of a response.
async fn call(telegram: &Telegram, method: &str, arguments: Value) -> (u16, Value) {
    let path = format!("/bot{}/{method}", telegram.token());
    let headers = [("content-type", "application/json")];
    let body = arguments.to_string();
    let answer = http_ask(telegram.address(), "POST", &path, &headers, &body).await;
    let answer = answer.unwrap();
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

/// The result of a successful call.
async fn done(telegram: &Telegram, method: &str, arguments: Value) -> Value {
    let (status, body) = call(telegram, method, arguments).await;
    assert_eq!(status, 200, "{method}: {body}");
    assert_eq!(body["ok"], true);
    body["result"].clone()
}

/// The error of a refused call.
async fn refused(telegram: &Telegram, method: &str, arguments: Value) -> (u16, String) {
    let (status, body) = call(telegram, method, arguments).await;
    assert_eq!(body["ok"], false, "{method}: {body}");
    assert_eq!(body["error_code"], status);
    (status, body["description"].as_str().unwrap().to_owned())
}

fn keyboard(label: &str, data: &str) -> Value {
    json!({ "inline_keyboard": [[{ "text": label, "callback_data": data }]] })
}

fn shows(text: &str) -> impl Fn(&Screen) -> bool {
    move |screen| screen.text == text
}

#[tokio::test]
async fn the_token_and_the_method_must_be_known() {
    let telegram = Telegram::start();
    let me = done(&telegram, "GetMe", json!({})).await;
    assert_eq!(
        (&me["is_bot"], &me["can_join_groups"]),
        (&json!(true), &json!(true))
    );
    let unknown = refused(&telegram, "getMoney", json!({})).await;
    assert_eq!(unknown, (404, "Not Found".to_owned()));
    let ask = http_ask(telegram.address(), "GET", "/bot7:wrong/getMe", &[], "").await;
    let answer = ask.unwrap();
    assert_eq!(answer.status, 401);
    assert!(answer.body.contains("\"Unauthorized\""), "{}", answer.body);
}

#[tokio::test]
async fn arguments_come_as_json_as_a_form_as_parts_or_in_the_query() {
    let telegram = Telegram::start();
    let anna = telegram.person(1001, "en");
    anna.send("/start");
    let path = format!("/bot{}/sendMessage", telegram.token());
    let markup = keyboard("Go", "x").to_string();
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let form = format!("chat_id=1001&text=form&reply_markup={}", encode(&markup));
    let part = |name: &str, value: &str| {
        format!("--B\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let parts = [
        part("chat_id", "1001"),
        part("text", "parts"),
        part("reply_markup", &markup),
    ];
    let parts = parts.concat() + "--B--\r\n";
    let query = format!(
        "{path}?chat_id=1001&text=query&reply_markup={}",
        encode(&markup)
    );
    for (text, path, kind, body) in [
        ("form", &path, "application/x-www-form-urlencoded", form),
        ("parts", &path, "multipart/form-data; boundary=B", parts),
        ("query", &query, "text/plain", String::new()),
    ] {
        let headers = [("content-type", kind)];
        let answer = http_ask(telegram.address(), "POST", path, &headers, &body).await;
        assert_eq!(answer.as_ref().unwrap().status, 200, "{text}: {answer:?}");
        let screen = anna.sees(text, shows(text)).await;
        assert_eq!(screen.labels(), ["Go"]);
    }
}

#[tokio::test]
async fn commands_are_kept_by_language() {
    let telegram = Telegram::start();
    let commands = json!([{ "command": "start", "description": "Begin" }]);
    done(&telegram, "setMyCommands", json!({ "commands": commands })).await;
    let russian = json!([{ "command": "start", "description": "Начать" }]);
    let arguments = json!({ "commands": russian, "language_code": "ru" });
    done(&telegram, "setMyCommands", arguments).await;
    let set = telegram.commands();
    assert_eq!(set[""], [("start".to_owned(), "Begin".to_owned())]);
    assert_eq!(set["ru"], [("start".to_owned(), "Начать".to_owned())]);
    let got = done(&telegram, "getMyCommands", json!({ "language_code": "ru" })).await;
    assert_eq!(got, russian);
    for wrong in [
        json!([{ "command": "Start", "description": "x" }]),
        json!([{ "command": "start", "description": "" }]),
    ] {
        assert_eq!(
            refused(&telegram, "setMyCommands", json!({ "commands": wrong }))
                .await
                .0,
            400
        );
    }
}
