//! The use of keys: every door notes it, no hit pays for it, and no stop, eviction or outage loses it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use keyward::config::Settings;
use keyward_core::key::Clock as _;
use keyward_proto::v1::{Consistency, State};
use keyward_store::{Intercepted, Interceptor, Result, Store, StoreError};
use keyward_testkit::http_get;
use parking_lot::Mutex;

use super::doors::{Received, by_auth, by_check, by_layer};
use super::foreign::{import, takes_uuids};
use super::*;

fn every_second(settings: &mut Settings) {
    settings.use_interval = Duration::from_secs(1);
}

/// The key, when its stored use fits.
async fn when(client: &Client, id: &str, fits: impl Fn(&v1::ApiKey) -> bool) -> v1::ApiKey {
    for _ in 0..400 {
        let key = client.get(id).await.unwrap();
        if fits(&key) {
            return key;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", client.get(id).await.unwrap());
}

fn is_used(key: &v1::ApiKey) -> bool {
    key.last_use_time.is_some()
}

/// Counts calls to the store, and fails those that write use on demand.
#[derive(Default)]
struct Calls {
    counts: Mutex<BTreeMap<&'static str, usize>>,
    is_away: Mutex<bool>,
}

impl Calls {
    fn of(&self, call: &str) -> usize {
        self.counts.lock().get(call).copied().unwrap_or_default()
    }
}

impl Interceptor for Calls {
    async fn intercept<T: Send>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        *self.counts.lock().entry(call).or_default() += 1;
        if call == "note_uses" && *self.is_away.lock() {
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        work.await
    }
}

async fn start_counting(change: impl FnOnce(&mut Settings)) -> (Local, Client, Arc<Calls>) {
    let calls = Arc::<Calls>::default();
    let handle = Arc::clone(&calls);
    let count = |store| Arc::new(Intercepted::new(store, handle)) as Arc<dyn Store>;
    let local = Local::start_with(change, count).await;
    let client = local.client().await;
    (local, client, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_is_shown_wherever_the_key_is() {
    let local = Local::start_with(every_second, |store| store).await;
    let client = local.client().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    assert!(!is_used(&client.get(&id).await.unwrap()));
    let before = local.clock.wall().as_micros() / 1_000_000;
    assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    let shown = when(&client, &id, is_used).await;
    let seconds = shown.last_use_time.unwrap().seconds;
    assert!((before - 1..=before + 5).contains(&seconds), "{seconds}");
    assert_eq!((shown.refused_count, shown.last_refused_time), (0, None));
    assert_eq!(
        client.list("42").await.unwrap(),
        std::slice::from_ref(&shown)
    );
    let issued = client.send(slot("42")).await.unwrap();
    assert_eq!(issued.key.as_ref(), Some(&shown));
    let exported = client.send(v1::ExportKeysRequest::default()).await.unwrap();
    assert_eq!(exported.keys, std::slice::from_ref(&shown));
    let updated = client.disable(&id, true).await.unwrap();
    assert_eq!(updated.key.unwrap().last_use_time, shown.last_use_time);
    let revoked = client.revoke(&id).await.unwrap();
    assert_eq!(revoked.revoked[0].last_use_time, shown.last_use_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_accepted_key_is_used() {
    let local = Local::start_with(every_second, |store| store).await;
    let client = local.client().await;
    let (unfit, unfit_key) = client.issue("1", "").await.unwrap();
    let (dead, dead_key) = client.issue("2", "").await.unwrap();
    client.revoke(&dead).await.unwrap();
    let unscoped = v1::VerifyRequest {
        required_scopes: vec!["x".to_owned()],
        ..verifying(&unfit_key)
    };
    let verified = client.send(unscoped).await.unwrap();
    assert_eq!(verified.verdict(), Verdict::InsufficientScope);
    assert_eq!(client.verify(&dead_key).await.unwrap(), Verdict::Revoked);
    let dead = when(&client, &dead, |key| key.refused_count > 0).await;
    assert_eq!((dead.refused_count, dead.last_use_time), (1, None));
    assert!(dead.last_refused_time.is_some());
    let unfit = client.get(&unfit).await.unwrap();
    assert_eq!((unfit.refused_count, unfit.last_use_time), (0, None));
}

/// Asks one of the doors for HTTP requests for a key, and nothing else.
async fn ask_door(local: &Local, door: &str, key: &str) {
    let received = Received {
        headers: vec![("apikey", key.to_owned())],
        peer: "192.0.2.1",
        scopes: &[],
    };
    let said = match door {
        "layer" => by_layer(local, &received).await,
        "auth" => by_auth(local, &received).await,
        "check" => by_check(local, &received).await,
        other => panic!("there is no door {other}"),
    };
    assert!([200, 401].contains(&said.status), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_notes_use_and_refusals() {
    let local = Local::start_with(every_second, |store| store).await;
    let client = local.client().await;
    // Each key is asked for at one door alone.
    let doors = ["gRPC", "strong", "batch", "JSON", "layer", "auth", "check"];
    let mut keys = Vec::new();
    for door in doors {
        let live = client.issue("42", &format!("live-{door}")).await.unwrap();
        let dead = client.issue("42", &format!("dead-{door}")).await.unwrap();
        client.revoke(&dead.0).await.unwrap();
        for (_, text) in [&live, &dead] {
            match door {
                "gRPC" => drop(client.verify(text).await.unwrap()),
                "strong" => drop(client.verify_strongly(text).await.unwrap()),
                "batch" => {
                    let requests = vec![verifying(text)];
                    let batch = v1::VerifyBatchRequest { requests };
                    drop(client.send(batch).await.unwrap());
                }
                "JSON" => drop(verify_by_json(&local, text).await),
                _ => ask_door(&local, door, text).await,
            }
        }
        keys.push((door, live.0, dead.0));
    }
    for (door, live, dead) in keys {
        let live = when(&client, &live, is_used).await;
        assert_eq!(live.refused_count, 0, "{door}");
        let dead = when(&client, &dead, |key| key.refused_count > 0).await;
        assert_eq!((dead.refused_count, is_used(&dead)), (1, false), "{door}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_calls_no_store_and_a_key_is_written_once_in_an_interval() {
    let (_local, client, calls) = start_counting(every_second).await;
    let (id, key) = client.issue("42", "").await.unwrap();
    client.verify(&key).await.unwrap();
    when(&client, &id, is_used).await;
    let reads = calls.of("find_key");
    let writes = calls.of("note_uses");
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
    }
    assert_eq!(calls.of("find_key"), reads);
    let writes = calls.of("note_uses") - writes;
    assert!((1..=4).contains(&writes), "{writes} writes in 3 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_writes_what_is_left() {
    let (local, client) = start().await;
    let mut keys = Vec::new();
    for number in 0..30 {
        let (id, key) = client.issue(&number.to_string(), "").await.unwrap();
        client.verify(&key).await.unwrap();
        keys.push((id, key));
    }
    client.revoke(&keys[0].0).await.unwrap();
    for _ in 0..5 {
        client.verify(&keys[0].1).await.unwrap();
    }
    drop(client);
    let local = local.restart().await;
    let client = local.client().await;
    for (id, _) in &keys {
        assert!(is_used(&client.get(id).await.unwrap()), "{id}");
    }
    assert_eq!(client.get(&keys[0].0).await.unwrap().refused_count, 5);
}

/// Memory for a few keys, and none for the use of those that it loses.
#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_key_keeps_its_use() {
    let few = |settings: &mut Settings| settings.max_cached_bytes = 8 << 10;
    let local = Local::start_with(few, |store| store).await;
    let client = local.client().await;
    let mut ids = Vec::new();
    for number in 0..150 {
        let (id, key) = client.issue(&number.to_string(), "").await.unwrap();
        assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
        ids.push(id);
    }
    drop(client);
    let local = local.restart().await;
    let client = local.client().await;
    for id in ids {
        assert!(is_used(&client.get(&id).await.unwrap()), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn use_is_kept_while_the_store_is_away_and_disturbs_nothing() {
    let (local, client, calls) = start_counting(every_second).await;
    let (id, key) = client.issue("42", "").await.unwrap();
    let (dead, dead_key) = client.issue("43", "").await.unwrap();
    client.revoke(&dead).await.unwrap();
    *calls.is_away.lock() = true;
    for _ in 0..3 {
        assert_eq!(client.verify(&key).await.unwrap(), Verdict::Valid);
        assert_eq!(client.verify(&dead_key).await.unwrap(), Verdict::Revoked);
    }
    while calls.of("note_uses") < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (other, _) = client.issue("44", "").await.unwrap();
    client.revoke(&other).await.unwrap();
    assert!(!is_used(&client.get(&id).await.unwrap()));
    let side = local.app.http_address().unwrap();
    assert!(http_get(side, "/readyz").await.starts_with("HTTP/1.1 200"));
    *calls.is_away.lock() = false;
    when(&client, &id, is_used).await;
    let dead = when(&client, &dead, |key| key.refused_count > 0).await;
    assert_eq!(dead.refused_count, 3, "each once");
    let metrics = http_get(side, "/metrics").await;
    for line in [
        "keyward_key_uses_total{outcome=\"dropped\"} 0",
        "keyward_key_use_resolution_seconds 1.0",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_key_is_named_and_nothing_else_of_it() {
    let (local, client) = start().await;
    let revoked = client.issue("1", "").await.unwrap();
    client.revoke(&revoked.0).await.unwrap();
    let disabled = client.issue("2", "").await.unwrap();
    client.disable(&disabled.0, true).await.unwrap();
    let expired = client.send(living("3", 600)).await.unwrap();
    let expired = (expired.key.unwrap().key_id, expired.api_key);
    pass(&local, 601).await;
    for (key, verdict) in [
        (revoked, Verdict::Revoked),
        (disabled, Verdict::Disabled),
        (expired, Verdict::Expired),
    ] {
        for consistency in [
            Consistency::Default,
            Consistency::Default,
            Consistency::Strong,
        ] {
            let request = v1::VerifyRequest {
                consistency: consistency.into(),
                ..verifying(&key.1)
            };
            let expected = v1::VerifyResponse {
                verdict: verdict.into(),
                key_id: key.0.clone(),
                ..Default::default()
            };
            assert_eq!(client.send(request).await.unwrap(), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_is_used_under_its_own_name() {
    const TEXT: &str = "2e4a1d1e-6f0c-4d2a-9a2f-3a1e5b7c9d00";
    let change = |settings: &mut Settings| {
        takes_uuids(settings);
        every_second(settings);
    };
    let local = Local::start_with(change, |store| store).await;
    let client = local.client().await;
    let ids = [
        import(&local, TEXT, 1, 0).await,
        import(&local, TEXT, 2, 1).await,
    ];
    assert_eq!(client.verify(TEXT).await.unwrap(), Verdict::Valid);
    for id in &ids {
        when(&client, id, is_used).await;
    }
    // The second one decides.
    client.revoke(&ids[1]).await.unwrap();
    let verified = client.send(verifying(TEXT)).await.unwrap();
    assert_eq!(
        (verified.verdict(), &verified.key_id),
        (Verdict::Revoked, &ids[1])
    );
    when(&client, &ids[1], |key| key.refused_count == 1).await;
    assert_eq!(client.get(&ids[0]).await.unwrap().refused_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_sees_how_often_the_old_key_was_tried() {
    let local = Local::start_with(every_second, |store| store).await;
    let (client, issuer) = (local.client().await, issuer(&local).await);
    let (old, old_key) = client.issue("42", "").await.unwrap();
    assert_eq!(client.send(slot("42")).await.unwrap().predecessor, None);
    let replaced = client.send(replacing(&old)).await.unwrap();
    for _ in 0..14 {
        assert_eq!(client.verify(&old_key).await.unwrap(), Verdict::Revoked);
    }
    let expected = when(&client, &old, |key| key.refused_count == 14).await;
    let issued = issuer.send(slot("42")).await.unwrap();
    assert!(!issued.created);
    assert_eq!(issued.predecessor, Some(expected));
    assert_eq!(
        issued.key.unwrap().key_id,
        replaced.replacement.unwrap().key_id
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_account_leaves_no_times_of_use() {
    let local = Local::start_with(every_second, |store| store).await;
    let client = local.client().await;
    let (id, key) = client.issue("42", "").await.unwrap();
    client.verify(&key).await.unwrap();
    when(&client, &id, is_used).await;
    let account_id = "42".to_owned();
    let erasing = v1::EraseAccountRequest { account_id };
    client.send(erasing).await.unwrap();
    let key = client.get(&id).await.unwrap();
    assert_eq!((key.state(), is_used(&key)), (State::Revoked, false));
}
