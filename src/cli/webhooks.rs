//! The verbs about webhooks.

use keyward_proto::v1::{
    ListWebhooksRequest, ReplayWebhookRequest, TestWebhookRequest, TestWebhookResponse, Webhook,
};
use serde_json::{Value, json};

use super::args::WebhookCall;
use super::client::Service;
use super::render::{Field as _, Report, present};
use super::{DONE, FAILED, Failure, input};

pub(super) async fn call(call: &WebhookCall, service: &Service) -> Result<Report, Failure> {
    Ok(match call {
        WebhookCall::List => {
            let response = service.call(ListWebhooksRequest {}).await?;
            listed(&response.webhooks)
        }
        WebhookCall::Test { name } => {
            let name = name.clone();
            tested(&service.call(TestWebhookRequest { name }).await?)
        }
        WebhookCall::Replay(args) => {
            let event = args.event.as_deref();
            let event_id = event.map(|id| input::id("--event", id, "")).transpose()?;
            let request = ReplayWebhookRequest {
                name: args.name.clone(),
                event_id: event_id.unwrap_or_default(),
                start_time: args.since,
            };
            replayed(service.call(request).await?.replayed_count)
        }
    })
}

fn listed(webhooks: &[Webhook]) -> Report {
    let columns = [
        "name",
        "url",
        "events",
        "waiting_count",
        "oldest_time",
        "dead_count",
        "gone",
    ];
    let rows = webhooks.iter().map(object).collect();
    Report::default().table("webhooks", &columns, rows)
}

fn object(webhook: &Webhook) -> Value {
    json!({
        "name": webhook.name,
        "url": webhook.url.json(),
        "events": webhook.events,
        "waiting_count": webhook.waiting_count,
        "oldest_time": webhook.oldest_time.json(),
        "dead_count": webhook.dead_count,
        "gone": webhook.gone,
    })
}

fn tested(response: &TestWebhookResponse) -> Report {
    let is_delivered = (200..300).contains(&response.status);
    let status = Some(response.status).filter(|status| *status != 0);
    let report = Report::default().fields(vec![
        ("event_id", response.event_id.json()),
        ("status", json!(status)),
        ("failure", response.failure.json()),
    ]);
    Report {
        exit: if is_delivered { DONE } else { FAILED },
        note: (!is_delivered).then(|| match present(&response.failure) {
            Some(_) => "the receiver did not answer".to_owned(),
            None => "the receiver refused the event: it must answer with a status 2xx".to_owned(),
        }),
        ..report
    }
}

fn replayed(count: u64) -> Report {
    Report {
        done: Some(format!("{count} events are sent again")),
        ..Report::default().fields(vec![("replayed_count", count.json())])
    }
}
