//! Manual SQL, a change of very many keys at once, and a wrong clock.

use std::sync::Arc;
use std::time::Duration;

use keyward_proto::v1::Verdict;
use keyward_testkit::requests::by_account;
use keyward_testkit::{
    Client, Cluster, Key, Load, Options, PATIENCE, Postgres, eventually, is_unavailable, now,
    patiently,
};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::{Plan, issued, pass, tell};

/// Keys of one account that are revoked at once. `KEYWARD_ACCOUNT_KEYS` sets another number.
const MANY: i32 = 20_000;
/// Those of them whose text is known.
const SOME: usize = 20;
/// The number under which the instance of this process is known.
const LOCAL: usize = 100;

/// Issues a key that the test ends itself.
async fn pinned(load: &Load, client: &Client, account: &str, name: &str) -> Arc<Key> {
    let (id, text) = patiently(async || client.issue(account, name).await).await;
    let account = account.to_owned();
    load.pin(Key { id, text, account }).await
}

/// P1: nobody tells the instances, and no call is there that could wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_by_hand_holds_when_the_bound_has_passed_since_its_commit() {
    Plan::new("revoked by hand")
        .run(async |cluster: &mut Cluster, load: &Load| {
            let client = cluster.client(0).await;
            let account = format!("by-hand-{:?}", now());
            let mut hand = Postgres::connect(&cluster.postgres.superuser_url()).await;
            for n in 0..20 {
                let key = pinned(load, &client, &account, &n.to_string()).await;
                load.recorder().dying(&key.id);
                revoke_by_hand(&mut hand, &key.id).await;
                load.recorder().dead(&key.id, cluster.max_staleness());
                pass(Duration::from_millis(50)).await;
            }
            // Everybody learns of it, and those who ask later than the bound find that out.
            pass(cluster.max_staleness() + Duration::from_millis(500)).await;
        })
        .await;
}

async fn revoke_by_hand(hand: &mut PgConnection, id: &str) {
    let change = "UPDATE api_keys SET revoke_time = now() WHERE key_id = $1::uuid";
    let done = sqlx::query(change).bind(id).execute(hand).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_very_many_keys_is_dead_when_its_revoke_returns() {
    // Other clusters beside this one would wait for it.
    let options = Options {
        turns: 3,
        ..Options::default()
    };
    Plan::with("very many keys", options)
        .run(async |cluster: &mut Cluster, load: &Load| {
            let client = cluster.client(0).await;
            let account = format!("many-{:?}", now());
            let mut keys = Vec::new();
            for n in 0..SOME {
                keys.push(pinned(load, &client, &account, &format!("known-{n}")).await);
            }
            insert_many(cluster, &account).await;
            for key in &keys {
                load.recorder().dying(&key.id);
            }
            let begun = now();
            let ended = CancellationToken::new();
            let ((revoked, took), issued, mut others) = tokio::join!(
                async {
                    let revoked = revoke_account(&client, &account).await;
                    ended.cancel();
                    (revoked, begun.elapsed())
                },
                issue_until(&ended, &client, &account),
                revoke_others_until(&ended, &client),
            );
            for key in &keys {
                load.recorder().dead(&key.id, Duration::ZERO);
            }
            tell("very many keys, revoked after", (revoked, took));
            tell("keys of the account issued meanwhile", issued);
            others.sort_unstable();
            let at = |share: usize| others.get(others.len() * share / 100);
            let figures = (others.len(), at(50), at(99), others.last());
            tell(
                "other revokes meanwhile: number, p50, p99, longest",
                figures,
            );
            for number in cluster.running() {
                let client = cluster.client(number).await;
                for key in &keys {
                    assert_eq!(
                        client.verdict(&key.text).await,
                        Verdict::Revoked,
                        "instance {number}"
                    );
                }
            }
            assert_eq!(live_keys(cluster, &account).await, 0, "issued before");
        })
        .await;
}

/// Keys with an unknown text.
async fn insert_many(cluster: &Cluster, account: &str) {
    let insert = "INSERT INTO api_keys (key_id, digest, generation, account_id, name, hint, scopes,
                      metadata, allowed_cidrs, recoverable, create_time)
                  SELECT gen_random_uuid(), sha256(uuid_send(gen_random_uuid())), 1, $1,
                         'unknown-' || n, 'kw_0000', '[]', '{}', '[]', false, now()
                    FROM generate_series(1, $2) AS n";
    let mut owner = Postgres::connect(&cluster.postgres.owner_url()).await;
    let many = std::env::var("KEYWARD_ACCOUNT_KEYS").map_or(MANY, |many| many.parse().unwrap());
    let query = sqlx::query(insert).bind(account).bind(many);
    let done = query.execute(&mut owner).await.unwrap();
    assert_eq!(done.rows_affected(), u64::from(many.unsigned_abs()));
}

/// Issues keys of the account until `ended`. Returns their number.
async fn issue_until(ended: &CancellationToken, client: &Client, account: &str) -> usize {
    for n in 0.. {
        if ended.is_cancelled() {
            return n;
        }
        patiently(async || client.issue(account, &format!("late-{n}")).await).await;
        pass(Duration::from_millis(20)).await;
    }
    unreachable!("it counts for ever")
}

/// Revokes keys of other accounts until `ended`. Returns how long each took.
async fn revoke_others_until(ended: &CancellationToken, client: &Client) -> Vec<Duration> {
    let mut times = Vec::new();
    while !ended.is_cancelled() {
        let (id, _) = issued(client).await;
        let begun = now();
        patiently(async || client.revoke(&id).await).await;
        times.push(begun.elapsed());
    }
    times
}

async fn live_keys(cluster: &Cluster, account: &str) -> i64 {
    let count = "SELECT count(*) FROM api_keys WHERE account_id = $1 AND revoke_time IS NULL
                   AND name NOT LIKE 'late-%'";
    let mut owner = Postgres::connect(&cluster.postgres.owner_url()).await;
    let query = sqlx::query_scalar(count).bind(account);
    query.fetch_one(&mut owner).await.unwrap()
}

/// Repeats the call until it is confirmed, and returns the number of keys that the confirmed call
/// revoked. It is 0 if an unconfirmed call had revoked them.
async fn revoke_account(client: &Client, account: &str) -> u64 {
    let begun = now();
    loop {
        match client.send(by_account(account)).await {
            Ok(answer) => return answer.revoked_count,
            Err(status) if is_unavailable(&status) => {
                assert!(begun.elapsed() < Duration::from_secs(300), "{status:?}");
                pass(Duration::from_millis(100)).await;
            }
            Err(status) => panic!("{status:?}"),
        }
    }
}

/// An instance beside the others, whose wall clock is set forth and back by an hour again and again.
#[tokio::test(flavor = "multi_thread")]
async fn the_promise_holds_with_a_wall_clock_stepped_by_an_hour() {
    Plan::new("wall clock stepped")
        .run(async |cluster: &mut Cluster, load: &Load| {
            let local = cluster.local().await;
            let client = local.client().await;
            let (_, text) = issued(&client).await;
            load.join(LOCAL, client.clone());
            for step in [3_600, -3_600, -3_600, 3_600, 7_200, -7_200] {
                load.wait_for_ends(5).await;
                local.clock.step_wall(step);
                pass(Duration::from_millis(200)).await;
                let what = "an instance with a stepped clock is fresh again";
                eventually(what, PATIENCE, async || client.verify(&text).await.is_ok()).await;
            }
            load.wait_for_ends(10).await;
            load.leave(LOCAL);
            local.app.stop().await;
        })
        .await;
}
