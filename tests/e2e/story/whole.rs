//! Asserts that an account is whole: one key lives, it is on the screen, and the API accepts no other.

use keyward_proto::v1;
use keyward_testkit::{Client, Front, PATIENCE, Stage, eventually, sqlite};
use sqlx::Connection as _;

use super::actor::Actor;

/// The number of replaced keys of the account, from the audit.
async fn replaces(stage: &Stage, account: &str) -> i64 {
    let mut connection = sqlite(&stage.database()).await;
    let count = "SELECT count(*) FROM audit WHERE action = 'replace' AND account_id = ?";
    let count = sqlx::query_scalar(count).bind(account);
    let count = count.fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    count
}

/// Asserts that the API refuses this key, with the right answer.
pub(crate) async fn refused(front: &Front, key: &str) {
    let answer = front.request(key).await;
    assert!(answer.is_refusal(401, "INVALID_API_KEY"), "{answer:?}");
    assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
}

/// Waits until the API refuses this key, so the Revoke is committed.
pub(crate) async fn dies(front: &Front, key: &str) {
    eventually("the old key dies", PATIENCE, async || {
        front.request(key).await.status == 401
    })
    .await;
}

/// Asserts that `live` is the only live key of the account, that no screen shows another one, and
/// that the API accepts it.
pub(crate) async fn assert_one_lives(
    front: &Front,
    client: &Client,
    actor: &Actor,
    live: &str,
    dead: &[&str],
) {
    let keys = client.list(&actor.account()).await.unwrap();
    let states: Vec<_> = keys.iter().map(v1::ApiKey::state).collect();
    let active = states.iter().filter(|state| **state == v1::State::Active);
    assert_eq!(active.count(), 1, "{states:?}");
    assert_eq!(states.len(), dead.len() + 1, "{states:?}");
    for screen in actor.person.screens() {
        assert!(
            screen.key().is_none_or(|key| key == live),
            "a dead key is shown:\n{screen}"
        );
        for dead in dead {
            assert!(!screen.text.contains(dead), "{screen}");
        }
    }
    // After an outage the API may answer 503 until it reaches Keyward, but never with a wrong
    // verdict.
    eventually("the API reaches Keyward", PATIENCE, async || {
        let status = front.request(live).await.status;
        assert!([200, 503].contains(&status), "a live key got {status}");
        status == 200
    })
    .await;
    for dead in dead {
        refused(front, dead).await;
    }
}

/// Asserts the same, and that each dead key was replaced once.
pub(crate) async fn assert_whole(stage: &Stage, actor: &Actor, live: &str, dead: &[&str]) {
    assert_one_lives(stage, &stage.client().await, actor, live, dead).await;
    let replaced = usize::try_from(replaces(stage, &actor.account()).await);
    assert_eq!(replaced, Ok(dead.len()), "replacements in the audit");
}
