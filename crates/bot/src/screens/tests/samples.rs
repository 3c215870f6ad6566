//! An example of each view. The keys are invented; no Keyward accepts them.

use std::time::Duration;

use keyward_client::Secret;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::account::{Account, Line, Link, NoAccount};
use crate::answers::{CurrentKey, End, KeyName, Problem};
use crate::callback::{Action, Callback, Revocation};
use crate::flow::{Allowance, Note, Unclear, View};

const OLD: (u128, &str) = (0x0199_0000_7000_8000_0000_0000_0000_0001, "kw_3fGq");
const NEW: (u128, &str) = (0x0199_0000_7000_8000_0000_0000_0000_0002, "kw_9tRb");

fn name((key_id, hint): (u128, &str)) -> KeyName {
    KeyName {
        key_id: Uuid::from_u128(key_id),
        hint: hint.to_owned(),
        ..KeyName::default()
    }
}

/// The question about a key that was used so many seconds before.
fn ask(key: (u128, &str), before: u32) -> View {
    let time = 1_000_000;
    let key = KeyName {
        last_use: Some(time - before),
        ..name(key)
    };
    View::ConfirmRevoke(None, key, time)
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

fn account() -> Account {
    Account {
        id: "tg-123456789".to_owned(),
        ..Account::default()
    }
}

fn hosted() -> Account {
    let line = |label: &str, value: &str, copyable| Line {
        label: label.to_owned(),
        value: value.to_owned(),
        copyable,
    };
    Account {
        id: "01890f2e-5b7a".to_owned(),
        lines: vec![
            line("Balance", "9,996.10 TRX", false),
            line("Deposit address", "TExampleAddress", true),
        ],
        links: links(),
    }
}

fn links() -> Vec<Link> {
    vec![Link {
        text: "Open the website".to_owned(),
        url: "https://host.example/account".to_owned(),
    }]
}

/// Each view with its name.
pub(crate) fn views() -> Vec<(&'static str, View)> {
    // 2026-11-25 10:30:00 UTC.
    let time = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_795_602_600);
    let end = |is_past| End { time, is_past };
    let (hint, key_id, user_id) = (|| OLD.1.to_owned(), Uuid::from_u128(OLD.0), 123_456_789);
    let of_key = Revocation { key_id, grace: 0 };
    let old_key = |note| View::Key(note, visible(OLD, false));
    let new_key = |note| View::Key(Some(note), visible(NEW, false));
    let limited = |allowance, seconds| View::Limited(allowance, Duration::from_secs(seconds));
    let no_account = |reason| {
        let (action, tag) = (Action::Key, None);
        View::NoAccount(reason, Callback { action, tag })
    };
    let hidden_new = View::HiddenKey(Some(Note::Replaced(end(true))), NEW.1.to_owned());
    vec![
        ("menu", View::Menu(account())),
        ("account", View::Account(None, account(), user_id)),
        ("account-host", View::Account(None, hosted(), user_id)),
        (
            "not-registered",
            no_account(NoAccount::NotRegistered(links())),
        ),
        ("account-unknown", no_account(NoAccount::Unknown)),
        (
            "other-place",
            View::Account(Some(Note::OtherPlace), hosted(), user_id),
        ),
        ("key", old_key(None)),
        ("ask", ask(OLD, 180)),
        ("ask-now", ask(OLD, 80)),
        ("ask-hours", ask(OLD, 7_200)),
        ("ask-days", ask(OLD, 400_000)),
        (
            "ask-again",
            View::ConfirmRevoke(Some(Note::Late), name(OLD), 0),
        ),
        ("revoking", View::Unclear(of_key, Unclear::Running)),
        ("replaced", new_key(Note::Replaced(end(true)))),
        ("replaced-grace", new_key(Note::Replaced(end(false)))),
        ("cancelled", old_key(Some(Note::Cancelled))),
        ("already", new_key(Note::Already(end(true)))),
        ("expired", new_key(Note::Expired)),
        ("changed", new_key(Note::Changed)),
        ("unknown-key", new_key(Note::UnknownKey)),
        (
            "tried",
            View::Key(None, visible(NEW, false).after(Some(1_795_602_600))),
        ),
        ("once", View::Key(None, visible(OLD, true))),
        (
            "not-shown",
            View::Key(None, CurrentKey::Unrecoverable(name(OLD))),
        ),
        ("disabled", View::Key(None, CurrentKey::Disabled(name(OLD)))),
        (
            "unclear-unconfirmed",
            View::Unclear(of_key, Unclear::Unconfirmed),
        ),
        ("unclear-unknown", View::Unclear(of_key, Unclear::Unknown)),
        ("unclear-busy", View::Unclear(of_key, Unclear::Busy)),
        ("unclear-fault", View::Unclear(of_key, Unclear::Fault)),
        ("busy", View::Problem(None, Problem::Busy)),
        ("unavailable", View::Problem(None, Problem::Unavailable)),
        (
            "present-unavailable",
            View::Problem(Some(Note::Already(end(true))), Problem::Unavailable),
        ),
        ("fault", View::Problem(None, Problem::Fault)),
        ("limited-reveals", limited(Allowance::Reveals, 100)),
        ("limited-revokes", limited(Allowance::Revokes, 300)),
        ("hidden", View::HiddenKey(None, hint())),
        ("hidden-new", hidden_new),
        ("dead", View::RevokedKey(hint(), Some(end(true)))),
        ("dead-grace", View::RevokedKey(hint(), Some(end(false)))),
        ("gone", View::RevokedKey(hint(), None)),
        (
            "old-button",
            View::Account(Some(Note::OldButton), account(), user_id),
        ),
        ("help", View::Help),
        ("group", View::Group),
        ("failed", View::Failed),
    ]
}
