//! Screens respect Telegram's limits, disclose a key only where they should, and offer the buttons
//! that the state allows.

use super::*;

fn screens() -> Screens {
    Screens::new(Some(Duration::from_secs(600)), Some("@help <me>"))
}

fn actions(screen: &Screen) -> Vec<Action> {
    let buttons = screen.rows.iter().flatten();
    buttons
        .filter_map(|button| match button.action {
            ButtonAction::Callback(action) => Some(action),
            _ => None,
        })
        .collect()
}

fn sample(name: &str) -> View {
    let mut views = crate::samples::views().into_iter();
    views.find(|(other, _)| *other == name).unwrap().1
}

#[test]
fn every_screen_respects_telegrams_limits() {
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
fn only_views_that_disclose_a_key_contain_it_and_no_debug_output_does() {
    for (name, view) in crate::samples::views() {
        let screen = screens().render(Language::English, &view);
        let is_disclosed = screen.text.expose().contains("Example0");
        assert_eq!(view.discloses().is_some(), is_disclosed, "{name}");
        let copies = screen.rows.iter().flatten();
        let copies = copies.filter(|button| matches!(button.action, ButtonAction::Copy(_)));
        assert_eq!(copies.count() > 0, is_disclosed, "{name}");
        assert!(
            !format!("{view:?} {screen:?}").contains("Example0"),
            "{name}"
        );
    }
}

#[test]
fn buttons_name_their_key() {
    for (name, view) in crate::samples::views() {
        let found = actions(&screens().render(Language::Russian, &view));
        let expected = match &view {
            View::Key(_, current @ (CurrentKey::Visible { .. } | CurrentKey::Unrecoverable(_))) => {
                vec![Action::Revoke(current.key().key_id), Action::Account]
            }
            View::ConfirmRevoke(_, key, time) => {
                vec![
                    Action::Confirm(key.key_id, *time),
                    Action::Cancel(key.key_id),
                ]
            }
            // Only the same Revoke resolves it: no Issue, no way back.
            View::Unclear { key_id, .. } | View::Revoking { key_id } => {
                vec![Action::Retry(*key_id)]
            }
            View::Group => vec![],
            View::Key(_, CurrentKey::Disabled(_)) => vec![Action::Account],
            View::Problem(..) | View::HiddenKey(..) | View::Limited(..) => {
                vec![Action::Key, Action::Account]
            }
            View::RevokedKey(..) | View::OldKey(_) => vec![Action::Key],
            View::Account { .. } => vec![Action::Key, Action::Menu],
            View::Menu { .. } | View::Help | View::Failed => vec![Action::Account],
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn screens_contain_what_is_known_and_nothing_else() {
    let text = |name, language| {
        let screen = screens().render(language, &sample(name));
        screen.text.expose().to_owned()
    };
    let replaced = text("replaced", Language::English);
    assert!(
        replaced.contains("stopped working on 2026-11-25 10:30:00 UTC"),
        "{replaced}"
    );
    assert!(replaced.contains("<code>kw_9tRbExample0"), "{replaced}");
    assert!(
        replaced.contains("act on behalf of your account"),
        "{replaced}"
    );
    assert!(replaced.contains("in 10 minutes"), "{replaced}");
    assert!(text("limited-reveals", Language::English).contains("in 2 minutes"));
    assert!(text("limited-revokes", Language::Russian).contains("через 5 минут."));
    let disabled = text("disabled", Language::Chinese);
    assert!(disabled.contains("@help &lt;me&gt;"), "{disabled}");
    for name in ["unclear-unknown", "unclear-unconfirmed", "hidden"] {
        assert!(
            !text(name, Language::English).contains("stopped working on"),
            "{name}"
        );
    }
}

#[test]
fn values_are_escaped_and_a_long_key_has_no_copy_button() {
    let view = View::Account {
        account: "<a href=\"x\">&".to_owned(),
        user_id: 1,
    };
    let screen = screens().render(Language::English, &view);
    let escaped = "&lt;a href=&quot;x&quot;&gt;&amp;";
    assert!(screen.text.expose().contains(escaped));

    let long = Secret::new("x".repeat(MAX_COPY + 1));
    let View::Key(_, CurrentKey::Visible { key, once, .. }) = sample("key") else {
        panic!("the sample shows a key");
    };
    let current = CurrentKey::Visible {
        key,
        api_key: long,
        once,
    };
    let screen = screens().render(Language::English, &View::Key(None, current));
    assert_eq!(screen.rows.len(), 1);
}

#[test]
fn without_hide_after_no_time_is_shown() {
    let screens = Screens::new(None, None);
    let screen = screens.render(Language::English, &sample("key"));
    assert!(!screen.text.expose().contains("will be hidden"));
}

#[test]
fn only_a_screen_with_the_current_key_announces_it() {
    for language in Language::ALL {
        let announcement = screens().texts().plain(language, Id::NOTE_CURRENT);
        for (name, expected) in [
            ("already", true),
            ("expired", true),
            ("unknown-key", true),
            ("changed", true),
            ("replaced", false),
            ("cancelled", false),
            ("key", false),
            ("present-unavailable", false),
            ("hidden-new", false),
        ] {
            let screen = screens().render(language, &sample(name));
            let text = screen.text.expose();
            assert_eq!(text.contains(&announcement), expected, "{name}: {text}");
        }
    }
}

#[test]
fn emoji_are_only_on_buttons() {
    for picture in pictures(&screens()) {
        let is_emoji = |c: char| ('\u{2190}'..'\u{2c00}').contains(&c) || c >= '\u{1f000}';
        assert!(!picture.text.contains(is_emoji), "{}", picture.text);
    }
}
