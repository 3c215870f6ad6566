//! Converts the messages about the audit.

use keyward_proto::v1;

use super::{Checked, key_id, optional, page, time, timestamp};
use crate::service::{Head, Page, PageQuery};
use keyward_core::key::{AccountId, FieldError, KeyId, SlotName, Timestamp};
use keyward_store::audit_chain::{Fault, FaultKind, Verified};
use keyward_store::{AuditAction, AuditEvent, AuditQuery};

/// The years that every store can represent.
const FIRST_TIME: i64 = -62_135_596_800_000_000;
const LAST_TIME: i64 = 253_370_764_800_000_000;
/// The length of a seal's MAC, in bytes.
const MAC: usize = 32;

/// An action in the API, where it has the same name in capitals.
fn in_api(action: AuditAction) -> v1::AuditAction {
    let name = format!("AUDIT_ACTION_{}", action.name().to_uppercase());
    v1::AuditAction::from_str_name(&name).unwrap_or_default()
}

pub(in crate::grpc) fn list_audit(
    request: v1::ListAuditEventsRequest,
) -> Checked<(AuditQuery, PageQuery)> {
    let within = |field, given: Option<prost_types::Timestamp>| {
        given.map(|given| calendar(field, given)).transpose()
    };
    let account = optional(request.account_id, |text| {
        AccountId::new("account_id", text)
    })?;
    let caller = optional(request.caller, |text| SlotName::new("caller", text))?;
    let query = AuditQuery {
        account: account.map(|account| account.to_string()),
        subject: optional(request.key_id, |text| key_id("key_id", &text))?,
        actor: caller.map(|caller| caller.to_string()),
        action: action(request.action)?,
        from: within("start_time", request.start_time)?,
        until: within("end_time", request.end_time)?,
        newest_first: request.newest_first,
        ..AuditQuery::default()
    };
    Ok((query, page(request.page_size, request.page_token)))
}

fn action(value: i32) -> Checked<Option<String>> {
    if value == i32::from(v1::AuditAction::Unspecified) {
        return Ok(None);
    }
    let mut known = AuditAction::ALL.into_iter();
    let action = known.find(|action| i32::from(in_api(*action)) == value);
    let unknown = || FieldError::new("action", format!("{value} is not a defined value"));
    Ok(Some(action.ok_or_else(unknown)?.name().to_owned()))
}

pub(super) fn calendar(field: &'static str, given: prost_types::Timestamp) -> Checked<Timestamp> {
    let time = timestamp(field, given)?;
    match (FIRST_TIME..LAST_TIME).contains(&time.as_micros()) {
        true => Ok(time),
        false => Err(FieldError::new(field, "is outside the years 1 to 9998")),
    }
}

pub(in crate::grpc) fn audit_events(page: &Page<AuditEvent>) -> v1::ListAuditEventsResponse {
    v1::ListAuditEventsResponse {
        events: page.items.iter().map(event).collect(),
        next_page_token: page.next.clone(),
    }
}

fn event(event: &AuditEvent) -> v1::AuditEvent {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let id = |bytes: &Option<Vec<u8>>| {
        let bytes = bytes.as_deref().and_then(|bytes| bytes.try_into().ok());
        bytes.map_or_else(String::new, |bytes| KeyId::from_bytes(bytes).to_string())
    };
    let action = AuditAction::parse(&event.action);
    let action = action.map_or(v1::AuditAction::Unspecified, in_api);
    let is_about_token = matches!(
        action,
        v1::AuditAction::TokenCreate | v1::AuditAction::TokenRevoke
    );
    let outcome = match action {
        v1::AuditAction::Deny => v1::AuditOutcome::Denied,
        _ => v1::AuditOutcome::Done,
    };
    let subject = id(&event.subject);
    let (key_id, token_id) = match is_about_token {
        true => (String::new(), subject),
        false => (subject, String::new()),
    };
    v1::AuditEvent {
        event_id: event.id,
        time: Some(time(event.time)),
        action: action.into(),
        outcome: outcome.into(),
        caller: event.actor.clone(),
        caller_token_id: id(&event.actor_id),
        key_id,
        token_id,
        account_id: text(&event.account),
        detail: text(&event.detail),
        peer_address: text(&event.origin.peer),
        client_address: text(&event.origin.client),
        request_id: text(&event.origin.request),
        position: event.link.as_ref().map_or(0, |link| link.position),
        erased: event.link.as_ref().is_some_and(|link| link.salt.is_none()),
    }
}

pub(in crate::grpc) fn verify_audit(
    request: v1::VerifyAuditRequest,
) -> Checked<(Option<Head>, String)> {
    let wrong = || {
        let reason = "must be NUMBER:MAC, as the log shows it: a number and 64 hexadecimal digits";
        FieldError::new("head", reason)
    };
    let head = optional(request.head, |text| head(&text).ok_or_else(wrong))?;
    Ok((head, request.page_token))
}

fn head(text: &str) -> Option<Head> {
    let (number, digits) = text.split_once(':')?;
    let is_decimal = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse().ok().filter(|number| *number > 0);
    Some(Head {
        number: number.filter(|_| is_decimal)?,
        mac: hex::decode(digits).ok().filter(|mac| mac.len() == MAC)?,
    })
}

pub(in crate::grpc) fn verified_audit(
    (verified, next): (Verified, String),
) -> v1::VerifyAuditResponse {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    v1::VerifyAuditResponse {
        fault: verified.fault.as_ref().map(fault),
        seals: verified.seals,
        events: verified.events,
        erased_events: count(verified.erased.len()),
        unsealed_events: verified.unsealed,
        head: verified
            .last
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        head_time: verified.last.as_ref().map(|last| time(last.time)),
        next_page_token: next,
    }
}

fn fault(fault: &Fault) -> v1::AuditFault {
    let kind = match fault.kind {
        FaultKind::EventAltered => v1::AuditFaultKind::EventAltered,
        FaultKind::EventRemoved => v1::AuditFaultKind::EventRemoved,
        FaultKind::EventInserted => v1::AuditFaultKind::EventInserted,
        FaultKind::SealAltered => v1::AuditFaultKind::SealAltered,
        FaultKind::SealRemoved => v1::AuditFaultKind::SealRemoved,
        FaultKind::BeginningCut => v1::AuditFaultKind::BeginningCut,
        FaultKind::KeyMissing => v1::AuditFaultKind::KeyMissing,
        FaultKind::EndCut => v1::AuditFaultKind::EndCut,
        FaultKind::HeadDiffers => v1::AuditFaultKind::HeadDiffers,
    };
    v1::AuditFault {
        kind: kind.into(),
        event_id: fault.event.unwrap_or_default(),
        position: fault.position.unwrap_or_default(),
        seal: fault.seal.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_a_name_in_the_api() {
        for action in AuditAction::ALL {
            assert_ne!(in_api(action), v1::AuditAction::Unspecified, "{action:?}");
            let name = Some(action.name().to_owned());
            assert_eq!(super::action(in_api(action).into()), Ok(name));
        }
    }

    #[test]
    fn a_head_is_read_as_the_log_shows_it() {
        let digits = "0123456789abcdef".repeat(4);
        let read = head(&format!("17:{digits}")).unwrap();
        assert_eq!((read.number, read.mac.len(), read.mac[1]), (17, 32, 0x23));
        for wrong in [
            digits.clone(),
            format!("0:{digits}"),
            format!("-1:{digits}"),
            format!("+1:{digits}"),
            format!("17:{}", &digits[1..]),
            format!("17:{digits}0"),
            format!("17:{}", digits.replace('a', "g")),
            format!("17:+{}", &digits[1..]),
            format!("99999999999999999999:{digits}"),
            ":".to_owned(),
        ] {
            assert_eq!(head(&wrong), None, "{wrong}");
        }
    }
}
