//! Near-caches: they answer without a call, a Revoke waits for them, and they are off when they must be.

mod streams;

use std::time::Duration;

use keyward_client::near::{Fallback, NearCache, NearCacheOptions};
use keyward_client::{self as client, ErrorKind, Secret, Verdict, VerifyRequest};
use keyward_proto::v1::{self, Role};
use keyward_testkit::requests::*;
use keyward_testkit::{Client, Local, PATIENCE, eventually, http_get, now, sqlite};

const ROLES: [Role; 2] = [Role::NearCache, Role::Verifier];

/// A near-cache of a caller with this token.
pub(crate) fn near_cache(local: &Local, token: &str, fallback: Fallback) -> NearCache {
    let client = client::Client::builder()
        .endpoint(format!("http://{}", local.app.grpc_address()))
        .token(Secret::new(token.to_owned()))
        .build()
        .unwrap();
    let mut options = NearCacheOptions::default();
    options.fallback = fallback;
    client.near_cache(options).unwrap()
}

pub(crate) async fn fresh(near: &NearCache) {
    let is_fresh = async || near.is_fresh();
    eventually("the near-cache is fresh", PATIENCE, is_fresh).await;
}

fn asking(api_key: &str) -> VerifyRequest {
    VerifyRequest::new(Secret::new(api_key.to_owned()))
}

/// Issues a key, and verifies it until the near-cache knows it.
async fn known(client: &Client, near: &NearCache, account: &str) -> (String, String) {
    let issued = client.send(slot(account)).await.unwrap();
    let verdict = near.verify(asking(&issued.api_key)).await.unwrap();
    assert!(matches!(verdict, Verdict::Valid(_)));
    assert!(near.cached(&asking(&issued.api_key)).is_some());
    (issued.key.unwrap().key_id, issued.api_key)
}

struct World {
    local: Local,
    client: Client,
    token: v1::CreateTokenResponse,
    near: NearCache,
}

async fn world(fallback: Fallback) -> World {
    let local = Local::start().await;
    let client = local.client().await;
    let token = client.send(creating_token("near", &ROLES)).await.unwrap();
    let near = near_cache(&local, &token.token, fallback);
    fresh(&near).await;
    World {
        local,
        client,
        token,
        near,
    }
}

#[tokio::test]
async fn a_key_is_valid_without_a_call_until_its_revoke_returns() {
    let world = world(Fallback::Call).await;
    for account in 0..20 {
        let (id, key) = known(&world.client, &world.near, &account.to_string()).await;
        let start = now();
        world.client.send(by_id(&id)).await.unwrap();
        assert!(world.near.cached(&asking(&key)).is_none());
        assert!(
            start.elapsed() < Duration::from_millis(1_500),
            "the near-cache was waited out"
        );
        let verdict = world.near.verify(asking(&key)).await.unwrap();
        assert!(matches!(verdict, Verdict::Revoked(_)), "{verdict:?}");
    }
    let stats = world.near.stats();
    assert_eq!((stats.hits, stats.misses + stats.not_fresh), (20, 40));
}

/// The entry holds the record, not the verdict.
#[tokio::test]
async fn scopes_addresses_and_ends_are_judged_at_each_call() {
    let world = world(Fallback::Call).await;
    let mut request = living("42", 2);
    request.scopes = vec!["read".to_owned(), "write".to_owned()];
    request.allowed_cidrs = vec!["10.0.0.0/8".to_owned()];
    let key = world.client.send(request).await.unwrap().api_key;
    let ask = |scope: &str, ip: &str| VerifyRequest {
        required_scopes: vec![scope.to_owned()],
        client_ip: Some(ip.parse().unwrap()),
        ..asking(&key)
    };
    let near = &world.near;
    let first = near.verify(ask("read", "10.1.2.3")).await.unwrap();
    assert!(matches!(first, Verdict::Valid(_)));
    assert!(near.cached(&ask("write", "10.0.0.1")).is_some());
    for (refused, verdict) in [
        (ask("admin", "10.0.0.1"), Verdict::InsufficientScope),
        (ask("read", "192.0.2.1"), Verdict::IpNotAllowed),
        (asking(&key), Verdict::IpNotAllowed),
    ] {
        assert!(near.cached(&refused).is_none());
        assert_eq!(near.verify(refused).await.unwrap(), verdict);
    }
    // Near the end it asks, because it may be wrong by the time that an answer took.
    let has_expired = async || {
        let is_kept = near.cached(&ask("read", "10.0.0.1")).is_some();
        let verdict = near.verify(ask("read", "10.0.0.1")).await.unwrap();
        assert!(!is_kept || matches!(verdict, Verdict::Valid(_)));
        matches!(verdict, Verdict::Expired(_))
    };
    eventually("the key expires", PATIENCE, has_expired).await;
    assert!(near.is_fresh());
}

#[tokio::test]
async fn a_grace_ends_without_news() {
    let world = world(Fallback::Call).await;
    let (id, key) = known(&world.client, &world.near, "42").await;
    world.client.send(with_grace(&id, 2)).await.unwrap();
    // The change has outdated the entry. A new one knows the end.
    assert!(world.near.cached(&asking(&key)).is_none());
    assert!(matches!(
        world.near.verify(asking(&key)).await.unwrap(),
        Verdict::Valid(_)
    ));
    assert!(world.near.cached(&asking(&key)).is_some());
    let has_ended = async || world.near.cached(&asking(&key)).is_none();
    eventually("the grace ends", PATIENCE, has_ended).await;
    assert!(world.near.is_fresh());
}

#[tokio::test]
async fn a_closed_near_cache_delays_no_revoke_and_answers_nothing_by_itself() {
    let world = world(Fallback::Fail).await;
    let (id, key) = known(&world.client, &world.near, "42").await;
    let counts = async |open: u32, off: u32| {
        let metrics = http_get(world.local.app.http_address().unwrap(), "/metrics").await;
        let streams = format!("keyward_near_cache_streams_total{{end=\"off\"}} {off}\n");
        metrics.contains(&format!("keyward_near_caches {open}\n")) && metrics.contains(&streams)
    };
    // The first stream has told the epoch alone.
    assert!(counts(1, 1).await);
    world.near.close().await;
    assert!(counts(0, 2).await);
    assert!(!world.near.is_fresh());
    assert!(world.near.cached(&asking(&key)).is_none());
    let start = now();
    world.client.send(by_id(&id)).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(1_500));
    let refused = world.near.verify(asking(&key)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
}

/// RevokeToken returns when no near-cache of that token is fresh.
#[tokio::test]
async fn a_revoked_token_ends_its_near_caches() {
    let world = world(Fallback::Fail).await;
    let (_, key) = known(&world.client, &world.near, "42").await;
    let token_id = world.token.caller_token.clone().unwrap().token_id;
    let start = now();
    world.client.send(revoking_token(&token_id)).await.unwrap();
    assert!(!world.near.is_fresh());
    assert!(world.near.cached(&asking(&key)).is_none());
    assert!(
        start.elapsed() < Duration::from_millis(1_500),
        "it was waited out"
    );
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!world.near.is_fresh());
}

#[tokio::test]
async fn an_expired_token_ends_its_near_caches() {
    let (local, request) = (
        Local::start().await,
        v1::CreateTokenRequest {
            ttl: seconds(3),
            ..creating_token("near", &ROLES)
        },
    );
    let token = local.client().await.send(request).await.unwrap();
    let near = near_cache(&local, &token.token, Fallback::Fail);
    fresh(&near).await;
    let is_off = async || !near.is_fresh();
    eventually("the near-cache is off", PATIENCE, is_off).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!near.is_fresh());
}

#[tokio::test]
async fn a_caller_that_loses_a_role_loses_its_near_caches() {
    let local = Local::start().await;
    for left in ["verifier", "near_cache"] {
        let token = local.client().await.token(left, &ROLES).await.unwrap();
        let near = near_cache(&local, &token, Fallback::Fail);
        fresh(&near).await;
        let mut hand = sqlite(&local.database()).await;
        let change = "UPDATE caller_tokens SET roles = ?1 WHERE name = ?1";
        let change = sqlx::query(change).bind(left);
        change.execute(&mut hand).await.unwrap();
        let is_off = async || !near.is_fresh();
        eventually("the near-cache is off", PATIENCE, is_off).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(!near.is_fresh());
    }
}

/// The instance leaves: the near-cache is off before, and finds its successor.
#[tokio::test]
async fn a_stop_of_the_instance_turns_near_caches_off() {
    let world = world(Fallback::Fail).await;
    let (_, key) = known(&world.client, &world.near, "42").await;
    let start = now();
    world.local.app.stop().await;
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "the stop waited for the near-cache"
    );
    assert!(!world.near.is_fresh());
    assert!(world.near.cached(&asking(&key)).is_none());
}

#[tokio::test]
async fn a_batch_takes_one_call_for_the_keys_that_are_not_known() {
    let world = world(Fallback::Call).await;
    let (_, known_key) = known(&world.client, &world.near, "42").await;
    let (dead_id, dead) = known(&world.client, &world.near, "43").await;
    world.client.send(by_id(&dead_id)).await.unwrap();
    let new = world.client.send(slot("44")).await.unwrap().api_key;
    let batch = || [&*known_key, &dead, &new, "x"].map(asking).to_vec();
    for misses in [3, 2] {
        let before = world.near.stats();
        let verdicts = world.near.verify_batch(batch()).await.unwrap();
        let accounts: Vec<_> = verdicts
            .iter()
            .map(|verdict| match verdict {
                Verdict::Valid(identity) => identity.account_id.as_str(),
                Verdict::Revoked(_) => "dead",
                Verdict::Malformed => "none",
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(accounts, ["42", "dead", "44", "none"]);
        let stats = world.near.stats();
        assert_eq!(stats.misses - before.misses, misses);
        assert_eq!(stats.hits - before.hits, 4 - misses);
    }
    assert_eq!(world.near.verify_batch(Vec::new()).await.unwrap(), []);
}

#[tokio::test]
async fn a_near_cache_says_why_it_is_not_fresh() {
    let world = world(Fallback::Call).await;
    assert!(world.near.trouble().is_none());
    let create = creating_token("verifier", &[Role::Verifier]);
    let token = world.client.send(create).await.unwrap().token;
    let near = near_cache(&world.local, &token, Fallback::Call);
    let has_trouble = async || near.trouble().is_some();
    eventually("the stream is refused", PATIENCE, has_trouble).await;
    let trouble = near.trouble().unwrap();
    assert_eq!(trouble.kind, ErrorKind::Unauthorized);
    assert!(trouble.message.contains("near_cache"), "{trouble}");
    assert!(!near.is_fresh());
}

/// A hit takes no call, so the near-cache reports the use of its keys with its polls.
#[tokio::test]
async fn a_near_cache_reports_what_it_accepts() {
    let change = |settings: &mut keyward::config::Settings| {
        settings.use_interval = Duration::from_secs(1);
    };
    let local = Local::start_with(change, |store| store).await;
    let client = local.client().await;
    let token = client.send(creating_token("near", &ROLES)).await.unwrap();
    let near = near_cache(&local, &token.token, Fallback::Call);
    fresh(&near).await;
    let key = client.send(slot("42")).await.unwrap();
    let (id, text) = (key.key.unwrap().key_id, key.api_key);
    let verdict = near.verify(asking(&text)).await.unwrap();
    assert!(matches!(verdict, Verdict::Valid(_)));
    let last_use = async || {
        let key = client.get(&id).await.unwrap();
        key.last_use_time.map(|time| time.seconds)
    };
    let is_noted = async || last_use().await.is_some();
    eventually("the call is noted", PATIENCE, is_noted).await;
    let by_call = last_use().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(last_use().await, by_call);
    assert!(near.cached(&asking(&text)).is_some());
    let is_reported = async || last_use().await > by_call;
    eventually("the hit is noted", PATIENCE, is_reported).await;
}
