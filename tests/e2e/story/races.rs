//! Concurrent and repeated updates, and a bot that is killed.

use keyward_testkit::telegram::{HeldCall, When};
use keyward_testkit::{Stage, Swallowed};

use super::actor::Actor;
use super::rounds;
use super::whole::{assert_whole, dies};

#[tokio::test(flavor = "multi_thread")]
async fn two_taps_on_one_confirm_make_one_new_key() {
    let stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        actor.confirm(&ask);
        actor.confirm(&ask);
        stage.telegram.settled().await;
        let new = actor.new_key(&old).await;
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_with_a_question_each_make_one_new_key() {
    let stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, first) = actor.ask().await;
        // A second message below the first.
        let (same, second) = actor.ask().await;
        assert_eq!(same, old);
        assert_ne!(first.id, second.id);
        // A third message shows the key; nobody taps on it.
        actor.person.send("/apikey");
        let third = actor.sees_key().await;
        actor.confirm(&first);
        actor.confirm(&second);
        stage.telegram.settled().await;
        let new = actor.person.message(first.id).unwrap();
        let new = new.key().unwrap().to_owned();
        assert_whole(&stage, &actor, &new, &[&old]).await;
        let left = actor.person.message(third.id).unwrap();
        assert!(actor.words.says(&left, "key-dead"), "{left}");
        // Both questions were answered.
        for ask in [first, second] {
            let screen = actor.person.message(ask.id).unwrap();
            assert_ne!(screen.text, ask.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_update_changes_nothing() {
    let stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        let update = actor.confirm(&ask);
        if id % 2 == 0 {
            // In every second round it is handled and confirmed before Telegram repeats it.
            stage.telegram.settled().await;
        }
        stage.telegram.redeliver(update);
        stage.telegram.settled().await;
        let new = actor.new_key(&old).await;
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

/// When the bot is killed.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// It has received the tap, and its Revoke has not reached Keyward.
    BeforeRevoke,
    /// The old key is dead, and the person has no answer.
    BeforeMessage,
    /// The person has the answer, and the update is not confirmed.
    AfterMessage,
}

impl Death {
    /// Holds the matching call at Telegram.
    fn hold(self, stage: &Stage) -> HeldCall {
        match self {
            Self::BeforeRevoke => stage.telegram.hold("answerCallbackQuery", When::Before),
            Self::BeforeMessage => stage.telegram.hold("editMessageText", When::Before),
            Self::AfterMessage => stage.telegram.hold("editMessageText", When::After),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_killed_during_a_confirm_finishes_it_after_a_restart() {
    let mut stage = Stage::start(&[]);
    let deaths = [
        Death::BeforeMessage,
        Death::AfterMessage,
        Death::BeforeRevoke,
    ];
    for (id, death) in (1..=rounds()).zip(deaths.into_iter().cycle()) {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        let held = death.hold(&stage);
        let is_before = matches!(death, Death::BeforeRevoke);
        stage
            .proxy
            .half_open(is_before.then_some(Swallowed::Requests));
        actor.confirm(&ask);
        held.arrived().await;
        // Its polls continue, and must not confirm the unhandled update.
        let polls = stage.telegram.calls_of("getUpdates").len();
        stage.telegram.called("getUpdates", polls + 2).await;
        if !is_before {
            dies(&stage, &old).await;
        }
        stage.kill_bot();
        held.abandoned().await;
        held.release();
        if is_before {
            assert_eq!(stage.request(&old).await.status, 200);
        }
        stage.proxy.cut();
        stage.proxy.half_open(None);
        stage.start_bot();
        stage.telegram.settled().await;
        let new = actor.new_key(&old).await;
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}
