//! An example of each view, for pictures and tests. The keys are invented; no Keyward accepts them.

use std::time::Duration;

use keyward_client::Secret;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::flow::{Allowance, CurrentKey, KeyName, Note, Problem, View};

const OLD: (u128, &str) = (0x0199_0000_7000_8000_0000_0000_0000_0001, "kw_3fGq");
const NEW: (u128, &str) = (0x0199_0000_7000_8000_0000_0000_0000_0002, "kw_9tRb");

fn name((key_id, hint): (u128, &str)) -> KeyName {
    KeyName {
        key_id: Uuid::from_u128(key_id),
        hint: hint.to_owned(),
    }
}

fn visible(key: (u128, &str), once: bool) -> CurrentKey {
    // As long as a key, with a wrong checksum.
    let rest = "Example0".repeat(6);
    CurrentKey::Visible {
        key: name(key),
        api_key: Secret::new(format!("{}{}", key.1, rest.get(..45).unwrap_or_default())),
        once,
    }
}

/// Each view with its name.
pub fn views() -> Vec<(&'static str, View)> {
    // 2026-11-25 10:30:00 UTC.
    let time = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_795_602_600);
    let (account, hint) = (|| "tg-123456789".to_owned(), || OLD.1.to_owned());
    let (key_id, user_id) = (Uuid::from_u128(OLD.0), 123_456_789);
    let menu = |note| View::Menu {
        account: account(),
        note,
    };
    let old_key = |note| View::Key(note, visible(OLD, false));
    let new_key = |note| View::Key(Some(note), visible(NEW, false));
    let unclear = |committed| View::Unclear { key_id, committed };
    let limited = |allowance, seconds| View::Limited(allowance, Duration::from_secs(seconds));
    let problem = |note, problem| View::Problem(note, problem);
    vec![
        ("menu", menu(None)),
        (
            "account",
            View::Account {
                account: account(),
                user_id,
            },
        ),
        ("key", old_key(None)),
        ("ask", View::ConfirmRevoke(None, name(OLD), 0)),
        (
            "ask-again",
            View::ConfirmRevoke(Some(Note::Late), name(OLD), 0),
        ),
        ("revoking", View::Revoking { key_id }),
        ("replaced", new_key(Note::Replaced(time))),
        ("cancelled", old_key(Some(Note::Cancelled))),
        ("already", new_key(Note::Already(time))),
        ("expired", new_key(Note::Expired)),
        ("changed", new_key(Note::Changed)),
        ("unknown-key", new_key(Note::UnknownKey)),
        ("once", View::Key(None, visible(OLD, true))),
        (
            "not-shown",
            View::Key(None, CurrentKey::Unrecoverable(name(OLD))),
        ),
        ("disabled", View::Key(None, CurrentKey::Disabled(name(OLD)))),
        ("unclear-unconfirmed", unclear(true)),
        ("unclear-unknown", unclear(false)),
        ("unavailable", problem(None, Problem::Unavailable)),
        (
            "present-unavailable",
            problem(Some(Note::Already(time)), Problem::Unavailable),
        ),
        ("fault", problem(None, Problem::Fault)),
        ("limited-reveals", limited(Allowance::Reveals, 100)),
        ("limited-revokes", limited(Allowance::Revokes, 300)),
        ("hidden", View::HiddenKey(None, hint())),
        (
            "hidden-new",
            View::HiddenKey(Some(Note::Replaced(time)), NEW.1.to_owned()),
        ),
        ("dead", View::RevokedKey(hint(), time)),
        ("gone", View::OldKey(hint())),
        ("old-button", menu(Some(Note::OldButton))),
        ("help", View::Help),
        ("group", View::Group),
        ("failed", View::Failed),
    ]
}
