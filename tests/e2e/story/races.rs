//! Concurrent and repeated taps.

use keyward_testkit::telegram::{Held, When};
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
        let new = actor.sees_other_key(&old).await.key().unwrap().to_owned();
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_with_a_question_each_make_one_new_key() {
    let stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, first) = actor.ask().await;
        // A message of its own, below the first.
        let (same, second) = actor.ask().await;
        assert_eq!(same, old);
        assert_ne!(first.id, second.id);
        // And one that shows the key, where nothing is tapped.
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
async fn an_update_that_comes_again_changes_nothing() {
    let stage = Stage::start(&[]);
    for id in 1..=rounds() {
        let actor = Actor::english(&stage, 1000 + id);
        let (old, ask) = actor.ask().await;
        let update = actor.confirm(&ask);
        if id % 2 == 0 {
            // Handled and confirmed before it comes again; otherwise at any time.
            stage.telegram.settled().await;
        }
        stage.telegram.redeliver(update);
        stage.telegram.settled().await;
        let new = actor.sees_other_key(&old).await.key().unwrap().to_owned();
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}

/// Where the bot dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// It has taken the tap, and its Revoke has not come to Keyward.
    BeforeRevoke,
    /// The old key is dead, and the person has not been told.
    BeforeMessage,
    /// The person has been told, and the update is not confirmed.
    AfterMessage,
}

impl Death {
    /// What is held at Telegram meanwhile.
    fn hold(self, stage: &Stage) -> Held {
        match self {
            Self::BeforeRevoke => stage.telegram.hold("answerCallbackQuery", When::Before),
            Self::BeforeMessage => stage.telegram.hold("editMessageText", When::Before),
            Self::AfterMessage => stage.telegram.hold("editMessageText", When::After),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_killed_anywhere_in_a_confirm_goes_on_from_there() {
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
        // It goes on asking Telegram, and must not confirm by it what is not handled.
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
        let new = actor.sees_other_key(&old).await.key().unwrap().to_owned();
        assert_whole(&stage, &actor, &new, &[&old]).await;
    }
}
