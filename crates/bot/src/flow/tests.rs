//! The first step of each request, and the view for each answer of Keyward.

use std::collections::HashMap;

use super::*;

const ACCOUNT: &str = "tg-42";
const OLD: Uuid = Uuid::from_u128(1);
const NEW: Uuid = Uuid::from_u128(2);
const NOW: u32 = 1_800_000_000;

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

fn name(key_id: Uuid) -> KeyName {
    KeyName {
        key_id,
        hint: "kw_abcd".to_owned(),
    }
}

fn visible(key_id: Uuid, once: bool) -> CurrentKey {
    CurrentKey::Visible {
        key: name(key_id),
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

fn of(key_id: Uuid, grace: u16) -> Revocation {
    Revocation { key_id, grace }
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
            Err(error(ErrorKind::Unauthorized, Some("TOKEN_INVALID"))),
            Err(Problem::Fault),
        ),
        (
            Err(error(ErrorKind::Invalid, Some("RECOVERABLE_FORBIDDEN"))),
            Err(Problem::Fault),
        ),
    ] {
        let answer = answer.map_err(|error| error.kind);
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
fn a_button_works_only_in_its_account_and_slot() {
    let both = ["live", "test"].map(|name| Slot::named(name).unwrap());
    let at = |account: &str, slot: &str| {
        let (account, slot) = (account.to_owned(), slot.to_owned());
        Place { account, slot }
    };
    let nowhere = Place::default;
    let (test, live) = (Some(at("a", "test").tag()), Some(at("a", "live").tag()));
    let (key, cancel) = (Action::Key, Action::Cancel(OLD));
    for (action, tag, account, slots, change, expected) in [
        (
            key,
            None,
            "a",
            &both[..1],
            true,
            Some((key, at("a", "live"))),
        ),
        (
            key,
            None,
            "a",
            &both,
            true,
            Some((Action::Account, nowhere())),
        ),
        (key, test, "a", &both, true, Some((key, at("a", "test")))),
        (key, test, "b", &both, true, None),
        (
            cancel,
            test,
            "a",
            &both,
            true,
            Some((cancel, at("a", "test"))),
        ),
        (
            cancel,
            live,
            "a",
            &both,
            true,
            Some((cancel, at("a", "live"))),
        ),
        (cancel, test, "b", &both, false, None),
        (cancel, test, "a", &both[..1], false, None),
        // A button of the old version, from before there were slots.
        (
            cancel,
            None,
            "a",
            &both,
            false,
            Some((cancel, at("a", "live"))),
        ),
        (cancel, None, "a", &both, true, None),
        (
            Action::Menu,
            None,
            "a",
            &both,
            true,
            Some((Action::Menu, nowhere())),
        ),
    ] {
        let found = target(Callback { action, tag }, account, slots, change);
        assert_eq!(found, expected, "{action:?} {account}");
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
            issued(dying, "kw_canary").map_err(|error| error.kind)
        ),
        Err(Problem::Unavailable)
    );
}

#[test]
fn the_view_after_cancel_says_whether_the_key_is_still_the_current_one() {
    let note = |cancelled, current| match opened(cancelled, current) {
        View::Key(note, _) | View::Problem(note, _) => note,
        view => panic!("{view:?}"),
    };
    let current = || Ok(visible(NEW, false));
    assert_eq!(note(Some(NEW), current()), Some(Note::Cancelled));
    assert_eq!(note(Some(OLD), current()), Some(Note::Changed));
    assert_eq!(note(None, current()), None);
    assert_eq!(note(Some(NEW), Err(Problem::Unavailable)), None);
}

#[test]
fn only_the_current_key_can_be_revoked() {
    let current = || Ok(visible(NEW, false));
    let late = || Some(Note::Late);
    let changed = View::Key(Some(Note::Changed), visible(NEW, false));
    let problem = View::Problem(None, Problem::Fault);
    for (key_id, current, expected) in [
        (
            NEW,
            current(),
            (View::ConfirmRevoke(late(), name(NEW), NOW), None),
        ),
        (OLD, current(), (changed, Some(Allowance::Reveals))),
        (OLD, Err(Problem::Fault), (problem, None)),
    ] {
        assert_eq!(asked(late(), key_id, current, NOW), expected);
    }
}

#[test]
fn the_first_step_follows_from_what_is_known() {
    let (clear, unclear) = ((of(OLD, 5), false), (of(OLD, 5), true));
    let first = || Step::Revoke(of(OLD, 5), Some(Allowance::Revokes));
    let late = || Step::Ask(Some(Note::Late), OLD);
    let ask = Step::Show(View::ConfirmRevoke(None, name(OLD), NOW));
    for (action, outcomes, shown, expected) in [
        (Action::Key, vec![], None, Step::Open(None)),
        (Action::Key, vec![clear], None, Step::Open(None)),
        (Action::Cancel(OLD), vec![], None, Step::Open(Some(OLD))),
        (Action::Revoke(OLD), vec![], None, Step::Ask(None, OLD)),
        (Action::Revoke(OLD), vec![], Some(NEW), Step::Ask(None, OLD)),
        (Action::Revoke(OLD), vec![], Some(OLD), ask),
        // No key is shown while a Revoke is unclear.
        (
            Action::Key,
            vec![unclear],
            None,
            Step::Revoke(of(OLD, 5), None),
        ),
        (
            Action::Cancel(NEW),
            vec![unclear],
            None,
            Step::Revoke(of(OLD, 5), None),
        ),
        (
            Action::Revoke(NEW),
            vec![unclear],
            Some(NEW),
            Step::Revoke(of(OLD, 5), None),
        ),
        // The first Revoke of a key counts, a repeated one is a reveal or free.
        (
            Action::Confirm(of(OLD, 5), NOW),
            vec![],
            Some(OLD),
            Step::Revoke(of(OLD, 5), Some(Allowance::Revokes)),
        ),
        (
            Action::Confirm(of(NEW, 5), NOW),
            vec![unclear],
            None,
            Step::Revoke(of(NEW, 5), Some(Allowance::Revokes)),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW),
            vec![unclear],
            Some(NEW),
            Step::Revoke(of(OLD, 5), None),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW),
            vec![clear],
            None,
            Step::Revoke(of(OLD, 5), Some(Allowance::Reveals)),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW),
            vec![clear],
            Some(NEW),
            Step::Ignore,
        ),
        // A late first answer is no consent. A Retry follows one that was in time.
        (
            Action::Confirm(of(OLD, 5), NOW - MAX_AGE),
            vec![],
            None,
            first(),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW - MAX_AGE - 1),
            vec![],
            None,
            late(),
        ),
        (
            Action::Confirm(of(OLD, 5), NOW + MAX_AGE + 1),
            vec![],
            Some(OLD),
            late(),
        ),
        (
            Action::Confirm(of(OLD, 5), 0),
            vec![unclear],
            None,
            Step::Revoke(of(OLD, 5), None),
        ),
        (Action::Retry(of(OLD, 5)), vec![], None, first()),
        (
            Action::Retry(of(OLD, 5)),
            vec![unclear],
            None,
            Step::Revoke(of(OLD, 5), None),
        ),
    ] {
        let context = Context {
            account: Account::default(),
            user_id: 42,
            outcomes,
            shown: shown.map(name),
            now: NOW,
        };
        assert_eq!(
            first_step(action, &context),
            expected,
            "{action:?} {context:?}"
        );
    }
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
fn a_view_without_its_key_discloses_no_key() {
    for (name, view) in crate::screens::tests::samples::views() {
        let keyless = view.without_key();
        assert!(
            keyless.is_none_or(|view| matches!(view, View::HiddenKey(..))),
            "{name}"
        );
        assert_eq!(
            view.without_key().is_some(),
            view.discloses().is_some(),
            "{name}"
        );
    }
}
