//! Every message exists in each language, has the same placeholders, and is valid markup for Telegram.

use std::collections::{BTreeMap, BTreeSet};

use fluent_syntax::ast::{Entry, Expression, InlineExpression, Pattern, PatternElement};

use super::*;

/// The messages of a file by name, each with the names of its values.
fn messages(language: Language) -> BTreeMap<String, BTreeSet<String>> {
    let file = fluent_syntax::parser::parse(language.source()).unwrap();
    let mut messages = BTreeMap::new();
    for entry in &file.body {
        match entry {
            Entry::Message(message) => {
                assert!(message.attributes.is_empty(), "{}", message.id.name);
                let mut names = BTreeSet::new();
                values(message.value.as_ref().unwrap(), &mut names);
                let twice = messages.insert(message.id.name.to_owned(), names);
                assert_eq!(twice, None, "{} exists twice", message.id.name);
            }
            Entry::Junk { content } => panic!("{language:?} cannot be read: {content}"),
            Entry::Term(term) => panic!("{} is a term", term.id.name),
            Entry::Comment(_) | Entry::GroupComment(_) | Entry::ResourceComment(_) => {}
        }
    }
    messages
}

fn values(pattern: &Pattern<&str>, names: &mut BTreeSet<String>) {
    for element in &pattern.elements {
        let PatternElement::Placeable { expression } = element else {
            continue;
        };
        match expression {
            Expression::Inline(inline) => value(inline, names),
            Expression::Select { selector, variants } => {
                value(selector, names);
                for variant in variants {
                    // A form without the number would be wrong for some numbers.
                    let mut inside = BTreeSet::new();
                    values(&variant.value, &mut inside);
                    assert!(!inside.is_empty(), "a plural form lacks its number");
                    names.extend(inside);
                }
            }
        }
    }
}

fn value(inline: &InlineExpression<&str>, names: &mut BTreeSet<String>) {
    match inline {
        InlineExpression::VariableReference { id } => {
            names.insert(id.name.to_owned());
        }
        other => panic!("only values are allowed: {other:?}"),
    }
}

fn value_for(name: &str) -> Value {
    match name {
        "minutes" | "seconds" => Value::from(5),
        _ => Value::from("X"),
    }
}

#[test]
fn every_message_exists_in_each_language_with_the_same_placeholders() {
    let english = messages(Language::English);
    let named: BTreeSet<_> = Id::ALL.iter().map(|id| id.name()).collect();
    let written: BTreeSet<_> = english.keys().cloned().collect();
    assert_eq!(
        named, written,
        "the code and the file name the same messages"
    );
    for language in Language::ALL {
        assert_eq!(messages(language), english, "{language:?}");
    }
}

#[test]
fn every_message_can_be_formatted_and_is_translated() {
    let texts = Texts::default();
    for id in Id::ALL {
        let names = &messages(Language::English)[&id.name()];
        let values: Vec<_> = names.iter().map(|n| (n.as_str(), value_for(n))).collect();
        let all = Language::ALL.map(|language| texts.get(language, *id, &values));
        for text in &all {
            assert_ne!(*text, id.name());
            assert!(!text.contains(['{', '}', '\u{2068}', '\u{2069}']), "{text}");
            assert!(text.chars().count() < 1500, "{text}");
            assert_markup(text);
        }
        assert!(all[1] != all[0] && all[2] != all[0], "{}", id.name());
    }
}

/// Only the tags that the bot uses, closed in order.
fn assert_markup(text: &str) {
    let mut open = Vec::new();
    for tag in text.split('<').skip(1) {
        let (name, _) = tag.split_once('>').unwrap_or_else(|| panic!("{text}"));
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{text}"),
            None => open.push(name),
        }
        assert!(["b", "/b", "code", "/code"].contains(&name), "{text}");
    }
    assert!(open.is_empty() && !text.contains('&'), "{text}");
}

#[test]
fn buttons_and_answers_are_plain_and_short() {
    let texts = Texts::default();
    for id in Id::ALL {
        let limit = match id.name().split('-').next() {
            // Telegram's limits: 200 for an answer, 3 to 256 for a command.
            Some("answer" | "failed") => 200,
            Some("command") => 256,
            Some("button") => 24,
            _ => continue,
        };
        for language in Language::ALL {
            let text = texts.plain(language, *id);
            let length = text.chars().count();
            assert!(
                (3..=limit).contains(&length) && !text.contains(['<', '\n']),
                "{text}"
            );
        }
    }
}

#[test]
fn numbers_select_the_plural_form() {
    let texts = Texts::default();
    let minutes = |language, n| {
        let text = texts.get(
            language,
            Id::KEY_HIDES_MINUTES,
            &[("minutes", Value::from(n))],
        );
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (language, n, expected) in [
        (Language::English, 1, "1 minute."),
        (Language::English, 10, "10 minutes."),
        (Language::Russian, 1, "1 минуту."),
        (Language::Russian, 21, "21 минуту."),
        (Language::Russian, 3, "3 минуты."),
        (Language::Russian, 11, "11 минут."),
        (Language::Russian, 60, "60 минут."),
        (Language::Chinese, 10, "10 分钟"),
    ] {
        let text = minutes(language, n);
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn the_language_is_that_of_the_users_telegram() {
    for (code, expected) in [
        (Some("ru"), Language::Russian),
        (Some("RU"), Language::Russian),
        (Some("zh"), Language::Chinese),
        (Some("zh-hans"), Language::Chinese),
        (Some("zh-Hant-TW"), Language::Chinese),
        (Some("zh_CN"), Language::Chinese),
        (Some("en-GB"), Language::English),
        (Some("de"), Language::English),
        (Some("rus"), Language::English),
        (Some(""), Language::English),
        (None, Language::English),
    ] {
        assert_eq!(Language::of(code), expected, "{code:?}");
    }
}
