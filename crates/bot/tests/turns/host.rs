//! The real binary with a host product that says which account a user has: its answers, and what the
//! bot does when they are missing, wrong, or about somebody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Response};
use keyward_bot::i18n::Id;
use keyward_testkit::telegram::{Person, Screen};
use keyward_testkit::{PATIENCE, Program, eventually, http_get};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::process::{self, bot};
use crate::world::{World, en, key_in};

const TOKEN: &str = "canary-of-the-host";
const LINK: &str = "https://host.example/register";

/// What the host answers.
#[derive(Clone)]
enum Answer {
    Body(u16, String),
    /// A body of this many bytes, or one that does not end.
    Long(Option<usize>),
    /// No body arrives.
    Silence,
    Redirect,
}

pub(crate) struct Host {
    pub(crate) url: String,
    state: Arc<Mutex<(Answer, Vec<String>)>>,
}

type Shared = Arc<Mutex<(Answer, Vec<String>)>>;

async fn answer(
    State(state): State<Shared>,
    query: RawQuery,
    headers: HeaderMap,
) -> Response<Body> {
    let sent = headers
        .get("authorization")
        .map(|sent| sent.to_str().unwrap());
    assert_eq!(sent, Some("Bearer canary-of-the-host"));
    let answer = {
        let mut state = state.lock();
        state.1.push(query.0.unwrap());
        state.0.clone()
    };
    let response = Response::builder();
    let chunk = || Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 4096]));
    match answer {
        Answer::Body(status, text) => response.status(status).body(text.into()),
        Answer::Long(Some(bytes)) => response.body(vec![b' '; bytes].into()),
        Answer::Long(None) => {
            let endless = futures_util::stream::repeat_with(chunk);
            response.body(Body::from_stream(endless))
        }
        Answer::Silence => {
            let silence = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
            response.body(Body::from_stream(silence))
        }
        Answer::Redirect => {
            let elsewhere = response.status(302).header("location", "/elsewhere");
            elsewhere.body(Body::empty())
        }
    }
    .unwrap()
}

impl Host {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(Mutex::new((Answer::Silence, Vec::new())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/account?v=1", listener.local_addr().unwrap());
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    fn says(&self, answer: Answer) {
        self.state.lock().0 = answer;
    }

    /// Everybody has the account of user 5.
    pub(crate) fn knows(&self, account: &str) {
        self.says(Answer::Body(200, of(account).to_string()));
    }

    fn questions(&self) -> usize {
        self.state.lock().1.len()
    }
}

/// A right answer for user 5.
fn of(account: &str) -> Value {
    json!({
        "telegram_user_id": 5, "account_id": account, "unknown": {"to": "the bot"},
        "lines": [
            {"label": "Balance <TRX>", "value": "9,996.10"},
            {"label": "Deposit", "value": "T&<b>x</b>", "copyable": true},
        ],
        "links": [{"text": "Website", "url": "https://host.example/?a=1&b=2"}],
    })
}

/// The settings of a bot with this host.
pub(crate) fn flags(world: &World, host: &Host) -> [(&'static str, String); 2] {
    let file = world.files.path().join("host");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    [
        ("account_url", host.url.clone()),
        ("account_token_file", file.display().to_string()),
    ]
}

async fn start(other: &[(&str, &str)]) -> (World, Host, Program, SocketAddr) {
    let (world, host) = (World::new().await, Host::start().await);
    let own = flags(&world, &host);
    let mut all: Vec<_> = own
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    all.extend(other);
    let (bot, address) = process::start(bot(&world, &all));
    (world, host, bot, address)
}

fn assert_unknown(screen: &Screen) {
    assert_eq!(screen.text, en(Id::ACCOUNT_UNKNOWN));
    assert_eq!((screen.key(), screen.labels()), (None, vec!["🔄 Retry"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_names_the_account_and_its_lines_and_links_are_shown() {
    let (world, host, _bot, _) = start(&[("account_prefix", "shop-")]).await;
    let who = world.telegram.person(5, "zh-hans");
    host.knows("0190-a");
    let key = key_in(&world.ask(&who, "/apikey").await);
    assert_eq!(world.keyward.live("shop-0190-a"), [key]);
    let question = host.state.lock().1[0].clone();
    assert_eq!(question, "v=1&telegram_user_id=5&language=zh");
    let who = world.telegram.person(5, "en");
    let menu = world.ask(&who, "/start").await;
    let account = world.press(&who, &menu, Id::BUTTON_ACCOUNT).await;
    assert!(
        account
            .text
            .contains("\n\nBalance <TRX>: 9,996.10\nDeposit: T&<b>x</b>"),
        "{account}"
    );
    assert_eq!(account.code, ["shop-0190-a", "5", "T&<b>x</b>"]);
    assert_eq!(account.labels(), ["🔑 API key", "Website", "‹ Back"]);
    let url = account.button("Website").unwrap().url.clone();
    assert_eq!(url.unwrap(), "https://host.example/?a=1&b=2");
    // Nothing is cached.
    assert_eq!(host.questions(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_an_account_gets_the_hosts_link() {
    let (world, host, _bot, _) = start(&[]).await;
    let who = world.telegram.person(5, "en");
    let links = json!({"links": [{"text": "Register", "url": LINK}], "reason": "x"});
    host.says(Answer::Body(404, links.to_string()));
    let screen = world.ask(&who, "/apikey").await;
    assert!(screen.text.contains("No account yet"), "{screen}");
    assert_eq!(
        screen.button("Register").unwrap().url.as_deref(),
        Some(LINK)
    );
    // The same screen continues where the user was.
    host.knows("a");
    let shown = world.press(&who, &screen, Id::BUTTON_RETRY).await;
    assert_eq!(world.keyward.live("a"), [key_in(&shown)]);
    assert_eq!(world.keyward.count().1, 1);
}

/// Every answer that names no account, and a part of the log line about it.
fn bad_answers() -> Vec<(Answer, &'static str)> {
    let body = |status: u16, text: &str| Answer::Body(status, text.to_owned());
    let with = |name: &str, value: Value| {
        let mut answer = of("a");
        answer[name] = value;
        Answer::Body(200, answer.to_string())
    };
    let without = |name: &str| {
        let mut answer = of("a");
        answer.as_object_mut().unwrap().remove(name);
        Answer::Body(200, answer.to_string())
    };
    let line = |label: &str, value: &str| json!([{"label": label, "value": value}]);
    let link = |text: &str, url: &str| with("links", json!([{"text": text, "url": url}]));
    let (long, no_json) = ("x".repeat(300), "breaks the contract");
    vec![
        (Answer::Long(Some((64 << 10) + 1)), "longer than 64 KiB"),
        (Answer::Long(None), "longer than 64 KiB"),
        (Answer::Silence, "no answer within 3s"),
        (Answer::Redirect, "status 302"),
        (body(401, ""), "status 401"),
        (body(429, ""), "status 429"),
        (body(503, ""), "status 503"),
        (body(404, "<html>"), no_json),
        (body(404, r#"{"links": 5}"#), no_json),
        (body(200, ""), no_json),
        (body(200, "[]"), no_json),
        (without("telegram_user_id"), no_json),
        (without("account_id"), no_json),
        (with("telegram_user_id", json!("5")), no_json),
        (with("account_id", json!(7)), no_json),
        (with("lines", json!({"a": "b"})), no_json),
        (with("links", Value::Null), no_json),
        (
            with("telegram_user_id", json!(6)),
            "not the one in the question",
        ),
        (with("account_id", json!("")), "no account id"),
        (with("account_id", json!(" a")), "no account id"),
        (with("account_id", json!("canary\u{e4}")), "no account id"),
        (with("account_id", json!("x".repeat(129))), "no account id"),
        (with("lines", line("a", &long)), "lines are"),
        (with("lines", line(&long, "a")), "lines are"),
        (with("lines", line("a\n", "b")), "lines are"),
        (with("lines", line("a", "\u{202e}canary")), "lines are"),
        (with("lines", line("a", "\u{61c}canary")), "lines are"),
        (with("lines", line("", "b")), "lines are"),
        (
            with(
                "lines",
                json!(vec![json!({"label": "a", "value": "b"}); 11]),
            ),
            "lines are",
        ),
        (link("a", "http://host.example/"), "links are"),
        (link("a", "https://canary@host.example/"), "links are"),
        (link("a", "https://localhost/"), "links are"),
        (link("a", "https://shop./"), "links are"),
        (link("a", "https://a..b/"), "links are"),
        (link("a", "javascript:alert(1)"), "links are"),
        (link("\u{7}", LINK), "links are"),
        (link("a", &format!("{LINK}{long}{long}")), "links are"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_the_contract_shows_no_key_and_is_logged_without_personal_data() {
    let (world, host, bot, address) = start(&[("updates_per_minute", "10000")]).await;
    let who = world.telegram.person(5, "en");
    host.knows("canary-account");
    let (_, key) = world.open_key(&who).await;
    let before = world.keyward.count();
    for (answer, reason) in bad_answers() {
        host.says(answer);
        let seen = bot.output().len();
        assert_unknown(&world.ask(&who, "/apikey").await);
        let is_logged = async || bot.output()[seen..].contains(reason);
        eventually(reason, PATIENCE, is_logged).await;
    }
    // A Retry on the last screen works as soon as the host answers.
    host.knows("canary-account");
    let screen = who.screen().unwrap();
    let again = world.press(&who, &screen, Id::BUTTON_RETRY).await;
    assert_eq!(key_in(&again), key);
    assert_eq!(world.keyward.count().0, before.0);
    let metrics = http_get(address, "/metrics").await;
    let log = bot.output();
    for secret in ["canary", "host.example", "telegram_user_id=", &key] {
        assert!(!log.contains(secret), "{secret}:\n{log}");
    }
    for outcome in ["ok", "away", "wrong"] {
        let line = format!("keyward_bot_account_lookups_total{{outcome=\"{outcome}\"}}");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_telegram_refuses_does_not_leave_the_key_on_the_screen() {
    let (world, host, bot, _) = start(&[]).await;
    let who = world.telegram.person(5, "en");
    host.knows("a");
    let (shown, key) = world.open_key(&who).await;
    let mut answer = of("a");
    answer["links"][0]["url"] = json!("https://host.invalid/");
    host.says(Answer::Body(200, answer.to_string()));
    who.tap_on(&shown, "‹ Back");
    let is_hidden = |screen: &Screen| screen.id == shown.id && screen.key().is_none();
    let hidden = who.finds("the hint", is_hidden).await;
    assert!(hidden.text.contains(&key[..7]), "{hidden}");
    let reason = "a message still shows a key";
    eventually(reason, PATIENCE, async || bot.output().contains(reason)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_down_is_asked_once_more_and_revokes_nothing() {
    let (mut world, host, mut bot, _) = start(&[]).await;
    let who = world.telegram.person(5, "en");
    host.knows("a");
    let (asked, old) = world.ask_to_revoke(&who).await;
    let (shown, _) = world.open_key(&who).await;
    let before = host.questions();
    host.says(Answer::Body(500, String::new()));
    // The message no longer shows a key that may not be the user's.
    let gone = world.press(&who, &shown, Id::BUTTON_REVOKE).await;
    assert_unknown(&gone);
    assert_eq!(host.questions(), before + 2);
    let unsure = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    assert_unknown(&unsure);
    assert_eq!(
        (world.keyward.count().2, world.keyward.live("a")),
        (0, vec![old.clone()])
    );
    // Both continue when the host is back: also after a restart, since the button says how.
    assert!(bot.stop().success());
    let own = flags(&world, &host);
    let own = own.each_ref().map(|(name, value)| (*name, value.as_str()));
    world.start_bot(&own).await;
    host.knows("a");
    let asked = world.press(&who, &gone, Id::BUTTON_RETRY).await;
    assert!(asked.button("✅ Confirm").is_some(), "{asked}");
    let new = world.press(&who, &unsure, Id::BUTTON_RETRY).await;
    assert_eq!(world.keyward.live("a"), [key_in(&new)]);
    assert_ne!(key_in(&new), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_to_which_nothing_connects_is_named_in_the_log() {
    let away = [("account_url", "http://127.0.0.1:1/")];
    let (world, _, bot, _) = start(&away).await;
    assert_unknown(&world.ask(&world.telegram.person(5, "en"), "/start").await);
    eventually("the log names the host", PATIENCE, async || {
        let log = bot.output();
        log.contains("bot{id=\"7000000001\"}: keyward_bot::host: ")
            && log.contains("Connection refused")
    })
    .await;
    assert_eq!(world.keyward.count(), (0, 0, 0));
}

/// The screen after a tap on a button of another account: no key, and no call that changes one.
async fn refused(world: &World, who: &Person, screen: &Screen, button: &str) -> Screen {
    let before = world.keyward.count();
    let now = world.press_labelled(who, screen, button).await;
    assert!(now.text.contains(&en(Id::NOTE_OTHER_PLACE)), "{now}");
    assert_eq!((now.key(), world.keyward.count()), (None, before));
    now
}

#[tokio::test(flavor = "multi_thread")]
async fn a_button_does_nothing_after_the_account_has_changed() {
    let (world, host, _bot, _) = start(&[]).await;
    let who = world.telegram.person(5, "en");
    host.knows("a");
    let (asked, old) = world.ask_to_revoke(&who).await;
    let (cancelled, _) = world.ask_to_revoke(&who).await;
    let (shown, _) = world.open_key(&who).await;
    let (unclear, _) = world.ask_to_revoke(&who).await;
    host.knows("b");
    let now = refused(&world, &who, &asked, "✅ Confirm").await;
    assert!(now.code.contains(&"b".to_owned()), "{now}");
    refused(&world, &who, &cancelled, "✖️ Cancel").await;
    refused(&world, &who, &shown, "♻️ Revoke").await;
    assert_eq!(world.keyward.live("a"), [old]);
    // Back in the account, the question still works; its unclear Revoke stays with the account.
    host.knows("a");
    world.keyward.keys.lock().is_unproven = true;
    let unclear = world.press(&who, &unclear, Id::BUTTON_CONFIRM).await;
    assert_eq!(unclear.labels(), ["🔄 Retry"]);
    host.knows("b");
    let other = world.ask(&who, "/apikey").await;
    assert_eq!(world.keyward.live("b"), [key_in(&other)]);
    refused(&world, &who, &unclear, "🔄 Retry").await;
    host.knows("a");
    world.keyward.keys.lock().is_unproven = false;
    let done = world.press(&who, &unclear, Id::BUTTON_RETRY).await;
    assert_eq!(world.keyward.live("a"), [key_in(&done)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_delay_no_other_user_and_a_double_tap_revokes_once() {
    let (world, host, _bot, _) = start(&[]).await;
    let [who, other] = [5, 6].map(|id| world.telegram.person(id, "en"));
    host.knows("a");
    let (asked, old) = world.ask_to_revoke(&who).await;
    host.says(Answer::Silence);
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        who.tap_on(&asked, "✅ Confirm");
    }
    other.send("/help");
    other
        .sees("help", |screen| screen.text.contains("/apikey"))
        .await;
    world.telegram.settled().await;
    assert!(
        start.elapsed() >= Duration::from_secs(3),
        "each question has its time"
    );
    let unsure = who.message(asked.id).unwrap();
    assert_unknown(&unsure);
    host.knows("a");
    for _ in 0..3 {
        who.tap_on(&unsure, "🔄 Retry");
    }
    world.telegram.settled().await;
    let new = key_in(&who.message(asked.id).unwrap());
    assert_eq!(
        (world.keyward.live("a"), world.keyward.count().0),
        (vec![new.clone()], 2)
    );
    assert_ne!(new, old);
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_from_before_the_host_are_refused_and_two_users_of_an_account_see_one_key() {
    let mut world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (asked, old) = world.ask_to_revoke(&who).await;
    world.stop_bot().await;
    let host = Host::start().await;
    let own = flags(&world, &host);
    let own = own.each_ref().map(|(name, value)| (*name, value.as_str()));
    world.start_bot(&own).await;
    host.knows("team");
    refused(&world, &who, &asked, "✅ Confirm").await;
    assert_eq!(world.keyward.live("tg-5"), [old]);

    let (first, key) = world.open_key(&who).await;
    let other = world.telegram.person(6, "en");
    let mut of_other = of("team");
    of_other["telegram_user_id"] = json!(6);
    host.says(Answer::Body(200, of_other.to_string()));
    let (asked, same) = world.ask_to_revoke(&other).await;
    assert_eq!(same, key);
    let new = world.press(&other, &asked, Id::BUTTON_CONFIRM).await;
    assert_ne!(key_in(&new), key);
    // The message of the first user does not keep showing the dead key.
    let hidden = |screen: &Screen| screen.id == first.id && screen.key().is_none();
    let hidden = who.sees("that the key is dead", hidden).await;
    assert!(hidden.text.contains("stopped working on"), "{hidden}");
}
