//! Concurrent taps, failures and crashes during a Revoke: one successor at most, no dead key on a
//! screen, and every unclear outcome is shown as such.

use keyward_bot::callback::{Action, Callback, Codec};
use keyward_bot::i18n::Id;
use keyward_client::Secret;
use keyward_testkit::telegram::{Screen, When};

use crate::world::{World, en, key_in};

const ROUNDS: i64 = 20;

#[tokio::test]
async fn a_double_confirm_gives_one_new_key() {
    let world = World::start(&[]).await;
    for id in 1..=ROUNDS {
        let who = world.telegram.person(id, "en");
        let (asked, old) = world.ask_to_revoke(&who).await;
        let taps = [(); 3].map(|()| who.tap_on(&asked, "✅ Confirm"));
        world.telegram.settled().await;
        // The next poll repeats it; the message causes that poll.
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
async fn a_revoke_does_not_wait_for_the_answer_to_the_tap() {
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
async fn an_outdated_screen_shows_what_happened_and_the_current_key() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (old, _) = world.ask_to_revoke(&who).await;
    // Another message replaces that key and its successor.
    for _ in 0..2 {
        let (asked, _) = world.ask_to_revoke(&who).await;
        world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    }
    let now = world.press(&who, &old, Id::BUTTON_CONFIRM).await;
    let expected = "was already revoked. It stopped working on 2026-11-25";
    assert!(now.text.contains(expected), "{now}");
    assert_eq!(key_in(&now), world.live(&who));
    assert_eq!(world.keyward.count().0, 3);
}

#[tokio::test]
async fn an_unclear_outcome_is_shown_and_the_same_revoke_is_repeated() {
    let world = World::start(&[("revokes_per_hour", "1"), ("reveals_per_hour", "2")]).await;
    let who = world.telegram.person(5, "en");
    let (other, old) = world.open_key(&who).await;
    let (asked, _) = world.ask_to_revoke(&who).await;
    world.keyward.keys.lock().is_unproven = true;
    let unclear = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    let expected = "can't confirm yet that it has stopped working everywhere";
    assert!(unclear.text.contains(expected), "{unclear}");
    assert_eq!(unclear.labels(), ["🔄 Retry"]);
    // The other message claims neither that the key works nor that it is dead.
    let hidden = who.message(other.id).unwrap();
    assert!(
        !hidden.text.contains(&old) && !hidden.text.contains("stopped working"),
        "{hidden}"
    );

    // A new message shows no key either: the bot repeats the Revoke.
    let issues = world.keyward.count().1;
    let again = world.ask(&who, "/apikey").await;
    assert!(
        again.key().is_none() && again.labels() == ["🔄 Retry"],
        "{again}"
    );
    assert_eq!(world.keyward.count().1, issues, "no Issue");

    world.keyward.keys.lock().is_unproven = false;
    let done = world.press(&who, &again, Id::BUTTON_RETRY).await;
    assert!(done.text.contains("stopped working on"), "{done}");
    assert_ne!(key_in(&done), old);
    assert_eq!(world.keyward.count().0, 2, "one successor");
}

#[tokio::test]
async fn a_confirm_long_after_its_question_is_asked_again() {
    let world = World::start(&[]).await;
    let who = world.telegram.person(5, "en");
    let (asked, old) = world.ask_to_revoke(&who).await;
    let codec = Codec::new(&Secret::new(world.telegram.token()));
    let confirm = asked.button("✅ Confirm").unwrap();
    let confirm = codec.read(5, confirm.data.as_deref().unwrap());
    let Ok(Callback {
        action: Action::Confirm(of_key, time),
        tag,
    }) = confirm
    else {
        panic!("{confirm:?}");
    };
    // Telegram delivers it hours later.
    let action = Action::Confirm(of_key, time - 3 * 3600);
    let late = codec.write(5, Callback { action, tag });
    who.tap_data(asked.id, &late);
    world.telegram.settled().await;
    assert_eq!(
        (world.live(&who), world.keyward.count().2),
        (old.clone(), 0)
    );
    let again = who.message(asked.id).unwrap();
    assert!(again.text.contains(&en(Id::NOTE_LATE)), "{again}");
    let new = world.press(&who, &again, Id::BUTTON_CONFIRM).await;
    assert_ne!(key_in(&new), old);
}

#[tokio::test]
async fn a_keyward_that_shows_no_more_keys_is_named_as_the_reason() {
    let world = World::start(&[]).await;
    let [who, other] = [5, 6].map(|id| world.telegram.person(id, "en"));
    let (asked, old) = world.ask_to_revoke(&who).await;
    world.keyward.keys.lock().is_busy = true;
    let busy = world.ask(&other, "/apikey").await;
    assert!(busy.text.contains(&en(Id::BUSY_TEXT)), "{busy}");
    // The old key is not called dead, and the service has answered.
    let unclear = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    let expected = "may still work, or it may have stopped working";
    assert!(unclear.text.contains(expected), "{unclear}");
    assert!(!unclear.text.contains("didn't answer"), "{unclear}");
    world.keyward.keys.lock().is_busy = false;
    let up = world.press(&other, &busy, Id::BUTTON_RETRY).await;
    assert_eq!(key_in(&up), world.live(&other));
    let done = world.press(&who, &unclear, Id::BUTTON_RETRY).await;
    assert_ne!(key_in(&done), old);
}

#[tokio::test]
async fn an_unavailable_keyward_is_shown_with_a_retry() {
    let world = World::start(&[]).await;
    let [who, other] = [5, 6].map(|id| world.telegram.person(id, "en"));
    let (asked, old) = world.ask_to_revoke(&who).await;
    world.keyward.keys.lock().is_down = true;
    let unclear = world.press(&who, &asked, Id::BUTTON_CONFIRM).await;
    assert!(
        unclear
            .text
            .contains("may still work, or it may have stopped working"),
        "{unclear}"
    );
    let down = world.ask(&other, "/apikey").await;
    assert!(down.text.contains("can't reach the service"), "{down}");
    world.keyward.keys.lock().is_down = false;
    let up = world.press(&other, &down, Id::BUTTON_RETRY).await;
    assert_eq!(key_in(&up), world.live(&other));
    let done = world.press(&who, &unclear, Id::BUTTON_RETRY).await;
    assert_ne!(key_in(&done), old);
}

#[tokio::test]
async fn a_bot_killed_during_a_revoke_finishes_it_after_a_restart() {
    let mut world = World::start(&[]).await;
    for id in 1..=ROUNDS {
        let who = world.telegram.person(id, "en");
        let (asked, old) = world.ask_to_revoke(&who).await;
        // Between the Revoke and its message, before or after the edit.
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
        assert!(now.text.contains("stopped working on"), "{now}");
    }
    assert_eq!(
        world.keyward.count().0,
        usize::try_from(2 * ROUNDS).unwrap()
    );
}
