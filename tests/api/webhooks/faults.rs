//! Receivers that refuse, are slow, answer wrongly or are away.

use keyward_testkit::{Authority, Reaction, now};

use super::*;

const REDIRECT: &str =
    "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/other\r\ncontent-length: 0\r\n\r\n";
const LATER: &str = "HTTP/1.1 503 X\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_repeated_with_the_same_id_and_signed_anew() {
    for reaction in [
        Reaction::Status(500),
        Reaction::Status(404),
        Reaction::Answer(REDIRECT.to_owned()),
        Reaction::Answer("nonsense\r\n\r\n".to_owned()),
        Reaction::Close,
        Reaction::Silence,
    ] {
        let (local, client, receiver) = start().await;
        receiver.react(reaction.clone());
        let (id, _) = client.issue("42", "").await.unwrap();
        client.revoke(&id).await.unwrap();
        received(&receiver, 1).await;
        noted(&local, 1).await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(
            receiver.messages().len(),
            1,
            "{reaction:?}: the next attempt has a pause"
        );
        receiver.react(Reaction::Status(200));
        pass(&local, 6).await;
        let messages = received(&receiver, 3).await;
        let [first, second, third] = &messages[..] else {
            unreachable!("there are three")
        };
        assert_eq!(
            (first.id(), &first.body),
            (second.id(), &second.body),
            "{reaction:?}"
        );
        let timestamp = |message: &Message| message.header("webhook-timestamp").to_owned();
        assert_ne!(timestamp(first), timestamp(second));
        assert!(second.is_signed_by(WEBHOOK_SECRET) && third.is_signed_by(WEBHOOK_SECRET));
        assert_eq!(
            third.about(),
            ("key.revoked".to_owned(), id),
            "it has waited"
        );
        settled(&client, 0, 0).await;
        local.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_cut_and_its_status_counts() {
    let (local, client, receiver) = start().await;
    receiver.react(Reaction::Endless);
    for account in ["1", "2", "3"] {
        client.issue(account, "").await.unwrap();
    }
    settled(&client, 0, 0).await;
    assert_eq!(receiver.messages().len(), 3);
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_can_ask_for_a_pause() {
    let (local, client, receiver) = start().await;
    receiver.react(Reaction::Answer(LATER.to_owned()));
    client.issue("42", "").await.unwrap();
    received(&receiver, 1).await;
    noted(&local, 1).await;
    pass(&local, 3_000).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    received(&receiver, 1).await;
    receiver.react(Reaction::Status(200));
    pass(&local, 700).await;
    received(&receiver, 2).await;
    settled(&client, 0, 0).await;
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_event_blocks_nothing_and_can_be_replayed() {
    let (local, client, receiver) = start().await;
    receiver.react(Reaction::Status(500));
    let (id, _) = client.issue("42", "").await.unwrap();
    for attempt in 1..=8 {
        received(&receiver, attempt).await;
        noted(&local, i64::try_from(attempt).unwrap()).await;
        settled(&client, u64::from(attempt < 8), u64::from(attempt == 8)).await;
        // Another attempt is due after each of these times, and none is claimed any more.
        pass(&local, 12 * 3_600).await;
    }
    receiver.react(Reaction::Status(200));
    client.revoke(&id).await.unwrap();
    let last = received(&receiver, 9).await.remove(8);
    assert_eq!(last.about(), ("key.revoked".to_owned(), id.clone()));
    let dead = receiver.messages()[0].clone();
    let replayed = client.send(replaying("a")).await.unwrap();
    assert_eq!(replayed.replayed_count, 1);
    let again = received(&receiver, 10).await.remove(9);
    assert_eq!((again.id(), &again.body), (dead.id(), &dead.body));
    settled(&client, 0, 0).await;
    let one = v1::ReplayWebhookRequest {
        event_id: dead.id().to_owned(),
        ..replaying("a")
    };
    assert_eq!(client.send(one).await.unwrap().replayed_count, 1);
    received(&receiver, 11).await;
    settled(&client, 0, 0).await;
    let all = v1::ReplayWebhookRequest {
        start_time: Some(prost_types::Timestamp::default()),
        ..replaying("a")
    };
    assert_eq!(client.send(all).await.unwrap().replayed_count, 2);
    let messages = received(&receiver, 13).await;
    assert_eq!(
        messages[12].about(),
        ("key.revoked".to_owned(), id),
        "in order"
    );
    let request = v1::ListAuditEventsRequest {
        action: v1::AuditAction::WebhookReplay.into(),
        ..Default::default()
    };
    let events = client.send(request).await.unwrap().events;
    let events = events.iter();
    let mut recorded: Vec<_> = events
        .map(|event| (event.caller.as_str(), event.detail.as_str()))
        .collect();
    recorded.sort_unstable();
    let one = format!("a event {}", dead.id());
    let since = "a since 1970-01-01T00:00:00Z";
    assert_eq!(
        recorded,
        [("admin", "a dead"), ("admin", &one), ("admin", since)]
    );
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_a_receiver_that_is_gone() {
    let (local, client, receiver) = start().await;
    receiver.react(Reaction::Status(410));
    client.issue("1", "").await.unwrap();
    received(&receiver, 1).await;
    let is_gone = || async { status(&client, "a").await.gone };
    eventually("the webhook is off", PATIENCE, is_gone).await;
    receiver.react(Reaction::Status(200));
    client.issue("2", "").await.unwrap();
    pass(&local, 24 * 3_600).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    received(&receiver, 1).await;
    settled(&client, 2, 0).await;
    client.send(replaying("a")).await.unwrap();
    received(&receiver, 3).await;
    settled(&client, 0, 0).await;
    assert!(!status(&client, "a").await.gone);
    local.app.stop().await;
}

/// One webhook without an answer and one that refuses connections delay neither the third nor a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_delays_no_other_and_no_call() {
    let (silent, healthy) = (Receiver::start(), Receiver::start());
    silent.react(Reaction::Silence);
    let (silent_url, url) = (silent.url(), healthy.url());
    let change = move |settings: &mut Settings| {
        settings.webhooks = vec![
            endpoint(settings, "silent", &silent_url),
            endpoint(settings, "closed", "http://127.0.0.1:1/"),
            endpoint(settings, "a", &url),
        ];
    };
    let local = Local::start_with(change, |store| store).await;
    let client = local.client().await;
    let mut revokes = Vec::new();
    for number in 0..100 {
        let (id, _) = client.issue("42", &number.to_string()).await.unwrap();
        let begun = now();
        client.revoke(&id).await.unwrap();
        revokes.push(begun.elapsed());
    }
    let mut reads = Vec::new();
    let begun = now();
    while healthy.messages().len() < 200 {
        assert!(begun.elapsed() < PATIENCE, "the third has all events");
        let asked = now();
        client.list("42").await.unwrap();
        reads.push(asked.elapsed());
    }
    let waited = begun.elapsed();
    println!("200 events arrived {waited:?} after the last change");
    for (calls, times) in [("Revoke", revokes), ("List", reads)] {
        let slowest = times.into_iter().max().unwrap_or_default();
        println!("slowest {calls}: {slowest:?}");
        assert!(slowest < Duration::from_secs(2), "{calls}: {slowest:?}");
    }
    assert!(status(&client, "silent").await.waiting_count >= 184);
    assert_eq!(status(&client, "closed").await.waiting_count, 200);
    settled(&client, 0, 0).await;
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let receiver = Receiver::start_tls(&Authority::new().sign(&["127.0.0.1", "localhost"]));
    let (local, client) = start_with(&receiver, |_| {}).await;
    let tested = client.send(testing("a")).await.unwrap();
    assert_eq!(tested.status, 0);
    assert!(tested.failure.contains("UnknownIssuer"), "{tested:?}");
    client.issue("42", "").await.unwrap();
    settled(&client, 1, 0).await;
    assert!(receiver.messages().is_empty());
    local.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_does_not_start_with_a_wrong_secret() {
    let directory = tempfile::tempdir().unwrap();
    for (secret, mode, reason) in [
        (None, 0, "cannot be read"),
        (Some("whsec_AAAA"), 0o600, "must contain whsec_"),
        (Some(WEBHOOK_SECRET), 0o644, "every user of this machine"),
    ] {
        let mut settings = keyward_testkit::settings_in(directory.path());
        let mut webhook = endpoint(&settings, "a", "http://127.0.0.1:1/");
        webhook.secret_file = directory.path().join("of-its-own");
        if let Some(secret) = secret {
            use std::os::unix::fs::PermissionsExt as _;
            write_secret(&webhook.secret_file, secret);
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&webhook.secret_file, mode).unwrap();
        }
        settings.webhooks = vec![webhook];
        let started = keyward::app::App::start(&settings, keyward::app::Parts::system()).await;
        let error = started.err().unwrap().to_string();
        assert!(
            error.contains("webhook a: secret_file") && error.contains(reason),
            "{error}"
        );
        assert!(!error.contains(WEBHOOK_SECRET));
    }
}
