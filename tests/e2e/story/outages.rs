//! Keyward stops during a Confirm, or its answer is lost.

use std::time::Duration;

use keyward_testkit::telegram::Screen;
use keyward_testkit::{Stage, Swallowed};

use super::actor::Actor;
use super::rounds;
use super::whole::{assert_whole, dies};

/// Asserts that while the end is not known, no screen shows the key that may be dead.
fn assert_nothing_is_claimed(actor: &Actor) {
    for screen in actor.person.screens() {
        assert_eq!(screen.key(), None, "{screen}");
        assert!(!actor.words.says(&screen, "note-replaced"), "{screen}");
    }
}

/// Waits until the bot says that it does not know, and offers Retry.
async fn unclear(actor: &Actor) -> Screen {
    let is_unclear = |screen: &Screen| {
        let mut ways = ["unclear-unknown", "unclear-unconfirmed"].iter();
        ways.any(|say| actor.words.says(screen, say))
    };
    let screen = actor.person.sees("that it is unclear", is_unclear).await;
    let retry = actor.words.label("button-retry");
    assert!(screen.button(retry).is_some(), "{screen}");
    assert_nothing_is_claimed(actor);
    screen
}

#[tokio::test(flavor = "multi_thread")]
async fn keyward_stopped_before_a_confirm_is_said_and_retry_finishes_it() {
    let mut stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        stage.stop_keyward();
        actor.confirm(&ask);
        unclear(&actor).await;
        // A fault that must not look like a bad key.
        assert_eq!(stage.request(&old).await.status, 503);
        stage.start_keyward();
        let (new, retries) = actor.goes_on_to_another_key(&stage, &old).await;
        assert!(retries > 0);
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keyward_killed_after_the_commit_and_before_its_answer_is_asked_again() {
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
        let (new, retries) = actor.goes_on_to_another_key(&stage, &old).await;
        assert!(retries > 0);
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keyward_killed_at_any_moment_of_a_confirm_leaves_the_account_whole() {
    let mut stage = Stage::start(&[]);
    let rounds = rounds();
    for id in 1..=rounds {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        actor.confirm(&ask);
        // From at once to about the time of the bot's answer.
        tokio::time::sleep(Duration::from_millis(40) * u32::try_from(id).unwrap() / 20).await;
        stage.kill_keyward();
        stage.start_keyward();
        let (new, _) = actor.goes_on_to_another_key(&stage, &old).await;
        stage.telegram.settled().await;
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_whose_answer_is_lost_is_asked_again_and_made_once() {
    let stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        stage.proxy.half_open(Some(Swallowed::Answers));
        actor.confirm(&ask);
        dies(&stage, &old).await;
        // Half of the time there is no way to Keyward for a while.
        let is_away = id % 2 == 0;
        stage.proxy.refuse(is_away);
        stage.proxy.cut();
        stage.proxy.half_open(None);
        if is_away {
            unclear(&actor).await;
            stage.proxy.refuse(false);
        }
        let (new, _) = actor.goes_on_to_another_key(&stage, &old).await;
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}
