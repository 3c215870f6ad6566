//! The whole story: a person gets a key from the bot, uses it with an API, and replaces it. Keyward,
//! the bot and the API are separate processes; only Telegram is a fake.
//!
//! At the end of every test the account is whole: one key lives, it is on the person's screen, and
//! the API accepts only this key. `KEYWARD_SOAK_ROUNDS` sets the rounds of each race, by default 10.

mod actor;
mod hostile;
mod network;
mod outages;
mod races;
mod two_instances;
mod whole;
mod words;

use std::time::Duration;

use keyward_testkit::Stage;

pub(crate) use actor::Actor;
use whole::{assert_whole, refused};
use words::LANGUAGES;

/// The rounds of each race.
fn rounds() -> i64 {
    crate::rounds(10)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_flow_in_each_language() {
    let stage = Stage::start(&[]);
    for (number, (file, tag)) in (1001..).zip(LANGUAGES) {
        let actor = Actor::new(&stage, number, file, tag);
        flow(&stage, &actor).await;
    }
    let commands = stage.telegram.commands();
    for (language, file) in [("", "en"), ("zh", "zh"), ("ru", "ru")] {
        let words = words::Words::of(file);
        let expected = ["start", "apikey", "help"]
            .map(|name| (name.to_owned(), words.text(&format!("command-{name}"))));
        assert_eq!(commands[language], expected, "{language}");
    }
}

async fn flow(stage: &Stage, actor: &Actor) {
    let menu = actor.start().await;
    assert!(actor.words.says(&menu, "menu-text"), "{menu}");
    actor.tap("button-account");
    let account = actor.sees("account-text").await;
    assert!(
        account.text.contains(&stage.account(&actor.person)),
        "{account}"
    );
    actor.tap("button-key");
    let screen = actor.sees_key().await;
    let old = screen.key().unwrap().to_owned();
    for part in ["key-title", "key-warning"] {
        assert!(actor.words.says(&screen, part), "{part}: {screen}");
    }
    assert_eq!(stage.request(&old).await.status, 200);

    actor.tap("button-revoke");
    let ask = actor.sees("ask-text").await;
    assert_eq!(ask.key(), None);
    actor.tap("button-cancel");
    let kept = actor.sees("note-cancelled").await;
    assert_eq!(kept.key(), Some(old.as_str()));
    assert_eq!(stage.request(&old).await.status, 200);
    assert_whole(stage, actor, &old, &[]).await;

    actor.tap("button-revoke");
    let ask = actor.sees("ask-text").await;
    actor.tap("button-confirm");
    let screen = actor.sees_other_key(&old).await;
    // The next request already gets the refusal.
    refused(stage, &old).await;
    let new = screen.key().unwrap().to_owned();
    assert_eq!(stage.request(&new).await.status, 200);
    assert!(actor.words.says(&screen, "note-replaced"), "{screen}");
    assert_eq!(screen.id, ask.id, "the screen is edited in its place");
    assert_whole(stage, actor, &new, &[&old]).await;

    // The old question again, from an app that has not seen the edit.
    actor
        .person
        .tap_on(&ask, actor.words.label("button-confirm"));
    stage.telegram.settled().await;
    assert_whole(stage, actor, &new, &[&old]).await;
    actor.person.send("/apikey");
    stage.telegram.settled().await;
    assert_eq!(actor.sees_key().await.key(), Some(new.as_str()));
    for other in [
        actor.person.send("/help"),
        actor.person.send_photo(),
        actor.person.send_sticker(),
    ] {
        assert!(other > 0);
    }
    stage.telegram.settled().await;
    assert!(
        actor
            .words
            .says(&actor.person.screen().unwrap(), "help-text")
    );
    assert_whole(stage, actor, &new, &[&old]).await;
}

const HIDE_AFTER: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_hidden_after_hide_after_and_can_be_shown_again() {
    let stage = Stage::start(&[("KEYWARD_BOT_HIDE_AFTER", "2s")]);
    let stage = &stage;
    let actors = (1001..).zip(LANGUAGES);
    let hides = actors.map(|(number, (file, tag))| async move {
        hides(stage, &Actor::new(stage, number, file, tag)).await;
    });
    futures_util::future::join_all(hides).await;
}

async fn hides(stage: &Stage, actor: &Actor) {
    let menu = actor.start().await;
    actor.tap("button-account");
    actor.sees("account-text").await;
    // The key may be hidden before this test sees it, so the fake keeps all states.
    let keys = || {
        let states = stage.telegram.shown().into_iter();
        let states = states.filter(|state| state.chat == actor.person.chat());
        states.filter_map(|state| state.key().map(str::to_owned))
    };
    for (times, button) in (1..).zip(["button-key", "button-show-again"]) {
        actor.tap(button);
        let waited = format!("the key, and then that it is hidden, for {button}");
        let is_over =
            |screen: &_| keys().count() == times && actor.words.says(screen, "key-hidden");
        let hidden = actor.person.sees(&waited, is_over).await;
        assert_eq!((hidden.id, hidden.key()), (menu.id, None));
    }
    let mut edits = stage.telegram.calls_of("editMessageText");
    edits.retain(|call| call.arguments["chat_id"] == actor.person.chat());
    // The account, the key, the hint, the key, the hint.
    assert_eq!(edits.len(), 5);
    for at in [1, 3] {
        let time = edits[at + 1].at - edits[at].at;
        assert!(time >= HIDE_AFTER, "hidden after {time:?}");
    }
    let shown: Vec<_> = keys().collect();
    assert_eq!(shown[0], shown[1]);
    assert_eq!(stage.request(&shown[0]).await.status, 200);
    let keys = stage.client().await.list(&actor.account()).await.unwrap();
    assert_eq!(keys.len(), 1);
}
