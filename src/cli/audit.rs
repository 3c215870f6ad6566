//! The verbs about the audit: list and export its events, check its chain.

use std::collections::HashMap;
use std::time::Duration;

use keyward_proto::v1::{
    AuditAction, AuditEvent, AuditFault, AuditFaultKind, AuditOutcome, ListAuditEventsRequest,
    VerifyAuditRequest, VerifyAuditResponse,
};
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::args::{AuditExport, AuditFilter, AuditList, AuditVerify};
use super::client::Service;
use super::render::{Field as _, Report, enum_name, present};
use super::{Console, FAILED, Failure};

/// The most events of a page of an export.
const PAGE: i32 = 1_000;
/// How often a following export asks for new events.
const POLL: Duration = Duration::from_secs(2);
/// How long an event may appear after its time: no transaction takes longer.
const LATE_SECONDS: i64 = 150;

pub(super) async fn list(args: &AuditList, service: &Service) -> Result<Report, Failure> {
    let request = ListAuditEventsRequest {
        newest_first: !args.oldest_first,
        page_size: args.page_size,
        page_token: args.page_token.clone(),
        ..request(&args.filter)
    };
    let page = service.call(request).await?;
    let columns = [
        "time",
        "action",
        "caller",
        "key_id",
        "account_id",
        "client_address",
        "peer_address",
        "detail",
    ];
    let events = page.events.iter().map(object).collect();
    Ok(Report::default()
        .table("events", &columns, events)
        .next_page(&page.next_page_token))
}

/// Prints each event once. An event can appear after younger ones, so a following export asks again for
/// those of the last minutes.
pub(super) async fn export(
    console: &mut Console<'_>,
    args: &AuditExport,
    service: &Service,
) -> Result<Report, Failure> {
    let mut request = request(&args.filter);
    let mut printed: HashMap<i64, i64> = HashMap::new();
    loop {
        let mut newest = None;
        loop {
            let page = service.call(request.clone()).await?;
            let mut lines = String::new();
            for event in &page.events {
                let seconds = event.time.map_or(0, |time| time.seconds);
                newest = newest.max(Some(seconds));
                if !args.follow || printed.insert(event.event_id, seconds).is_none() {
                    lines += &format!("{}\n", object(event));
                }
            }
            write(console, &lines)?;
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
            // Only events that may be asked for again are remembered.
            forget_before(&mut printed, newest);
        }
        if !args.follow {
            // All is written.
            return Ok(Report::default());
        }
        forget_before(&mut printed, newest);
        if let Some(seconds) = newest {
            let seconds = seconds - LATE_SECONDS;
            let start = request.start_time.map_or(seconds, |start| start.seconds);
            request.start_time = Some(Timestamp {
                seconds: start.max(seconds),
                ..request
                    .start_time
                    .filter(|_| start > seconds)
                    .unwrap_or_default()
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn forget_before(printed: &mut HashMap<i64, i64>, newest: Option<i64>) {
    if let Some(newest) = newest {
        printed.retain(|_, seconds| *seconds >= newest - LATE_SECONDS);
    }
}

fn write(console: &mut Console<'_>, lines: &str) -> Result<(), Failure> {
    let written = console
        .out
        .write_all(lines.as_bytes())
        .and_then(|()| console.out.flush());
    written.map_err(|error| Failure::Failed(format!("cannot write the output: {error}")))
}

pub(super) async fn verify(args: &AuditVerify, service: &Service) -> Result<Report, Failure> {
    let mut request = VerifyAuditRequest {
        head: args.head.clone(),
        page_token: String::new(),
    };
    let mut whole = VerifyAuditResponse::default();
    loop {
        let part = service.call(request.clone()).await?;
        request.page_token.clone_from(&part.next_page_token);
        whole = VerifyAuditResponse {
            seals: whole.seals + part.seals,
            events: whole.events + part.events,
            erased_events: whole.erased_events + part.erased_events,
            ..part
        };
        if request.page_token.is_empty() {
            return Ok(verified(&whole, &args.head));
        }
    }
}

fn verified(found: &VerifyAuditResponse, head: &str) -> Report {
    let mut report = Report::default().fields(vec![
        ("seals", json!(found.seals)),
        ("events", json!(found.events)),
        ("erased_events", json!(found.erased_events)),
        ("unsealed_events", json!(found.unsealed_events)),
        ("head", found.head.json()),
        ("head_time", found.head_time.json()),
    ]);
    let is_empty = present(&found.head).is_none();
    report.exit = match (&found.fault, is_empty) {
        (None, false) => super::DONE,
        _ => FAILED,
    };
    report.note = match &found.fault {
        Some(fault) => Some(explain(fault)),
        None if is_empty => Some("the audit has no seal, so nothing is proven".to_owned()),
        None if head.is_empty() => Some(
            "no sealed event was changed. Without --head, nothing shows whether the last seals were \
             removed: keep the head elsewhere"
                .to_owned(),
        ),
        None => Some("no sealed event was changed, and the audit contains the head".to_owned()),
    };
    report.next_page("").message(
        "fault",
        found.fault.as_ref().map(|fault| {
            vec![
                ("kind", json!(kind(fault))),
                ("event_id", number(fault.event_id)),
                ("position", number(fault.position)),
                ("seal", number(fault.seal)),
            ]
        }),
    )
}

fn kind(fault: &AuditFault) -> &'static str {
    let kind = AuditFaultKind::try_from(fault.kind).map(|kind| kind.as_str_name());
    enum_name(kind, "AUDIT_FAULT_KIND_")
}

/// A number that is 0 if it is absent.
fn number(number: i64) -> Value {
    json!(Some(number).filter(|number| *number != 0))
}

fn explain(fault: &AuditFault) -> String {
    let AuditFault {
        event_id,
        position,
        seal,
        ..
    } = fault;
    match AuditFaultKind::try_from(fault.kind) {
        Ok(AuditFaultKind::EventAltered) => {
            format!("event {event_id} was altered after seal {seal} covered it")
        }
        Ok(AuditFaultKind::EventRemoved) => {
            format!("the event in place {position} of seal {seal} was removed")
        }
        Ok(AuditFaultKind::EventInserted) => {
            format!("event {event_id} was put between sealed events")
        }
        Ok(AuditFaultKind::SealAltered) => format!("seal {seal} was altered"),
        Ok(AuditFaultKind::SealRemoved) => format!("seal {seal} was removed"),
        Ok(AuditFaultKind::BeginningCut) => {
            format!("the seals before seal {seal} were removed, but not by trimming")
        }
        Ok(AuditFaultKind::KeyMissing) => {
            format!("the keyring lacks the audit key of seal {seal}: restore its file")
        }
        Ok(AuditFaultKind::EndCut) => {
            format!("the audit ends before seal {seal}: its last events were removed")
        }
        Ok(AuditFaultKind::HeadDiffers) => {
            format!("seal {seal} is another one: the audit's end was replaced")
        }
        Ok(AuditFaultKind::Unspecified) | Err(_) => "the audit is not what was sealed".to_owned(),
    }
}

fn request(filter: &AuditFilter) -> ListAuditEventsRequest {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    ListAuditEventsRequest {
        account_id: text(&filter.account),
        key_id: text(&filter.key_id),
        caller: text(&filter.caller),
        action: filter.action.unwrap_or_default().into(),
        start_time: filter.start_time,
        end_time: filter.end_time,
        newest_first: false,
        page_size: PAGE,
        page_token: String::new(),
    }
}

/// An event as a JSON object.
fn object(event: &AuditEvent) -> Value {
    let action = AuditAction::try_from(event.action).map(|action| action.as_str_name());
    let outcome = AuditOutcome::try_from(event.outcome).map(|outcome| outcome.as_str_name());
    json!({
        "event_id": event.event_id,
        "time": event.time.json(),
        "action": enum_name(action, "AUDIT_ACTION_"),
        "outcome": enum_name(outcome, "AUDIT_OUTCOME_"),
        "caller": event.caller.json(),
        "caller_token_id": event.caller_token_id.json(),
        "key_id": event.key_id.json(),
        "token_id": event.token_id.json(),
        "account_id": event.account_id.json(),
        "detail": event.detail.json(),
        "peer_address": event.peer_address.json(),
        "client_address": event.client_address.json(),
        "request_id": event.request_id.json(),
        "position": number(event.position),
        "erased": event.erased,
    })
}
