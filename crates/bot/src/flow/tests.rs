//! Every answer of Keyward, and what comes of it.

use std::collections::HashMap;

use super::*;

const ACCOUNT: &str = "tg-42";
const OLD: Uuid = Uuid::from_u128(1);
const NEW: Uuid = Uuid::from_u128(2);

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

fn named(key_id: Uuid) -> Named {
    Named {
        key_id,
        hint: "kw_abcd".to_owned(),
    }
}

fn shown(key_id: Uuid, once: bool) -> Present {
    Present::Shown {
        key: named(key_id),
        api_key: Secret::new("kw_canary".to_owned()),
        once,
    }
}

fn issued(key: v1::ApiKey, api_key: &str) -> Result<v1::IssueResponse, Error> {
    Ok(v1::IssueResponse {
        key: Some(key),
        api_key: api_key.to_owned(),
        created: false,
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
        metadata: HashMap::new(),
        retry_after: None,
    }
}

fn time() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

#[test]
fn issue_shows_the_present_state() {
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
        (issued(active(), "kw_canary"), Ok(shown(OLD, false))),
        (issued(show_once, "kw_canary"), Ok(shown(OLD, true))),
        (issued(active(), ""), Ok(Present::NotShown(named(OLD)))),
        (
            issued(key(OLD, v1::State::Disabled), "kw_canary"),
            Ok(Present::Disabled(named(OLD))),
        ),
        (
            issued(key(OLD, v1::State::Expired), "kw_canary"),
            Err(Trouble::Unavailable),
        ),
        (issued(foreign, "kw_canary"), Err(Trouble::Fault)),
        (Ok(v1::IssueResponse::default()), Err(Trouble::Fault)),
        (
            Err(error(ErrorKind::Unavailable, None)),
            Err(Trouble::Unavailable),
        ),
        (
            Err(error(ErrorKind::Unauthorized, Some("TOKEN_INVALID"))),
            Err(Trouble::Fault),
        ),
        (
            Err(error(ErrorKind::Invalid, Some("RECOVERABLE_FORBIDDEN"))),
            Err(Trouble::Fault),
        ),
    ] {
        assert_eq!(present(ACCOUNT, answer), expected);
    }
}

#[test]
fn a_proven_revoke_names_the_successor_or_asks_for_the_present() {
    let active = || key(NEW, v1::State::Active);
    let foreign = v1::ApiKey {
        account_id: "tg-43".to_owned(),
        ..active()
    };
    let already = || Revoked::See(Note::Already(time()));
    for (answer, expected) in [
        (
            replaced(Some(active()), "kw_canary"),
            Revoked::Replaced(time(), shown(NEW, false)),
        ),
        (
            replaced(Some(active()), ""),
            Revoked::Replaced(time(), Present::NotShown(named(NEW))),
        ),
        (
            replaced(Some(key(NEW, v1::State::Disabled)), ""),
            Revoked::Replaced(time(), Present::Disabled(named(NEW))),
        ),
        (replaced(Some(key(NEW, v1::State::Revoked)), ""), already()),
        (replaced(Some(key(NEW, v1::State::Expired)), ""), already()),
        (replaced(Some(foreign), "kw_canary"), already()),
        (replaced(None, ""), already()),
    ] {
        assert_eq!(revoked(ACCOUNT, answer), expected);
    }
}

#[test]
fn nothing_but_a_proof_is_clear() {
    let unclear = |committed| Revoked::Unclear { committed };
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
            ErrorKind::Unauthorized,
            Some("ROLE_REQUIRED"),
            unclear(false),
        ),
        (ErrorKind::Invalid, Some("INVALID_FIELD"), unclear(false)),
        (ErrorKind::Internal, None, unclear(false)),
        (ErrorKind::NotFound, None, unclear(false)),
        (
            ErrorKind::NotFound,
            Some("KEY_NOT_FOUND"),
            Revoked::See(Note::UnknownKey),
        ),
        (
            ErrorKind::Invalid,
            Some("KEY_EXPIRED"),
            Revoked::See(Note::Expired),
        ),
    ] {
        assert_eq!(revoked(ACCOUNT, Err(error(kind, reason))), expected);
    }
    let empty = Ok(v1::RevokeResponse::default());
    assert_eq!(revoked(ACCOUNT, empty), unclear(false));
}

#[test]
fn a_key_that_is_to_die_is_not_the_present_one() {
    let time = prost_types::Timestamp::default();
    let dying = v1::ApiKey {
        revoke_time: Some(time),
        ..key(NEW, v1::State::Active)
    };
    let answer = revoked(ACCOUNT, replaced(Some(dying.clone()), "kw_canary"));
    assert!(
        matches!(answer, Revoked::See(Note::Already(_))),
        "{answer:?}"
    );
    assert_eq!(
        present(ACCOUNT, issued(dying, "kw_canary")),
        Err(Trouble::Unavailable)
    );
}

#[test]
fn no_is_an_answer_about_the_key_that_was_asked_about() {
    assert_eq!(kept(NEW, &shown(NEW, false)), Note::Cancelled);
    assert_eq!(kept(OLD, &shown(NEW, false)), Note::Changed);
}

#[test]
fn what_is_owed_discloses_no_key() {
    for (name, view) in crate::samples::views() {
        let keyless = view.without_key();
        assert!(
            keyless.is_none_or(|view| matches!(view, View::Hidden(..))),
            "{name}"
        );
        let is_key = matches!(view, View::Key(_, Present::Shown { .. }));
        assert_eq!(view.without_key().is_some(), is_key, "{name}");
    }
}
