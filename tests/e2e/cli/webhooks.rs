//! The verbs `webhook`: list, test, replay.

use keyward_testkit::{PATIENCE, Reaction, Receiver, eventually};
use serde_json::Value;

use super::harness::{Service, text};

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_listed_tested_and_replayed() {
    let (directory, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let webhooks = receiver.webhook("a", directory.path());
    let webhooks = webhooks.replace("}]", r#", events = ["key.issued"]}]"#);
    let service = Service::start_with(&[("KEYWARD_WEBHOOKS", &webhooks)]);

    let tested = service.json("TestWebhookResponse", &["webhook", "test", "a"], "");
    assert_eq!(tested["status"], 204);
    assert_eq!(receiver.messages()[0].id(), text(&tested["event_id"]));
    receiver.react(Reaction::Status(500));
    let refused = service.call(&["webhook", "test", "a"], "");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.out.contains("500") && refused.err.contains("must answer with a status 2xx"));
    let unknown = service.call(&["webhook", "test", "b"], "").refused(1);
    assert!(
        unknown.contains("no webhook of this instance has this name"),
        "{unknown}"
    );

    service.issue("42");
    let failed = || async { receiver.messages().len() == 3 };
    eventually("the event is tried", PATIENCE, failed).await;
    let listed = service.json("ListWebhooksResponse", &["webhook", "list"], "");
    let webhook = &listed["webhooks"][0];
    assert_eq!(webhook["waiting_count"], 1);
    assert_eq!(
        webhook["url"],
        Value::from(format!("http://{}", receiver.address))
    );
    assert_eq!(webhook["events"], serde_json::json!(["key.issued"]));
    let shown = service.call(&["webhook", "list"], "").done();
    assert!(
        shown.starts_with("NAME ") && shown.contains(" key.issued "),
        "{shown}"
    );
    receiver.react(Reaction::Status(200));
    let event = receiver.messages()[2].id().to_owned();
    let replay = ["webhook", "replay", "a", "--event", &event];
    let replayed = service.json("ReplayWebhookResponse", &replay, "");
    assert_eq!(replayed["replayed_count"], 1);
    let arrives = || async { receiver.messages().len() == 4 };
    eventually("the event arrives", PATIENCE, arrives).await;
    let since = [
        "webhook",
        "replay",
        "a",
        "--since",
        "2020-01-01T00:00:00Z",
        "--dead",
    ];
    service.call(&since, "").refused(64);
    service.call(&since[..5], "").done();
}
