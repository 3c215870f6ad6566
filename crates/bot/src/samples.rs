//! One example of each view, for pictures and tests. The key is invented: no Keyward takes it.

use std::time::Duration;

use keyward_client::Secret;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::flow::{Named, Note, Present, Trouble, View};

const ACCOUNT: &str = "tg-123456789";
const OLD: (Uuid, &str) = (
    Uuid::from_u128(0x0199_0000_7000_8000_0000_0000_0000_0001),
    "kw_3fGq",
);
const NEW: (Uuid, &str) = (
    Uuid::from_u128(0x0199_0000_7000_8000_0000_0000_0000_0002),
    "kw_9tRb",
);

fn named((key_id, hint): (Uuid, &str)) -> Named {
    Named {
        key_id,
        hint: hint.to_owned(),
    }
}

fn shown(key: (Uuid, &str), once: bool) -> Present {
    // As long as a key, and with a checksum that is wrong.
    let api_key = format!(
        "{}{}",
        key.1,
        "Example0".repeat(6).get(..45).unwrap_or_default()
    );
    Present::Shown {
        key: named(key),
        api_key: Secret::new(api_key),
        once,
    }
}

/// 2026-11-25 10:30:00 UTC.
fn time() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_795_602_600)
}

/// Each view with its name.
pub fn views() -> Vec<(&'static str, View)> {
    let hint = || OLD.1.to_owned();
    let menu = |note| View::Menu {
        account: ACCOUNT.to_owned(),
        note,
    };
    let unclear = |committed| View::Unclear {
        key_id: OLD.0,
        committed,
    };
    vec![
        ("menu", menu(None)),
        (
            "account",
            View::Account {
                account: ACCOUNT.to_owned(),
                user_id: 123_456_789,
            },
        ),
        ("key", View::Key(None, shown(OLD, false))),
        ("ask", View::Ask(named(OLD))),
        ("revoking", View::Revoking { key_id: OLD.0 }),
        (
            "replaced",
            View::Key(Some(Note::Replaced(time())), shown(NEW, false)),
        ),
        (
            "cancelled",
            View::Key(Some(Note::Cancelled), shown(OLD, false)),
        ),
        (
            "already",
            View::Key(Some(Note::Already(time())), shown(NEW, false)),
        ),
        ("expired", View::Key(Some(Note::Expired), shown(NEW, false))),
        ("changed", View::Key(Some(Note::Changed), shown(NEW, false))),
        (
            "unknown-key",
            View::Key(Some(Note::UnknownKey), shown(NEW, false)),
        ),
        ("once", View::Key(None, shown(OLD, true))),
        ("not-shown", View::Key(None, Present::NotShown(named(OLD)))),
        ("disabled", View::Key(None, Present::Disabled(named(OLD)))),
        ("unclear-unconfirmed", unclear(true)),
        ("unclear-unknown", unclear(false)),
        ("unavailable", View::Trouble(None, Trouble::Unavailable)),
        (
            "present-unavailable",
            View::Trouble(Some(Note::Already(time())), Trouble::Unavailable),
        ),
        ("fault", View::Trouble(None, Trouble::Fault)),
        (
            "limited-reveals",
            View::LimitedReveals(Duration::from_secs(100)),
        ),
        (
            "limited-revokes",
            View::LimitedRevokes(Duration::from_secs(300)),
        ),
        ("hidden", View::Hidden(None, hint())),
        (
            "hidden-new",
            View::Hidden(Some(Note::Replaced(time())), NEW.1.to_owned()),
        ),
        ("dead", View::Dead(hint(), time())),
        ("gone", View::Gone(hint())),
        ("old-button", menu(Some(Note::OldButton))),
        ("help", View::Help),
        ("group", View::Group),
        ("failed", View::Failed),
    ]
}
