//! A panic during an event, with a fake Telegram.

use keyward_testkit::telegram::Telegram;

use super::*;
use crate::app;
use crate::i18n::{Language, Texts};
use crate::settings::{self, Inputs};

/// A handler with this Telegram, and a Keyward that does not answer.
fn handler(telegram: &Telegram) -> Handler {
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(files.path().join(name), text).unwrap();
        files.path().join(name).display().to_string()
    };
    let flags = [
        ("telegram_token_file", file("telegram", telegram.token())),
        ("telegram_api_url", telegram.url()),
        ("token_file", file("token", "kwt_canary")),
        ("endpoint", "http://127.0.0.1:1".to_owned()),
    ];
    let flags = flags.map(|(name, value)| (name.to_owned(), value));
    let inputs = Inputs {
        flags: flags.into(),
        ..Inputs::default()
    };
    let settings = settings::load(inputs).unwrap();
    let mut handlers = app::build(&settings, &Arc::default()).unwrap();
    handlers.pop().unwrap()
}

#[tokio::test]
async fn a_panic_ends_one_event_and_its_user_gets_a_message() {
    let telegram = Telegram::start();
    let who = telegram.person(5, "en");
    who.send("/start");
    let handler = handler(&telegram);
    let person = Person {
        id: 5,
        language: Language::English,
    };
    let event = |command| Event {
        person,
        request: Request::Command(command),
    };
    let handle = |command| handler.handle(event(command));

    handle(Command::Start).await;
    let menu = who.screen().unwrap();
    let turn = async { panic!("on purpose") };
    handler.guard("tap", person, turn).await;
    let failed = who.screen().unwrap();
    let texts = Texts::default();
    assert_eq!(failed.text, texts.plain(person.language, Id::FAILED_TEXT));
    assert_eq!(who.message(menu.id), Some(menu), "the menu stays unchanged");
    handle(Command::Help).await;
    assert!(who.screen().unwrap().text.contains("/apikey"));

    let metrics = handler.metrics.encode();
    for (kind, outcome) in [("tap", "panicked"), ("start", "ok"), ("help", "ok")] {
        let line = format!("keyward_bot_updates_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}
