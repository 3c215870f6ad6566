//! Converts the messages about webhooks.

use keyward_proto::v1;

use super::audit::calendar;
use super::{Checked, key_id, time};
use crate::service::KnownWebhook;
use crate::webhooks::Answer;
use keyward_core::key::{FieldError, KeyId, SlotName};
use keyward_store::Replayed;

pub(in crate::grpc) fn webhook(known: KnownWebhook) -> v1::Webhook {
    let status = known.status;
    let events = status.webhook.event_names().into_iter();
    v1::Webhook {
        events: events.map(str::to_owned).collect(),
        name: status.webhook.name,
        url: known.url.unwrap_or_default(),
        waiting_count: status.waiting,
        oldest_time: status.oldest.map(time),
        dead_count: status.dead,
        gone: status.is_gone,
    }
}

fn name(text: String) -> Checked<String> {
    SlotName::new("name", text).map(|name| name.to_string())
}

pub(in crate::grpc) fn webhook_to_test(request: v1::TestWebhookRequest) -> Checked<String> {
    name(request.name)
}

pub(in crate::grpc) fn webhook_test((event, answer): (KeyId, Answer)) -> v1::TestWebhookResponse {
    let (status, failure) = match answer {
        Answer::Status(status, _) => (status.as_u16().into(), String::new()),
        Answer::None(reason) => (0, reason),
    };
    v1::TestWebhookResponse {
        event_id: event.to_string(),
        status,
        failure,
    }
}

pub(in crate::grpc) fn replay(request: v1::ReplayWebhookRequest) -> Checked<(String, Replayed)> {
    let events = match (request.event_id.as_str(), request.start_time) {
        ("", None) => Replayed::Dead,
        ("", Some(start)) => Replayed::Since(calendar("start_time", start)?),
        (id, None) => Replayed::Message(*key_id("event_id", id)?.as_bytes()),
        (_, Some(_)) => {
            let reason = "cannot be combined with event_id; send one of them";
            return Err(FieldError::new("start_time", reason));
        }
    };
    Ok((name(request.name)?, events))
}
