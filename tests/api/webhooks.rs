//! Webhooks: what receivers get, in which order, and what becomes of events that they do not accept.

mod faults;

use keyward::config::{Settings, Url};
use keyward::webhooks::Endpoint;
use keyward_store::EventKind;
use keyward_testkit::{Message, PATIENCE, Receiver, WEBHOOK_SECRET, eventually, write_secret};
use serde_json::json;

use super::*;

const OTHER_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// A webhook that gets all events, with a secret in the data directory.
pub(super) fn endpoint(settings: &Settings, name: &str, url: &str) -> Endpoint {
    let secret_file = settings.data_dir.join(format!("{name}.secret"));
    write_secret(&secret_file, WEBHOOK_SECRET);
    Endpoint {
        name: name.to_owned(),
        url: Url::new(url).unwrap(),
        secret_file,
        events: EventKind::ALL.to_vec(),
    }
}

/// A service with the webhook `a`.
async fn start_with(receiver: &Receiver, change: impl FnOnce(&mut Settings)) -> (Local, Client) {
    let url = receiver.url();
    let change = |settings: &mut Settings| {
        settings.webhooks = vec![endpoint(settings, "a", &url)];
        change(settings);
    };
    let local = Local::start_with(change, |store| store).await;
    let client = local.client().await;
    (local, client)
}

async fn start() -> (Local, Client, Receiver) {
    let receiver = Receiver::start();
    let (local, client) = start_with(&receiver, |_| {}).await;
    (local, client, receiver)
}

/// Waits for so many messages, and returns them.
async fn received(receiver: &Receiver, count: usize) -> Vec<Message> {
    let has_all = || async { receiver.messages().len() >= count };
    eventually("all messages arrive", PATIENCE, has_all).await;
    let messages = receiver.messages();
    assert_eq!(messages.len(), count, "{messages:#?}");
    messages
}

/// Waits until so many failures of an event are noted: its pause counts from then.
async fn noted(local: &Local, failures: i64) {
    let mut hand = sqlite(&local.database()).await;
    let noted = async {
        loop {
            let found = sqlx::query_scalar("SELECT max(failures) FROM webhook_events");
            let found: i64 = found.fetch_one(&mut hand).await.unwrap();
            if found == failures {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noted).await.unwrap();
}

/// What a webhook waits for.
async fn status(client: &Client, name: &str) -> v1::Webhook {
    let listed = client.send(v1::ListWebhooksRequest {}).await.unwrap();
    let mut webhooks = listed.webhooks.into_iter();
    webhooks.find(|webhook| webhook.name == name).unwrap()
}

/// Waits until so many events wait for the webhook `a`, and so many are dead.
async fn settled(client: &Client, waiting: u64, dead: u64) {
    let is_so = || async {
        let webhook = status(client, "a").await;
        (webhook.waiting_count, webhook.dead_count) == (waiting, dead)
    };
    eventually("the events are settled", PATIENCE, is_so).await;
}

fn rfc3339(time: Option<prost_types::Timestamp>) -> serde_json::Value {
    use time::format_description::well_known::Rfc3339;
    let time = time.unwrap();
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap();
    json!(time.format(&Rfc3339).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_signed_and_in_order() {
    let (local, client, receiver) = start().await;
    let issued = client.send(all_fields("42")).await.unwrap();
    let key = issued.key.unwrap();
    received(&receiver, 1).await;
    let request = v1::RevokeRequest {
        reason: "a \"test\"".to_owned(),
        ..replacing(&key.key_id)
    };
    let revoked = client.send(request).await.unwrap();
    let (old, new) = (&revoked.revoked[0], revoked.replacement.clone().unwrap());
    let messages = received(&receiver, 3).await;
    for message in &messages {
        assert!(message.is_signed_by(WEBHOOK_SECRET) && !message.is_signed_by(OTHER_SECRET));
        assert!(message.head.starts_with("POST /hook HTTP/1.1"));
        assert_eq!(message.header("content-type"), "application/json");
        for secret in [&*issued.api_key, &*revoked.api_key, &*key.hint, "payments"] {
            assert!(!message.body.contains(secret), "{}", message.body);
        }
    }
    let of = |kind: &str, id: &str| {
        let wanted = (kind.to_owned(), id.to_owned());
        let mut found = messages.iter().filter(|message| message.about() == wanted);
        let message = found.next().unwrap();
        assert!(found.next().is_none());
        message.json()
    };
    let expected = json!({
        "type": "key.issued",
        "timestamp": rfc3339(key.create_time),
        "data": {
            "key_id": key.key_id,
            "account_id": "42",
            "name": "bot.1",
            "expire_time": rfc3339(key.expire_time),
        },
    });
    assert_eq!(of("key.issued", &key.key_id), expected);
    assert_eq!(
        messages[0].json(),
        expected,
        "the first event is sent first"
    );
    let expected = json!({
        "type": "key.revoked",
        "timestamp": rfc3339(old.revoke_time),
        "data": {
            "key_id": key.key_id,
            "account_id": "42",
            "name": "bot.1",
            "revoke_time": rfc3339(old.revoke_time),
            "reason": "a \"test\"",
            "replaced_by": new.key_id,
        },
    });
    assert_eq!(of("key.revoked", &key.key_id), expected);
    assert_eq!(of("key.issued", &new.key_id)["data"]["account_id"], "42");
    settled(&client, 0, 0).await;
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiries_and_refusals_arrive() {
    let receiver = Receiver::start();
    let (local, client) = start_with(&receiver, |settings| {
        settings.use_interval = Duration::from_secs(1);
    })
    .await;
    let request = v1::IssueRequest {
        ttl: seconds(3 * 86_400),
        ..slot("42")
    };
    let issued = client.send(request).await.unwrap();
    let key = issued.key.unwrap();
    let messages = received(&receiver, 2).await;
    let message = messages[1].json();
    assert_eq!(message["type"], "key.expiring");
    assert_eq!(message["data"]["expire_time"], rfc3339(key.expire_time));
    client.revoke(&key.key_id).await.unwrap();
    for _ in 0..3 {
        let verdict = client.verify(&issued.api_key).await.unwrap();
        assert_eq!(verdict, Verdict::Revoked);
    }
    let messages = received(&receiver, 4).await;
    let message = messages[3].json();
    assert_eq!(message["type"], "key.refused");
    assert!(
        message["data"]["refused_count"].as_u64().unwrap() > 0,
        "{message}"
    );
    assert!(message["data"]["refused_time"].is_string());
    settled(&client, 0, 0).await;
    local.app.stop().await;
}

/// The time for an attempt ends while the body comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_came_in_time_counts() {
    let receiver = Receiver::start();
    receiver.react(keyward_testkit::Reaction::Slow(Duration::from_millis(800)));
    let (local, client) = start_with(&receiver, |settings| {
        settings.webhook_timeout = Duration::from_secs(1);
    })
    .await;
    let tested = client.send(testing("a")).await.unwrap();
    assert_eq!((tested.status, tested.failure.as_str()), (200, ""));
    client.issue("42", "").await.unwrap();
    settled(&client, 0, 0).await;
    assert_eq!(receiver.messages().len(), 2);
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_is_used_at_once() {
    let (local, client, receiver) = start().await;
    client.issue("1", "").await.unwrap();
    received(&receiver, 1).await;
    let file = local.directory.path().join("a.secret");
    write_secret(&file, &format!("{OTHER_SECRET}\n{WEBHOOK_SECRET}\n"));
    client.issue("2", "").await.unwrap();
    let both = &received(&receiver, 2).await[1];
    assert!(both.is_signed_by(WEBHOOK_SECRET) && both.is_signed_by(OTHER_SECRET));
    write_secret(&file, OTHER_SECRET);
    client.issue("3", "").await.unwrap();
    let one = &received(&receiver, 3).await[2];
    assert!(!one.is_signed_by(WEBHOOK_SECRET) && one.is_signed_by(OTHER_SECRET));
    write_secret(&file, "nonsense");
    let tested = client.send(testing("a")).await.unwrap();
    assert!(
        tested.failure.contains("secret_file must contain"),
        "{tested:?}"
    );
    assert_eq!(tested.status, 0);
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_account_is_not_sent() {
    let (local, client, receiver) = start().await;
    receiver.react(keyward_testkit::Reaction::Status(500));
    client.issue("secret-account", "").await.unwrap();
    let first = &received(&receiver, 1).await[0];
    assert!(first.body.contains("secret-account"));
    let account_id = "secret-account".to_owned();
    let erased = client.send(v1::EraseAccountRequest { account_id }).await;
    let pseudonym = erased.unwrap().pseudonym;
    noted(&local, 1).await;
    receiver.react(keyward_testkit::Reaction::Status(200));
    pass(&local, 6).await;
    for message in &received(&receiver, 3).await[1..] {
        let data = &message.json()["data"];
        assert_eq!(
            (&data["account_id"], &data["name"]),
            (&json!(pseudonym), &json!(pseudonym))
        );
    }
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_what_the_receiver_answers() {
    let (local, client, receiver) = start().await;
    let tested = client.send(testing("a")).await.unwrap();
    assert_eq!((tested.status, tested.failure.as_str()), (204, ""));
    let message = &received(&receiver, 1).await[0];
    assert_eq!(message.id(), tested.event_id);
    assert_eq!(message.json()["type"], "keyward.test");
    assert!(message.is_signed_by(WEBHOOK_SECRET));
    receiver.react(keyward_testkit::Reaction::Status(403));
    assert_eq!(client.send(testing("a")).await.unwrap().status, 403);
    settled(&client, 0, 0).await;
    for outcome in [
        client.send(testing("b")).await.map(drop),
        client.send(replaying("b")).await.map(drop),
    ] {
        keyward_testkit::refused(outcome, Code::NotFound, "WEBHOOK_NOT_FOUND");
    }
    let both = v1::ReplayWebhookRequest {
        event_id: tested.event_id,
        start_time: Some(Default::default()),
        ..replaying("a")
    };
    keyward_testkit::invalid(client.send(both).await, "start_time");
    keyward_testkit::invalid(client.send(replaying("")).await, "name");
    let listed = status(&client, "a").await;
    let path_is_hidden = format!("{}/hook", listed.url) == receiver.url();
    assert!(path_is_hidden, "{listed:?}");
    assert_eq!(listed.events.len(), 4);
    local.app.stop().await;
}

/// A service without webhooks writes nothing for them, and one that has had some goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn events_wait_for_the_next_start() {
    let (local, client, receiver) = start().await;
    receiver.react(keyward_testkit::Reaction::Status(503));
    let (id, _) = client.issue("42", "").await.unwrap();
    let first = received(&receiver, 1).await.remove(0);
    let local = local.restart().await;
    let client = local.client().await;
    client.revoke(&id).await.unwrap();
    assert_eq!(
        status(&client, "a").await.url,
        "",
        "this instance does not have it"
    );
    receiver.react(keyward_testkit::Reaction::Status(204));
    let url = receiver.url();
    let local = local
        .restart_with(|settings| settings.webhooks = vec![endpoint(settings, "a", &url)])
        .await;
    pass(&local, 60).await;
    let messages = received(&receiver, 3).await;
    assert_eq!(messages[1].id(), first.id());
    assert_eq!(messages[2].about(), ("key.revoked".to_owned(), id));
    local.app.stop().await;
}
