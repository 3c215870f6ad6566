//! What each answer of Keyward means.

use std::collections::HashMap;

use super::*;
use crate::flow::tests::{NEW, OLD, name, visible};

const ACCOUNT: &str = "tg-42";

fn key(key_id: Uuid, state: v1::State) -> v1::ApiKey {
    v1::ApiKey {
        key_id: key_id.to_string(),
        account_id: ACCOUNT.to_owned(),
        hint: "kw_abcd".to_owned(),
        recoverable: true,
        state: state.into(),
        ..Default::default()
    }
}

fn issued(key: v1::ApiKey, api_key: &str) -> Result<v1::IssueResponse, Error> {
    Ok(v1::IssueResponse {
        key: Some(key),
        api_key: api_key.to_owned(),
        created: false,
        predecessor: None,
    })
}

fn replaced(successor: Option<v1::ApiKey>, api_key: &str) -> Result<v1::RevokeResponse, Error> {
    let time = prost_types::Timestamp {
        seconds: 1_800_000_000,
        nanos: 5,
    };
    Ok(v1::RevokeResponse {
        revoked: vec![v1::ApiKey {
            revoke_time: Some(time),
            ..key(OLD, v1::State::Revoked)
        }],
        replacement: successor,
        api_key: api_key.to_owned(),
        revoke_time: Some(time),
        ..Default::default()
    })
}

fn error(kind: ErrorKind, reason: Option<&str>) -> Error {
    Error {
        kind,
        reason: reason.map(str::to_owned),
        message: "refused".to_owned(),
        advice: None,
        metadata: HashMap::new(),
        retry_after: None,
    }
}

fn end(seconds: i64, is_past: bool) -> End {
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    End { time, is_past }
}

fn past() -> End {
    end(1_800_000_000, true)
}

#[test]
fn issue_returns_the_current_key_of_the_account() {
    let active = || key(OLD, v1::State::Active);
    let show_once = v1::ApiKey {
        recoverable: false,
        ..active()
    };
    let foreign = v1::ApiKey {
        account_id: "tg-43".to_owned(),
        ..active()
    };
    for (answer, expected) in [
        (issued(active(), "kw_canary"), Ok(visible(OLD, false))),
        (issued(show_once, "kw_canary"), Ok(visible(OLD, true))),
        (
            issued(active(), ""),
            Ok(CurrentKey::Unrecoverable(name(OLD))),
        ),
        (
            issued(key(OLD, v1::State::Disabled), "kw_canary"),
            Ok(CurrentKey::Disabled(name(OLD))),
        ),
        (
            issued(key(OLD, v1::State::Expired), "kw_canary"),
            Err(Problem::Unavailable),
        ),
        (issued(foreign, "kw_canary"), Err(Problem::Fault)),
        (Ok(v1::IssueResponse::default()), Err(Problem::Fault)),
        (
            Err(error(ErrorKind::Unavailable, None)),
            Err(Problem::Unavailable),
        ),
        (
            Err(error(ErrorKind::Unavailable, Some("REVEALS_EXHAUSTED"))),
            Err(Problem::Busy),
        ),
        (
            Err(error(ErrorKind::Unauthorized, Some("TOKEN_INVALID"))),
            Err(Problem::Fault),
        ),
        (
            Err(error(ErrorKind::Invalid, Some("RECOVERABLE_FORBIDDEN"))),
            Err(Problem::Fault),
        ),
    ] {
        let answer = answer.map_err(|error| Problem::of(&error));
        assert_eq!(current_key(ACCOUNT, answer), expected);
    }
}

#[test]
fn a_proven_revoke_shows_the_successor_or_needs_the_current_key() {
    let active = || key(NEW, v1::State::Active);
    let foreign = v1::ApiKey {
        account_id: "tg-43".to_owned(),
        ..active()
    };
    let already = || RevokeResult::Ended(Note::Already(past()));
    for (answer, expected) in [
        (
            replaced(Some(active()), "kw_canary"),
            RevokeResult::Replaced(past(), visible(NEW, false)),
        ),
        (
            replaced(Some(active()), ""),
            RevokeResult::Replaced(past(), CurrentKey::Unrecoverable(name(NEW))),
        ),
        (
            replaced(Some(key(NEW, v1::State::Disabled)), ""),
            RevokeResult::Replaced(past(), CurrentKey::Disabled(name(NEW))),
        ),
        (replaced(Some(key(NEW, v1::State::Revoked)), ""), already()),
        (replaced(Some(key(NEW, v1::State::Expired)), ""), already()),
        (replaced(Some(foreign), "kw_canary"), already()),
        (replaced(None, ""), already()),
    ] {
        assert_eq!(revoke_result(ACCOUNT, answer), expected);
    }
}

#[test]
fn only_a_proven_revoke_is_clear() {
    let unclear = |committed| match committed {
        true => RevokeResult::Unclear(Unclear::Unconfirmed),
        false => RevokeResult::Unclear(Unclear::Unknown),
    };
    let fault = || RevokeResult::Unclear(Unclear::Fault);
    for (kind, reason, expected) in [
        (ErrorKind::Unavailable, None, unclear(false)),
        (
            ErrorKind::Unavailable,
            Some("OUTCOME_UNKNOWN"),
            unclear(false),
        ),
        (
            ErrorKind::Unavailable,
            Some("STORE_UNAVAILABLE"),
            unclear(false),
        ),
        (
            ErrorKind::Unavailable,
            Some("REVOKE_UNCONFIRMED"),
            unclear(true),
        ),
        (
            ErrorKind::Unavailable,
            Some("REVEALS_EXHAUSTED"),
            RevokeResult::Unclear(Unclear::Busy),
        ),
        (ErrorKind::Unauthorized, Some("ROLE_REQUIRED"), fault()),
        (ErrorKind::Invalid, Some("INVALID_FIELD"), fault()),
        (ErrorKind::Internal, None, fault()),
        (ErrorKind::NotFound, None, fault()),
        (
            ErrorKind::NotFound,
            Some("KEY_NOT_FOUND"),
            RevokeResult::Ended(Note::UnknownKey),
        ),
        (
            ErrorKind::Invalid,
            Some("KEY_EXPIRED"),
            RevokeResult::Ended(Note::Expired),
        ),
    ] {
        assert_eq!(revoke_result(ACCOUNT, Err(error(kind, reason))), expected);
    }
    let empty = Ok(v1::RevokeResponse::default());
    assert_eq!(revoke_result(ACCOUNT, empty), unclear(false));
}

#[test]
fn a_grace_ends_in_the_future_and_with_the_key() {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let dying = |expire_time| {
        let mut answer = replaced(Some(key(NEW, v1::State::Active)), "kw_canary").unwrap();
        answer.revoked[0].state = v1::State::Active.into();
        answer.revoked[0].expire_time = expire_time;
        revoke_result(ACCOUNT, Ok(answer))
    };
    for (expire_time, seconds) in [
        (None, 1_800_000_000),
        (time(1_900_000_000), 1_800_000_000),
        (time(1_700_000_000), 1_700_000_000),
    ] {
        let expected = RevokeResult::Replaced(end(seconds, false), visible(NEW, false));
        assert_eq!(dying(expire_time), expected);
        let elsewhere = expected.view_elsewhere("kw_abcd".to_owned());
        let shown = View::RevokedKey("kw_abcd".to_owned(), Some(end(seconds, false)));
        assert_eq!(elsewhere, shown);
    }
}

#[test]
fn a_key_in_its_grace_is_not_the_current_key() {
    let time = prost_types::Timestamp::default();
    let dying = v1::ApiKey {
        revoke_time: Some(time),
        ..key(NEW, v1::State::Active)
    };
    let answer = revoke_result(ACCOUNT, replaced(Some(dying.clone()), "kw_canary"));
    assert!(
        matches!(answer, RevokeResult::Ended(Note::Already(_))),
        "{answer:?}"
    );
    assert_eq!(
        current_key(
            ACCOUNT,
            issued(dying, "kw_canary").map_err(|error| Problem::of(&error))
        ),
        Err(Problem::Unavailable)
    );
}

#[test]
fn other_messages_call_a_key_dead_only_after_a_proof() {
    let hint = || "kw_abcd".to_owned();
    for (result, expected) in [
        (
            RevokeResult::Replaced(past(), visible(NEW, false)),
            View::RevokedKey(hint(), Some(past())),
        ),
        (
            RevokeResult::Ended(Note::Already(past())),
            View::RevokedKey(hint(), Some(past())),
        ),
        (
            RevokeResult::Ended(Note::Expired),
            View::RevokedKey(hint(), None),
        ),
        (
            RevokeResult::Ended(Note::UnknownKey),
            View::RevokedKey(hint(), None),
        ),
        (
            RevokeResult::Unclear(Unclear::Unconfirmed),
            View::HiddenKey(None, hint()),
        ),
    ] {
        assert_eq!(result.view_elsewhere(hint()), expected);
    }
}

#[test]
fn the_use_of_the_key_and_of_its_predecessor_is_known() {
    let second = |seconds| Some(prost_types::Timestamp { seconds, nanos: 7 });
    let answer = |state, last_refused_time| v1::IssueResponse {
        key: Some(v1::ApiKey {
            last_use_time: second(1_700_000_000),
            ..key(NEW, v1::State::Active)
        }),
        predecessor: Some(v1::ApiKey {
            refused_count: 14,
            last_refused_time,
            revoke_time: second(1_800_000_000),
            ..key(OLD, state)
        }),
        ..Default::default()
    };
    let (revoked, active) = (v1::State::Revoked, v1::State::Active);
    for (answer, tried) in [
        (answer(revoked, second(1_800_000_000)), Some(1_800_000_000)),
        (answer(revoked, second(1_900_000_000)), Some(1_900_000_000)),
        // While it was disabled, before its end.
        (answer(revoked, second(1_799_999_999)), None),
        (answer(active, second(1_900_000_000)), None),
        (answer(revoked, None), None),
    ] {
        let current = current_key(ACCOUNT, Ok(answer)).unwrap();
        assert_eq!(current.key().last_use, Some(1_700_000_000));
        assert_eq!(current.key().old_key_tried, tried);
    }
}
