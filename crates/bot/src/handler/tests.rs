//! A turn that panics, with a Telegram that is played.

use keyward_testkit::telegram::Telegram;

use super::*;
use crate::app;
use crate::i18n::Language;
use crate::settings::{self, Inputs};

/// A handler that speaks to this Telegram, and to a Keyward that is not there.
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
    app::handler(&settings::load(inputs).unwrap()).unwrap()
}

#[tokio::test]
async fn a_panic_ends_one_turn_and_its_user_is_told() {
    let telegram = Telegram::start();
    let who = telegram.person(5, "en");
    who.send("/start");
    let handler = handler(&telegram);
    let person = Person {
        id: 5,
        language: Language::English,
    };
    let begin = |said| handler.handle(Event::Command(person, said));

    begin(Command::Start).await;
    let menu = who.screen().unwrap();
    let turn = async { panic!("on purpose") };
    handler.guard("tap", Some(person), turn).await;
    let failed = who.screen().unwrap();
    let texts = handler.board.screens.texts();
    assert_eq!(failed.text, texts.plain(person.language, Id::FAILED_TEXT));
    assert_eq!(who.message(menu.id), Some(menu), "it stays as it was");
    begin(Command::Help).await;
    assert!(who.screen().unwrap().text.contains("/apikey"));

    let metrics = handler.metrics.encode();
    for (kind, outcome) in [("tap", "panicked"), ("start", "ok"), ("help", "ok")] {
        let line = format!("keyward_bot_updates_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
}
