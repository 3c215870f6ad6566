//! Keyward, or its answer, is lost during a Confirm.

use std::time::Duration;

use keyward_testkit::telegram::Screen;
use keyward_testkit::{Stage, Swallowed};

use super::actor::Actor;
use super::rounds;
use super::whole::{assert_whole, dies};

/// Asserts that no screen shows a key, or claims a replacement, while the outcome is unclear.
fn assert_nothing_is_claimed(actor: &Actor) {
    for screen in actor.person.screens() {
        assert_eq!(screen.key(), None, "{screen}");
        assert!(!actor.words.says(&screen, "note-replaced"), "{screen}");
    }
}

/// Waits until the bot shows that the outcome is unclear, and offers Retry.
async fn unclear(actor: &Actor) -> Screen {
    let is_unclear = |screen: &Screen| {
        let mut names = ["unclear-unknown", "unclear-unconfirmed"].iter();
        names.any(|name| actor.words.says(screen, name))
    };
    let screen = actor.person.sees("an unclear outcome", is_unclear).await;
    let retry = actor.words.label("button-retry");
    assert!(screen.button(retry).is_some(), "{screen}");
    assert_nothing_is_claimed(actor);
    screen
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_finishes_a_revoke_after_keyward_was_stopped() {
    let mut stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        stage.stop_keyward();
        actor.confirm(&ask);
        unclear(&actor).await;
        // The API must not report a bad key.
        assert_eq!(stage.request(&old).await.status, 503);
        stage.start_keyward();
        let (new, retries) = actor.retries_until_another_key(&stage, &old).await;
        assert!(retries > 0);
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_finishes_a_revoke_after_keyward_was_killed_before_its_answer() {
    let mut stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        stage.proxy.half_open(Some(Swallowed::Answers));
        actor.confirm(&ask);
        dies(&stage, &old).await;
        stage.kill_keyward();
        stage.proxy.cut();
        stage.proxy.half_open(None);
        unclear(&actor).await;
        stage.start_keyward();
        let (new, retries) = actor.retries_until_another_key(&stage, &old).await;
        assert!(retries > 0);
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keyward_killed_at_any_time_of_a_confirm_leaves_the_account_whole() {
    let mut stage = Stage::start(&[]);
    let rounds = rounds();
    for id in 1..=rounds {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        actor.confirm(&ask);
        // From the tap to about the time of the answer.
        let share = u32::try_from(id).unwrap();
        let last = u32::try_from(rounds).unwrap();
        tokio::time::sleep(Duration::from_millis(40) * share / last).await;
        stage.kill_keyward();
        stage.start_keyward();
        let (new, _) = actor.retries_until_another_key(&stage, &old).await;
        stage.telegram.settled().await;
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_whose_answer_is_lost_is_repeated_and_executed_once() {
    let stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        stage.proxy.half_open(Some(Swallowed::Answers));
        actor.confirm(&ask);
        dies(&stage, &old).await;
        // In every second round, Keyward is then unreachable for a while.
        let is_away = id % 2 == 0;
        stage.proxy.refuse(is_away);
        stage.proxy.cut();
        stage.proxy.half_open(None);
        if is_away {
            unclear(&actor).await;
            stage.proxy.refuse(false);
        }
        let (new, _) = actor.retries_until_another_key(&stage, &old).await;
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}
