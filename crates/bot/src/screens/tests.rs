//! Screens keep Telegram's limits, disclose a key where they should and nowhere else, and offer
//! the way on that the state allows.

use super::*;

fn screens() -> Screens {
    Screens::new(Some(Duration::from_secs(600)), Some("@help <me>"))
}

fn actions(screen: &Screen) -> Vec<Action> {
    let buttons = screen.rows.iter().flatten();
    buttons
        .filter_map(|button| match button.press {
            Press::Do(action) => Some(action),
            _ => None,
        })
        .collect()
}

fn sample(name: &str) -> View {
    let mut views = crate::samples::views().into_iter();
    views.find(|(other, _)| *other == name).unwrap().1
}

#[test]
fn every_screen_keeps_telegrams_limits() {
    for picture in pictures(&screens()) {
        assert!((1..4096).contains(&picture.text.chars().count()));
        let (open, closed) = (picture.text.matches('<'), picture.text.matches('>'));
        assert_eq!(open.count(), closed.count(), "{}", picture.text);
        for label in picture.buttons.iter().flatten() {
            assert!((1..=64).contains(&label.len()), "{label}");
        }
    }
}

#[test]
fn a_key_is_in_the_screens_that_say_so_and_in_no_debug() {
    for (name, view) in crate::samples::views() {
        let screen = screens().render(Language::English, &view);
        let is_disclosed = screen.text.expose().contains("Example0");
        assert_eq!(screen.discloses.is_some(), is_disclosed, "{name}");
        let copies = screen.rows.iter().flatten();
        let copies = copies.filter(|button| matches!(button.press, Press::Copy(_)));
        assert_eq!(copies.count() > 0, is_disclosed, "{name}");
        assert!(
            !format!("{view:?} {screen:?}").contains("Example0"),
            "{name}"
        );
    }
}

#[test]
fn buttons_name_the_key_they_mean() {
    for (name, view) in crate::samples::views() {
        let found = actions(&screens().render(Language::Russian, &view));
        let expected = match &view {
            View::Key(_, present @ (Present::Shown { .. } | Present::NotShown(_))) => {
                vec![Action::Revoke(present.key().key_id), Action::Account]
            }
            View::Ask(key) => vec![Action::Confirm(key.key_id), Action::Cancel(key.key_id)],
            // Nothing but the same Revoke leads on: no Issue, no way back.
            View::Unclear { key_id, .. } | View::Revoking { key_id } => {
                vec![Action::Confirm(*key_id)]
            }
            View::Group => vec![],
            View::Key(_, Present::Disabled(_)) => vec![Action::Account],
            View::Trouble(..)
            | View::Hidden(..)
            | View::LimitedReveals(_)
            | View::LimitedRevokes(_) => vec![Action::Key, Action::Account],
            View::Dead(..) | View::Gone(_) => vec![Action::Key],
            View::Account { .. } => vec![Action::Key, Action::Menu],
            View::Menu { .. } | View::Help | View::Failed => vec![Action::Account],
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn what_is_known_is_said() {
    let text = |name, language| {
        let screen = screens().render(language, &sample(name));
        screen.text.expose().to_owned()
    };
    let replaced = text("replaced", Language::English);
    assert!(
        replaced.contains("dead since 2026-11-25 10:30:00 UTC"),
        "{replaced}"
    );
    assert!(replaced.contains("<code>kw_9tRbExample0"), "{replaced}");
    assert!(replaced.contains("spend the balance"), "{replaced}");
    assert!(replaced.contains("after 10 minutes"), "{replaced}");
    assert!(text("limited-reveals", Language::English).contains("in 2 minutes"));
    assert!(text("limited-revokes", Language::Russian).contains("через 5 минут."));
    let disabled = text("disabled", Language::Chinese);
    assert!(disabled.contains("@help &lt;me&gt;"), "{disabled}");
    for name in ["unclear-unknown", "unclear-unconfirmed", "hidden"] {
        assert!(
            !text(name, Language::English).contains("dead since"),
            "{name}"
        );
    }
}

#[test]
fn what_is_put_in_is_escaped_and_a_long_key_has_no_copy_button() {
    let view = View::Account {
        account: "<a href=\"x\">&".to_owned(),
        user_id: 1,
    };
    let screen = screens().render(Language::English, &view);
    let escaped = "&lt;a href=&quot;x&quot;&gt;&amp;";
    assert!(screen.text.expose().contains(escaped));

    let long = Secret::new("x".repeat(MAX_COPY + 1));
    let View::Key(_, Present::Shown { key, once, .. }) = sample("key") else {
        panic!("the sample shows a key");
    };
    let present = Present::Shown {
        key,
        api_key: long,
        once,
    };
    let screen = screens().render(Language::English, &View::Key(None, present));
    assert_eq!(screen.rows.len(), 1);
}

#[test]
fn without_hiding_nothing_is_said_about_it() {
    let screens = Screens::new(None, None);
    let screen = screens.render(Language::English, &sample("key"));
    assert!(!screen.text.expose().contains("hidden in this chat"));
}
