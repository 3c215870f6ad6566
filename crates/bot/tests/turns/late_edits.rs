//! Edits that fail at first, and outdated screens: no message keeps showing a dead key, every outcome
//! of a Revoke arrives, and no message is wrong.

use std::time::Duration;

use keyward_bot::i18n::Id;
use keyward_testkit::telegram::{Fault, Screen, When};

use crate::world::{World, en, key_in};

/// The next edit fails, with all its immediate retries.
fn fail_an_edit(world: &World, when: When) {
    world
        .telegram
        .fault("editMessageText", 3, Fault::Drop(when));
}

#[tokio::test]
async fn a_message_whose_edit_failed_still_counts_as_showing_its_key() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (first, old) = world.open_key(&who).await;
    let (asked, _) = world.ask_to_revoke(&who).await;
    fail_an_edit(&world, When::Before);
    who.tap_on(&first, "‹ Back");
    world.telegram.settled().await;
    assert_eq!(who.message(first.id).unwrap().key(), Some(&*old));
    who.tap_on(&asked, "✅ Confirm");
    world.telegram.settled().await;
    let dead = who.message(first.id).unwrap();
    assert!(
        dead.key().is_none() && dead.text.contains("stopped working on"),
        "{dead}"
    );
}

#[tokio::test]
async fn the_outcome_of_a_revoke_arrives_after_telegram_recovers() {
    for when in [When::Before, When::After] {
        let world = World::start(&[]).await;
        let who = world.telegram.person(5, "en");
        let (asked, old) = world.ask_to_revoke(&who).await;
        fail_an_edit(&world, when);
        let arrived =
            |screen: &Screen| screen.key().is_none() && screen.text.contains("stopped working on");
        who.tap_on(&asked, "✅ Confirm");
        // A late edit contains no key, which may be dead by then.
        let late = who.sees("the outcome", arrived).await;
        assert!(late.text.contains(&world.live(&who)[..7]), "{late}");
        let shown = world.press(&who, &late, Id::BUTTON_SHOW_AGAIN).await;
        assert!(key_in(&shown) == world.live(&who) && key_in(&shown) != old);
        assert_eq!(world.keyward.count().2, 1);
    }
}

#[tokio::test]
async fn a_new_message_whose_id_is_lost_shows_no_key() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    world
        .telegram
        .fault("sendMessage", 1, Fault::Drop(When::After));
    let (_, key) = world.open_key(&who).await;
    let [lost, _] = &who.screens()[..] else {
        panic!("it is sent again:\n{}", world.telegram.story());
    };
    assert!(
        lost.key().is_none() && lost.text.contains(&key[..7]),
        "{lost}"
    );
    let shown = world.press(&who, lost, Id::BUTTON_SHOW_AGAIN).await;
    assert_eq!(key_in(&shown), key);
}

#[tokio::test]
async fn cancel_after_confirm_does_not_claim_that_nothing_was_changed() {
    let mut world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    for restarts in [false, true] {
        let (asked, old) = world.ask_to_revoke(&who).await;
        let (other, _) = world.ask_to_revoke(&who).await;
        who.tap_on(&asked, "✅ Confirm");
        world.telegram.settled().await;
        if restarts {
            world.kill_bot().await;
            world.start_bot(&[]).await;
        }
        who.tap_on(&asked, "✖️ Cancel");
        who.tap_on(&other, "✖️ Cancel");
        world.telegram.settled().await;
        for id in [asked.id, other.id] {
            let now = who.message(id).unwrap();
            assert!(!now.text.contains(&en(Id::NOTE_CANCELLED)), "{now}");
            assert!(now.text.contains(&en(Id::NOTE_CHANGED)), "{now}");
            assert!(key_in(&now) == world.live(&who) && key_in(&now) != old);
        }
    }
}

#[tokio::test]
async fn revoke_on_an_outdated_screen_shows_the_current_key() {
    let mut world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (old, _) = world.open_key(&who).await;
    // The bot does not remember the screen, so it gets the key from Keyward.
    world.kill_bot().await;
    world.start_bot(&[]).await;
    let asked = world.press(&who, &old, Id::BUTTON_REVOKE).await;
    assert!(asked.button("✅ Confirm").is_some(), "{asked}");
    let (again, _) = world.ask_to_revoke(&who).await;
    who.tap_on(&again, "✅ Confirm");
    world.telegram.settled().await;
    world.kill_bot().await;
    world.start_bot(&[]).await;
    // A tap on the outdated screen.
    who.tap_on(&old, "♻️ Revoke");
    world.telegram.settled().await;
    let now = who.message(old.id).unwrap();
    assert!(now.text.contains(&en(Id::NOTE_CHANGED)), "{now}");
    assert_eq!(key_in(&now), world.live(&who));
    world.keyward.keys.lock().is_down = true;
    who.tap_on(&old, "♻️ Revoke");
    world.telegram.settled().await;
    let now = who.message(old.id).unwrap();
    assert!(
        now.button("🔄 Retry").is_some() && now.key().is_none(),
        "{now}"
    );
}

#[tokio::test]
async fn a_second_tap_beyond_the_limit_keeps_the_new_key_on_the_screen() {
    let world = World::start(&[("reveals_per_hour", "1")]).await;
    let who = world.telegram.person(5, "en");
    let (asked, old) = world.ask_to_revoke(&who).await;
    for _ in 0..3 {
        who.tap_on(&asked, "✅ Confirm");
    }
    world.telegram.settled().await;
    let now = who.message(asked.id).unwrap();
    assert!(key_in(&now) == world.live(&who) && key_in(&now) != old);
    assert!(now.text.contains("stopped working on"), "{now}");
}

#[tokio::test]
async fn a_revoke_that_ends_during_the_stop_shows_no_key_that_nothing_would_hide() {
    let mut world = World::start(&[]).await;
    let [who, other] = [5, 6].map(|id| world.telegram.person(id, "en"));
    let (asked, old) = world.ask_to_revoke(&who).await;
    world.open_key(&other).await;
    // The updates in flight have 10 seconds. Then the bot hides the other key, which takes longer than
    // the Revoke.
    world.keyward.keys.lock().delay = Duration::from_secs(13);
    who.tap_on(&asked, "✅ Confirm");
    who.sees("the announcement", |screen| {
        screen.text.contains("Revoking")
    })
    .await;
    let slow = Fault::Slow(Duration::from_secs(8));
    world.telegram.fault("editMessageText", 1, slow);
    world.stop_bot().await;
    let new = world.live(&who);
    assert_ne!(new, old);
    let hidden = who.message(asked.id).unwrap();
    assert!(
        hidden.key().is_none() && hidden.text.contains(&new[..7]),
        "{hidden}"
    );
    assert!(
        world
            .telegram
            .shown()
            .iter()
            .all(|screen| screen.key() != Some(&new))
    );
}

#[tokio::test]
async fn chats_that_telegram_slows_down_hold_up_no_other_user() {
    let world = World::start(&[]).await;
    // As many users as are served at a time. Each waits for its own chat.
    world
        .telegram
        .fault("sendMessage", 64, Fault::TooManyRequests(30));
    for id in 1001..=1064 {
        world.telegram.person(id, "en").send("/start");
    }
    world.telegram.called("sendMessage", 64).await;
    let who = world.telegram.person(5, "en");
    who.send("/apikey");
    let shown = who.sees("the key", |screen| screen.key().is_some());
    let shown = tokio::time::timeout(Duration::from_secs(20), shown).await;
    shown.expect("it does not wait for the others");
}

#[tokio::test]
async fn a_slow_revoke_is_announced_and_does_not_hold_up_a_crowd() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (asked, _) = world.ask_to_revoke(&who).await;
    world.keyward.keys.lock().delay = Duration::from_secs(30);
    who.tap_on(&asked, "✅ Confirm");
    let revoking = |screen: &Screen| screen.text.contains("Revoking");
    let waiting = who.sees("the announcement", revoking).await;
    assert_eq!(waiting.labels(), ["🔄 Retry"]);
    // More than one answer of Telegram contains.
    let crowd: Vec<_> = (1001..=1150)
        .map(|id| world.telegram.person(id, "en"))
        .collect();
    for person in &crowd {
        person.send("/start");
    }
    for person in &crowd {
        person
            .sees("the menu", |screen| screen.button("👤 User Info").is_some())
            .await;
    }
    assert!(
        revoking(&who.message(asked.id).unwrap()),
        "the Revoke still runs"
    );
    who.sees("the new key", |screen| screen.key().is_some())
        .await;
}
