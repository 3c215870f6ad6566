//! The bot's texts, from its own files: a test finds a button by its name in every language.

use std::collections::HashMap;

use keyward_testkit::telegram::Screen;
use regex::Regex;

/// The files of texts, and the language of a Telegram app that gets each.
pub(crate) const LANGUAGES: [(&str, &str); 3] = [("en", "en-GB"), ("zh", "zh-hans"), ("ru", "ru")];

/// The texts of one language, by name.
pub(crate) struct Words(HashMap<String, String>);

impl Words {
    /// Reads `crates/bot/locales/{file}.ftl`: messages without their tags.
    pub(crate) fn of(file: &str) -> Self {
        let path = format!(
            "{}/crates/bot/locales/{file}.ftl",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let tags = Regex::new("<[^>]*>").unwrap();
        let mut words = HashMap::<String, String>::new();
        let mut name = String::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let begins = line.split_once(" =").filter(|_| !line.starts_with(' '));
            let part = match begins {
                Some((begun, rest)) => {
                    begun.clone_into(&mut name);
                    rest
                }
                None => line,
            };
            let message = words.entry(name.clone()).or_default();
            message.push_str(&tags.replace_all(part.trim(), ""));
            message.push('\n');
        }
        Self(words)
    }

    /// A whole message that has no placeholders.
    pub(crate) fn text(&self, name: &str) -> String {
        self.0[name].trim().to_owned()
    }

    /// What stands on a button.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.0[name].trim()
    }

    /// Whether the screen says this; placeholders stand for anything.
    pub(crate) fn says(&self, screen: &Screen, name: &str) -> bool {
        let placeholder = Regex::new(r"\\\{.*?\\\}").unwrap();
        let escaped = regex::escape(self.0[name].trim());
        let pattern = placeholder.replace_all(&escaped, ".+");
        Regex::new(&pattern).unwrap().is_match(&screen.text)
    }
}
