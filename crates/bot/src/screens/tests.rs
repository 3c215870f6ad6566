//! Screens respect Telegram's limits, disclose a key only where they should, and offer the buttons
//! that the state allows.

pub(crate) mod samples;

use super::*;
use crate::account::Line;

fn screens() -> Screens {
    Screens {
        slots: vec![Slot::default()],
        hide_after: Some(Duration::from_secs(600)),
        support: Some("@help <me>".to_owned()),
        ..Screens::default()
    }
}

/// Renders a view without a place.
fn render(screens: &Screens, language: Language, view: &View) -> Screen {
    screens.render(language, &Place::default(), view)
}

/// The text of every screen in every language, and the labels of its buttons, with example data.
fn pictures(screens: &Screens) -> Vec<(Language, &'static str, String, Vec<Vec<String>>)> {
    let languages = Language::ALL.into_iter();
    let picture = |language, (name, view): (&'static str, View)| {
        let screen = render(screens, language, &view);
        let labels = |row: Vec<Button>| row.into_iter().map(|button| button.label).collect();
        let buttons = screen.rows.into_iter().map(labels).collect();
        (language, name, screen.text.expose().to_owned(), buttons)
    };
    languages
        .flat_map(|language| {
            samples::views()
                .into_iter()
                .map(move |view| picture(language, view))
        })
        .collect()
}

/// `tests/docs` draws the pictures from this file.
#[test]
fn the_file_of_the_screens_has_the_current_texts() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/screens/screens.json"
    );
    let screens = Screens {
        support: None,
        ..screens()
    };
    let pictures = pictures(&screens).into_iter().map(|(language, screen, text, buttons)| {
        let language = language.code();
        serde_json::json!({"language": language, "screen": screen, "text": text, "buttons": buttons})
    });
    let text = format!("{:#}\n", serde_json::Value::Array(pictures.collect()));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        written == text,
        "docs/screens/screens.json is outdated: run `make update-docs`"
    );
}

fn actions(screen: &Screen) -> Vec<Action> {
    let buttons = screen.rows.iter().flatten();
    buttons
        .filter_map(|button| match button.action {
            ButtonAction::Callback(callback) => Some(callback.action),
            _ => None,
        })
        .collect()
}

fn sample(name: &str) -> View {
    let mut views = samples::views().into_iter();
    views.find(|(other, _)| *other == name).unwrap().1
}

#[test]
fn every_screen_respects_telegrams_limits() {
    for (_, _, text, buttons) in pictures(&screens()) {
        assert!((1..4096).contains(&text.chars().count()));
        let (open, closed) = (text.matches('<'), text.matches('>'));
        assert_eq!(open.count(), closed.count(), "{text}");
        for label in buttons.iter().flatten() {
            assert!((1..=64).contains(&label.len()), "{label}");
        }
    }
}

#[test]
fn only_views_that_disclose_a_key_contain_it_and_no_debug_output_does() {
    for (name, view) in samples::views() {
        let screen = render(&screens(), Language::English, &view);
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
    for (name, view) in samples::views() {
        let found = actions(&render(&screens(), Language::Russian, &view));
        let expected = match &view {
            View::Key(_, current @ (CurrentKey::Visible { .. } | CurrentKey::Unrecoverable(_))) => {
                vec![Action::Revoke(current.key().key_id), Action::Account]
            }
            View::ConfirmRevoke(_, key, time) => {
                let of_key = Revocation {
                    key_id: key.key_id,
                    grace: 0,
                };
                vec![Action::Confirm(of_key, *time), Action::Cancel(key.key_id)]
            }
            // Only the same Revoke resolves it: no Issue, no way back.
            View::Unclear(revocation, _) => vec![Action::Retry(*revocation)],
            View::NoAccount(_, callback) => vec![callback.action],
            View::Group => vec![],
            View::Key(_, CurrentKey::Disabled(_)) => vec![Action::Account],
            View::Problem(..) | View::HiddenKey(..) | View::Limited(..) => {
                vec![Action::Key, Action::Account]
            }
            View::RevokedKey(..) => vec![Action::Key],
            View::Account(..) => vec![Action::Key, Action::Menu],
            View::Menu(..) | View::Help | View::Failed => vec![Action::Account],
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn screens_contain_what_is_known_and_nothing_else() {
    let text = |name, language| {
        let screen = render(&screens(), language, &sample(name));
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
    for (name, known) in [
        ("ask-now", "a moment ago"),
        ("ask", "3 minutes ago"),
        ("ask-hours", "2 hours ago"),
        ("ask-days", "4 days ago"),
    ] {
        let asked = text(name, Language::English);
        assert!(
            asked.contains(&format!("Last known use: {known}.")),
            "{asked}"
        );
    }
    assert!(!text("ask-again", Language::English).contains("Last known use"));
    assert!(text("ask", Language::Russian).contains("3 минуты назад."));
    let tried = text("tried", Language::English);
    assert!(tried.contains("someone tried it, last on 2026-11-25 10:30:00 UTC"));
    assert!(!text("key", Language::English).contains("someone tried it"));
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
    let hostile = || "<a href=\"x\">&".to_owned();
    let line = |copyable| Line {
        label: hostile(),
        value: hostile(),
        copyable,
    };
    let account = Account {
        id: hostile(),
        lines: vec![line(false), line(true)],
        links: Vec::new(),
    };
    let view = View::Account(None, account, 1);
    let screen = render(&screens(), Language::English, &view);
    let escaped = "&lt;a href=&quot;x&quot;&gt;&amp;";
    assert_eq!(screen.text.expose().matches(escaped).count(), 5);
    assert_eq!(screen.text.expose().matches("<code>").count(), 3);

    let long = Secret::new("x".repeat(MAX_COPY + 1));
    let View::Key(_, CurrentKey::Visible { key, once, .. }) = sample("key") else {
        panic!("the sample shows a key");
    };
    let current = CurrentKey::Visible {
        key,
        api_key: long,
        once,
    };
    let screen = render(&screens(), Language::English, &View::Key(None, current));
    assert_eq!(screen.rows.len(), 1);
}

#[test]
fn a_key_is_not_hidden_later_than_the_text_says() {
    for (seconds, said) in [(119, "119 seconds"), (120, "2 minutes"), (150, "3 minutes")] {
        let screens = Screens {
            hide_after: Some(Duration::from_secs(seconds)),
            ..screens()
        };
        let screen = render(&screens, Language::English, &sample("key"));
        assert!(
            screen.text.expose().contains(&format!("in {said}.")),
            "{screen:?}"
        );
    }
}

#[test]
fn without_hide_after_no_time_is_shown() {
    let screens = Screens::default();
    let screen = render(&screens, Language::English, &sample("key"));
    assert!(!screen.text.expose().contains("will be hidden"));
}

#[test]
fn only_a_screen_with_the_current_key_announces_it() {
    for language in Language::ALL {
        let announcement = screens().texts.plain(language, Id::NOTE_CURRENT);
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
            let screen = render(&screens(), language, &sample(name));
            let text = screen.text.expose();
            assert_eq!(text.contains(&announcement), expected, "{name}: {text}");
        }
    }
}

#[test]
fn emoji_are_only_on_buttons() {
    for (_, _, text, _) in pictures(&screens()) {
        let is_emoji = |c: char| ('\u{2190}'..'\u{2c00}').contains(&c) || c >= '\u{1f000}';
        assert!(!text.contains(is_emoji), "{text}");
    }
}

#[test]
fn slots_have_titles_in_the_users_language_and_buttons_of_their_own() {
    let slot = |text: &str| Slot::parse(text).unwrap();
    let screens = Screens {
        slots: vec![slot("live=Live <1>;ru:Основной"), slot("test=Test network")],
        revoke_grace: Some(24),
        ..Screens::default()
    };
    let place = |slot: &str| Place {
        account: "tg-123456789".to_owned(),
        slot: slot.to_owned(),
    };
    let account = render(&screens, Language::Russian, &sample("account"));
    let keys = account.rows.iter().flatten().take(2);
    let found: Vec<_> = keys
        .map(|button| (button.label.clone(), button.action.clone()))
        .collect();
    let key = |slot| {
        let (action, tag) = (Action::Key, Some(place(slot).tag()));
        ButtonAction::Callback(Callback { action, tag })
    };
    let expected = [
        ("🔑 Основной", key("live")),
        ("🔑 Test network", key("test")),
    ];
    assert_eq!(
        found,
        expected.map(|(label, action)| (label.to_owned(), action))
    );

    let asked = screens.render(Language::English, &place("live"), &sample("ask"));
    let text = asked.text.expose();
    assert!(text.starts_with("<b>Live &lt;1&gt;</b>\n\n"), "{text}");
    assert!(text.contains("for 24 hours"), "{text}");
    let grace = &asked.rows[1][0];
    assert_eq!(grace.label, "⏳ Keep for 24 hours");
    let ButtonAction::Callback(Callback {
        action: Action::Confirm(of_key, _),
        tag,
    }) = grace.action
    else {
        panic!("{grace:?}");
    };
    assert_eq!((of_key.grace, tag), (24, Some(place("live").tag())));
}
