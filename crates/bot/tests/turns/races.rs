//! What people, networks and crashes do in the middle: never two rotations, never a dead key shown
//! as live, never a half-done state left unsaid.

use std::time::Duration;

use keyward_bot::i18n::Id;
use keyward_testkit::telegram::{Screen, When};

use crate::world::{World, key_in};

const ROUNDS: i64 = 20;

#[tokio::test]
async fn a_double_confirm_gives_one_new_key() {
    let world = World::start(&[]).await;
    for id in 1..=ROUNDS {
        let who = world.telegram.person(id, "en");
        let (asked, old) = world.ask_to_revoke(&who).await;
        let taps = [(); 3].map(|()| who.tap_on(&asked, "✅ Confirm"));
        world.telegram.settled().await;
        // Comes with the next answer to a poll, which the message brings about.
        world.telegram.redeliver(taps[0]);
        who.send("/help");
        world.telegram.settled().await;
        let now = who.message(asked.id).unwrap();
        assert_eq!(key_in(&now), world.live(&who));
        assert_ne!(key_in(&now), old);
    }
    assert_eq!(
        world.keyward.count().0,
        usize::try_from(2 * ROUNDS).unwrap()
    );
}

#[tokio::test]
async fn a_revoke_does_not_wait_for_telegram_to_take_the_answer_to_the_tap() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (asked, old) = world.ask_to_revoke(&who).await;
    let held = world.telegram.hold("answerCallbackQuery", When::Before);
    who.tap_on(&asked, "✅ Confirm");
    held.arrived().await;
    let is_new = |screen: &Screen| screen.key().is_some_and(|key| key != old);
    let new = who.sees("the new key", is_new).await;
    assert_eq!(key_in(&new), world.live(&who));
    held.release();
    world.telegram.settled().await;
}

#[tokio::test]
async fn an_old_screen_says_what_happened_and_shows_the_present() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (old, _) = world.ask_to_revoke(&who).await;
    // In another message, that key and its successor are replaced.
    for _ in 0..2 {
        let (asked, _) = world.ask_to_revoke(&who).await;
        world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    }
    let now = world.press(&who, &old, Id::BUTTON_CONFIRM).await;
    let said = "was already revoked: it has been dead since 2026-11-25";
    assert!(now.text.contains(said), "{now}");
    assert_eq!(key_in(&now), world.live(&who));
    assert_eq!(world.keyward.count().0, 3);
}

#[tokio::test]
async fn an_unclear_end_is_said_and_the_same_revoke_is_asked_again() {
    let world = World::start(&[("revokes_per_hour", "1"), ("reveals_per_hour", "2")]).await;
    let who = world.telegram.person(5, "en");
    let (other, old) = world.open_key(&who).await;
    let (asked, _) = world.ask_to_revoke(&who).await;
    world.keyward.keys.lock().is_unproven = true;
    let unclear = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    let said = "not yet certain that it is dead everywhere";
    assert!(unclear.text.contains(said), "{unclear}");
    assert_eq!(unclear.labels(), ["🔄 Retry"]);
    let data = |screen: &Screen, label| {
        screen
            .button(label)
            .and_then(|button| button.data.clone())
            .unwrap()
    };
    assert_eq!(
        data(&unclear, "🔄 Retry"),
        data(&asked, "✅ Confirm"),
        "the same call"
    );
    // The other message says neither that it lives nor that it is dead.
    let hidden = who.message(other.id).unwrap();
    assert!(
        !hidden.text.contains(&old) && !hidden.text.contains("dead"),
        "{hidden}"
    );

    // Asked for elsewhere, no key is shown either: the Revoke is asked again.
    let issues = world.keyward.count().1;
    let again = world.ask(&who, "/apikey").await;
    assert!(
        again.key().is_none() && again.labels() == ["🔄 Retry"],
        "{again}"
    );
    assert_eq!(world.keyward.count().1, issues, "no Issue");

    world.keyward.keys.lock().is_unproven = false;
    let done = world.press(&who, &again, Id::BUTTON_RETRY).await;
    assert!(done.text.contains("dead since"), "{done}");
    assert_ne!(key_in(&done), old);
    assert_eq!(world.keyward.count().0, 2, "one successor");
}

#[tokio::test]
async fn keyward_down_is_said_with_a_retry() {
    let world = World::start(&[]).await;
    let [who, other] = [5, 6].map(|id| world.telegram.person(id, "en"));
    let (asked, old) = world.ask_to_revoke(&who).await;
    world.keyward.keys.lock().is_down = true;
    let unclear = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    assert!(
        unclear.text.contains("may be dead or may still work"),
        "{unclear}"
    );
    let down = world.ask(&other, "/apikey").await;
    assert!(down.text.contains("cannot be reached"), "{down}");
    world.keyward.keys.lock().is_down = false;
    let up = world.press(&other, &down, Id::BUTTON_RETRY).await;
    assert_eq!(key_in(&up), world.live(&other));
    let done = world.press(&who, &unclear, Id::BUTTON_RETRY).await;
    assert_ne!(key_in(&done), old);
}

#[tokio::test]
async fn a_slow_revoke_is_announced_and_holds_nobody_else_up() {
    let world = World::start(&[]).await;
    let [who, other] = [5, 6].map(|id| world.telegram.person(id, "en"));
    let (asked, _) = world.ask_to_revoke(&who).await;
    world.keyward.keys.lock().delay = Duration::from_secs(6);
    who.tap_on(&asked, "✅ Confirm");
    let waiting = who
        .sees("the announcement", |s| s.text.contains("Revoking"))
        .await;
    assert_eq!(waiting.labels(), ["🔄 Retry"]);
    other.send("/apikey");
    other.sees("the key", |screen| screen.key().is_some()).await;
    let now = who.screen().unwrap();
    assert!(
        now.text.contains("Revoking"),
        "the other was served meanwhile: {now}"
    );
    who.sees("the new key", |screen| screen.key().is_some())
        .await;
}

#[tokio::test]
async fn a_bot_that_dies_in_the_middle_goes_on_where_it_was() {
    let mut world = World::start(&[]).await;
    for id in 1..=ROUNDS {
        let who = world.telegram.person(id, "en");
        let (asked, old) = world.ask_to_revoke(&who).await;
        // Between the Revoke and its message, on either side of that.
        let when = if id % 2 == 0 {
            When::Before
        } else {
            When::After
        };
        let held = world.telegram.hold("editMessageText", when);
        who.tap_on(&asked, "✅ Confirm");
        held.arrived().await;
        world.kill_bot().await;
        held.release();
        world.start_bot(&[]).await;
        world.telegram.settled().await;
        let now = who.message(asked.id).unwrap();
        assert_eq!(key_in(&now), world.live(&who));
        assert_ne!(key_in(&now), old);
        assert!(now.text.contains("dead since"), "{now}");
    }
    assert_eq!(
        world.keyward.count().0,
        usize::try_from(2 * ROUNDS).unwrap()
    );
}

#[tokio::test]
async fn a_burst_is_handled_and_confirmed() {
    let world = World::start(&[]).await;
    let people: Vec<_> = (1..=40).map(|id| world.telegram.person(id, "en")).collect();
    for _ in 0..3 {
        for who in &people {
            who.send("/start");
        }
    }
    world.telegram.settled().await;
    for who in &people {
        assert_eq!(who.screens().len(), 3, "{} has answers", who.id());
    }
}
