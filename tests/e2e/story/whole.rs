//! An account is whole: one key lives, it is the one on the screen, and nothing else is accepted.

use std::time::Duration;

use keyward_proto::v1;
use keyward_testkit::{Client, Front, Stage, eventually};
use sqlx::{Connection, SqliteConnection};

use super::actor::Actor;

const PATIENCE: Duration = Duration::from_secs(60);

/// All keys that an account ever had.
pub(crate) async fn keys_of(client: &Client, account: &str) -> Vec<v1::ApiKey> {
    let request = v1::ListRequest {
        account_id: account.to_owned(),
        include_revoked: true,
        page_size: 1000,
        ..Default::default()
    };
    let answer = client.keys.clone().list(request).await;
    answer.unwrap().into_inner().keys
}

/// How often the audit says that a key of the account was replaced.
async fn replaces(stage: &Stage, account: &str) -> i64 {
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(stage.database())
        .read_only(true)
        .busy_timeout(PATIENCE);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let count = "SELECT count(*) FROM audit WHERE action = 'replace' AND account_id = ?";
    let count = sqlx::query_scalar(count).bind(account);
    let count = count.fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    count
}

/// Asserts that the API takes this key no more, and says so as it should.
pub(crate) async fn refused(front: &Front, key: &str) {
    let answer = front.request(key).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    let expected = r#"{"error":true,"message":"INVALID_API_KEY","data":null}"#;
    assert_eq!(answer.body, expected);
    assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
}

/// Waits until the API takes this key no more: the Revoke is committed.
pub(crate) async fn dies(front: &Front, key: &str) {
    eventually("the old key dies", PATIENCE, async || {
        front.request(key).await.status == 401
    })
    .await;
}

/// Asserts that of the account's keys `live` lives and nothing else, that it is what stands on the
/// screens, and that the API knows it.
pub(crate) async fn assert_one_lives(
    front: &Front,
    client: &Client,
    actor: &Actor,
    live: &str,
    dead: &[&str],
) {
    let keys = keys_of(client, &actor.account()).await;
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
    // After an outage the API may need a moment to find Keyward again; a wrong answer it never
    // gives.
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

/// Asserts all of it, and that each of the dead was replaced once.
pub(crate) async fn assert_whole(stage: &Stage, actor: &Actor, live: &str, dead: &[&str]) {
    assert_one_lives(stage, &stage.client().await, actor, live, dead).await;
    let replaced = usize::try_from(replaces(stage, &actor.account()).await);
    assert_eq!(replaced, Ok(dead.len()), "lines of the audit");
}
