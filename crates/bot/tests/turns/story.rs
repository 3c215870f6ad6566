//! The whole flow in each language, and how messages change over time.

use keyward_bot::i18n::{Id, Language};
use keyward_testkit::telegram::{Fault, When};

use crate::world::{World, key_in, text};

#[tokio::test]
async fn the_whole_flow_in_each_language() {
    let world = World::start(&[]).await;
    for (id, code, language) in [
        (1, "en", Language::English),
        (2, "zh-hans", Language::Chinese),
        (3, "ru", Language::Russian),
    ] {
        let (who, name) = (world.telegram.person(id, code), |id| text(language, id));
        let press = async |screen, id| world.press_labelled(&who, screen, &name(id)).await;
        let menu = world.ask(&who, "/start").await;
        let account = press(&menu, Id::BUTTON_ACCOUNT).await;
        assert!(account.code.contains(&format!("tg-{id}")), "{account}");
        let shown = press(&account, Id::BUTTON_KEY).await;
        let old = key_in(&shown);
        assert!(shown.text.contains(&name(Id::KEY_WARNING)), "{shown}");
        assert!(shown.button(&name(Id::BUTTON_COPY)).is_some());
        assert_eq!(world.live(&who), old);

        let asked = press(&shown, Id::BUTTON_REVOKE).await;
        assert!(
            asked.text.contains(&old[..7]) && !asked.text.contains(&old),
            "{asked}"
        );
        let kept = press(&asked, Id::BUTTON_CANCEL).await;
        assert_eq!(key_in(&kept), old);
        assert!(kept.text.contains(&name(Id::NOTE_CANCELLED)), "{kept}");

        let asked = press(&kept, Id::BUTTON_REVOKE).await;
        let new = press(&asked, Id::BUTTON_CONFIRM).await;
        assert_ne!(key_in(&new), old);
        assert_eq!(world.live(&who), key_in(&new));
        assert!(
            new.text.contains("2026-11-25 10:3") && new.text.contains(" UTC"),
            "{new}"
        );
        assert_eq!(new.id, menu.id, "all in one message");

        let account = press(&new, Id::BUTTON_BACK).await;
        let menu = press(&account, Id::BUTTON_BACK).await;
        assert!(account.key().is_none() && menu.button(&name(Id::BUTTON_ACCOUNT)).is_some());
        let help = world.ask(&who, "/help").await;
        assert!(help.text.contains("/apikey"), "{help}");
        assert_eq!(world.ask(&who, "what is this?").await.text, help.text);
        who.send_sticker();
        who.send_photo();
        world.telegram.settled().await;
        assert_eq!(who.screen().map(|screen| screen.text), Some(help.text));
    }
    assert_eq!(world.keyward.count().0, 6);
    let commands = world.telegram.commands();
    let languages: Vec<_> = commands.keys().map(String::as_str).collect();
    assert_eq!(languages, ["", "ru", "zh"]);
    assert!(commands.values().all(|list| list.len() == 3));
}

#[tokio::test]
async fn a_key_is_hidden_after_hide_after_and_can_be_shown_again() {
    let world = World::start(&[("hide_after", "1s")]).await;
    let who = world.telegram.person(5, "en");
    let (shown, key) = world.open_key(&who).await;
    let hidden = who.sees("the hint", |screen| screen.key().is_none()).await;
    assert!(
        hidden.text.contains(&key[..7]) && !hidden.text.contains(&key),
        "{hidden}"
    );
    assert_eq!(hidden.id, shown.id);
    who.tap_on(&hidden, "👁 Show again");
    who.sees("the key", |screen| screen.key() == Some(&key))
        .await;
    who.sees("the hint again", |screen| screen.key().is_none())
        .await;
}

#[tokio::test]
async fn a_revoked_key_is_hidden_at_once_in_all_messages() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (first, old) = world.open_key(&who).await;
    let (asked, _) = world.ask_to_revoke(&who).await;
    world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    let dead = who.message(first.id).unwrap();
    assert!(
        !dead.text.contains(&old) && dead.text.contains("stopped working on 2026-11-25"),
        "{dead}"
    );
    // Its button opens the current key.
    let now = world.press(&who, &dead, Id::BUTTON_KEY).await;
    assert_eq!(key_in(&now), world.live(&who));
}

#[tokio::test]
async fn a_stop_hides_keys_and_confirms_handled_updates() {
    let mut world = World::start(&[("hide_after", "none")]).await;
    let who = world.telegram.person(5, "en");
    let held = world.telegram.hold("sendMessage", When::After);
    who.send("/apikey");
    held.arrived().await;
    // The update is in flight when the stop comes.
    let stopping = world.stop_bot();
    tokio::pin!(stopping);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut stopping).await;
    assert!(early.is_err(), "the stop waits for updates in flight");
    held.release();
    stopping.await;
    let hidden = who.screen().unwrap();
    let key = world.live(&who);
    assert!(
        hidden.key().is_none() && hidden.text.contains(&key[..7]),
        "{hidden}"
    );
    // Only the stop can have confirmed the update.
    world.telegram.settled().await;
}

#[tokio::test]
async fn the_bot_survives_deleted_messages_failed_calls_and_blocks() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (shown, _) = world.open_key(&who).await;
    // The message was deleted, so the answer is a new one.
    who.delete(shown.id);
    who.tap_on(&shown, "♻️ Revoke");
    world.telegram.settled().await;
    let asked = who.screen().unwrap();
    assert!(
        asked.id > shown.id && asked.button("✅ Confirm").is_some(),
        "{asked}"
    );

    for fault in [
        Fault::TooManyRequests(1),
        Fault::Drop(When::Before),
        Fault::Drop(When::After),
    ] {
        world
            .telegram
            .fault("answerCallbackQuery", 1, fault.clone());
        world.telegram.fault("editMessageText", 1, fault);
        let kept = world.press(&who, &asked, Id::BUTTON_CANCEL).await;
        key_in(&kept);
        world.press(&who, &kept, Id::BUTTON_REVOKE).await;
    }
    // Taps that are too old to be answered, on an unchanged screen.
    let menu = world.ask(&who, "/start").await;
    let account = world.press(&who, &menu, Id::BUTTON_ACCOUNT).await;
    who.tap_on(&menu, "👤 User Info");
    world.telegram.age_queries();
    world.telegram.settled().await;
    assert_eq!(who.message(menu.id), Some(account));

    // After a block, the bot serves other users.
    who.send("/start");
    who.block();
    world.telegram.settled().await;
    let other = world.telegram.person(6, "en");
    world.ask(&other, "/start").await;
    who.unblock();
    world.ask(&who, "/start").await;
}

#[tokio::test]
async fn a_telegram_that_fails_loses_no_update() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    // More than the short retries of other calls.
    for method in ["getUpdates", "sendMessage"] {
        world.telegram.fault(method, 5, Fault::bad_gateway());
    }
    let menu = world.ask(&who, "/start").await;
    world
        .telegram
        .fault("editMessageText", 1, Fault::bad_gateway());
    let account = world.press(&who, &menu, Id::BUTTON_ACCOUNT).await;
    assert!(account.text.contains("tg-5"), "{account}");
}

#[tokio::test]
async fn limits_show_when_there_is_more() {
    let world = World::start(&[("reveals_per_hour", "2"), ("revokes_per_hour", "1")]).await;
    let who = world.telegram.person(5, "en");
    world.open_key(&who).await;
    let (asked, _) = world.ask_to_revoke(&who).await;
    let limited = world.ask(&who, "/apikey").await;
    assert!(limited.text.contains("in 30 minutes"), "{limited}");
    assert_eq!(world.keyward.count().1, 2);

    let new = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    key_in(&new);
    let asked = world.press(&who, &new, Id::BUTTON_REVOKE).await;
    let limited = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    assert!(limited.text.contains("nothing was changed"), "{limited}");
    assert!(limited.text.contains("60 minutes"), "{limited}");
    assert_eq!(world.keyward.count().2, 1);
    world.open_key(&world.telegram.person(6, "en")).await;
}
