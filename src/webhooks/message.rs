//! The bodies of messages. They hold no secret and no metadata of a key.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use keyward_core::key::{KeyRecord, KeyUse, Timestamp};
use keyward_store::{ClaimedEvent, EventKind};

/// The body of an event. `key` is the present record of its key, unless somebody has deleted it.
pub(super) fn body(event: &ClaimedEvent, key: Option<&KeyRecord>, usage: &KeyUse) -> String {
    let mut data = json!({
        "key_id": event.key.to_string(),
        "account_id": key.map(|key| key.account.as_str()),
        "name": key.map(|key| key.name.as_str()),
    });
    let at = json!(event.at.map(rfc3339));
    match event.kind {
        EventKind::Issued | EventKind::Expiring => data["expire_time"] = at,
        EventKind::Revoked => {
            let reason = key.and_then(|key| key.revoke_reason.as_ref());
            let successor = key.and_then(|key| key.replaced_by);
            data["revoke_time"] = at;
            data["reason"] = json!(reason.map(|reason| reason.as_str()));
            data["replaced_by"] = json!(successor.map(|id| id.to_string()));
        }
        EventKind::Refused => {
            data["refused_time"] = at;
            data["refused_count"] = json!(usage.refused);
        }
    }
    message(event.kind.name(), event.time, data)
}

/// The body of a test.
pub(super) fn test(now: Timestamp) -> String {
    message("keyward.test", now, json!({}))
}

fn message(kind: &str, time: Timestamp, data: Value) -> String {
    json!({ "type": kind, "timestamp": rfc3339(time), "data": data }).to_string()
}

/// A time as text. A store has no time outside the calendar.
pub(crate) fn rfc3339(time: Timestamp) -> Option<String> {
    let nanos = i128::from(time.as_micros()) * 1_000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
    time.format(&Rfc3339).ok()
}
