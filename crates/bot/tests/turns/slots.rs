//! Several keys for each user, and keys that stay alive for a grace.

use keyward_bot::i18n::Id;
use keyward_testkit::telegram::Screen;

use crate::process::{bot, start};
use crate::world::{World, en, key_in};

const SLOTS: &str = "default=Production;ru:Основной,test=Test network";

#[tokio::test(flavor = "multi_thread")]
async fn each_slot_has_its_screens_and_its_key() {
    let mut world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    // A question from before there were slots.
    let (before, production) = world.ask_to_revoke(&who).await;
    world.stop_bot().await;
    let (mut process, _) = start(bot(&world, &[("slots", SLOTS)]));

    let account = world.ask(&who, "/apikey").await;
    assert_eq!(
        account.labels(),
        ["🔑 Production", "🔑 Test network", "‹ Back"]
    );
    assert!(account.text.starts_with("User info\n\n"), "{account}");
    let of_test = world
        .press_labelled(&who, &account, "🔑 Test network")
        .await;
    assert!(of_test.text.starts_with("Test network\n\n"), "{of_test}");
    let test = key_in(&of_test);
    let mut live = vec![production.clone(), test.clone()];
    assert_eq!(world.keyward.live("tg-5"), live);

    let asked = world.press(&who, &of_test, Id::BUTTON_REVOKE).await;
    assert!(asked.text.starts_with("Test network\n\n"), "{asked}");
    let new = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    assert!(new.text.starts_with("Test network\n\n"), "{new}");
    live[1] = key_in(&new);
    assert_eq!(world.keyward.live("tg-5"), live);
    assert_ne!(live[1], test);

    // The old question is about the first slot, and only about that.
    let kept = world.press(&who, &before, Id::BUTTON_CANCEL).await;
    assert_eq!(key_in(&kept), production);
    assert!(kept.text.contains(&en(Id::NOTE_CANCELLED)), "{kept}");
    let russian = world.telegram.person(5, "ru");
    let account = world.ask(&russian, "/apikey").await;
    assert_eq!(account.labels()[..2], ["🔑 Основной", "🔑 Test network"]);

    // An unclear Revoke of one slot does not hold up the other one.
    let who = world.telegram.person(5, "en");
    let asked = world.press(&who, &kept, Id::BUTTON_REVOKE).await;
    world.keyward.keys.lock().is_unproven = true;
    let unclear = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    assert_eq!(unclear.labels(), ["🔄 Retry"]);
    let account = world.ask(&who, "/apikey").await;
    let other = world
        .press_labelled(&who, &account, "🔑 Test network")
        .await;
    assert_eq!(key_in(&other), live[1]);
    assert!(process.stop().success());
    // A slot that is no longer shown.
    world.start_bot(&[]).await;
    let hidden = who.message(other.id).unwrap();
    let gone = world.press(&who, &hidden, Id::BUTTON_SHOW_AGAIN).await;
    assert!(gone.text.contains(&en(Id::NOTE_OTHER_PLACE)), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grace_is_a_choice_and_the_screens_say_until_when_the_old_key_works() {
    let world = World::new().await;
    let (mut process, _) = start(bot(&world, &[("revoke_grace", "1h")]));
    let who = world.telegram.person(5, "en");
    let (shown, old) = world.open_key(&who).await;
    let (asked, _) = world.ask_to_revoke(&who).await;
    assert_eq!(
        asked.labels(),
        ["✅ Confirm", "✖️ Cancel", "⏳ Keep for 1 hour"]
    );
    assert!(
        asked.text.contains("keep the old key for 1 hour"),
        "{asked}"
    );
    world.keyward.keys.lock().is_unproven = true;
    let unclear = world
        .press_labelled(&who, &asked, "⏳ Keep for 1 hour")
        .await;
    world.keyward.keys.lock().is_unproven = false;
    // Also after a restart, the same Revoke is repeated with the same grace.
    assert!(process.stop().success());
    let (_process, _) = start(bot(&world, &[]));
    let new = world.press(&who, &unclear, Id::BUTTON_RETRY).await;
    let until = "The old key stops working on 2026-11-25 11:30:00 UTC. Until then it works";
    assert!(new.text.contains(until), "{new}");
    assert!(key_in(&new) != old && world.keyward.live("tg-5") == [key_in(&new)]);
    let keys = world.keyward.keys.lock().all.clone();
    assert_eq!(keys[0].0.revoke_time.unwrap().seconds, 1_795_602_600 + 3600);

    // The other message gets no claim that the key is dead.
    let dying = |screen: &Screen| screen.id == shown.id && screen.key().is_none();
    let dying = who.finds("the end of the old key", dying).await;
    assert!(!dying.text.contains("stopped"), "{dying}");
    // A bot without the setting offers no grace.
    let asked = world.press(&who, &new, Id::BUTTON_REVOKE).await;
    assert_eq!(asked.labels(), ["✅ Confirm", "✖️ Cancel"]);
    let immediate = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    assert!(
        immediate.text.contains("The old key stopped working on"),
        "{immediate}"
    );
}
