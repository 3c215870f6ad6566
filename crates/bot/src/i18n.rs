//! The texts of the bot in each language. The files in `locales/` are compiled into the program.

use fluent_bundle::concurrent::FluentBundle;
use fluent_bundle::{FluentArgs, FluentResource};

/// A value in a message: text, inserted without escapes, or a number, which may select a plural
/// form.
pub type Value = fluent_bundle::FluentValue<'static>;

/// A language of the bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Language {
    /// English, also for users of all other languages.
    English,
    /// Chinese in simplified characters.
    Chinese,
    /// Russian.
    Russian,
}

impl Language {
    /// All languages; English first.
    pub const ALL: [Self; 3] = [Self::English, Self::Chinese, Self::Russian];

    /// The language for the `language_code` of a Telegram client, such as `ru` or `zh-hans`.
    pub fn of(code: Option<&str>) -> Self {
        let code = code.unwrap_or_default();
        let primary = code.split(['-', '_']).next().unwrap_or_default();
        Self::ALL
            .into_iter()
            .find(|language| language.code().eq_ignore_ascii_case(primary))
            .unwrap_or(Self::English)
    }

    /// The two-letter code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
            Self::Russian => "ru",
        }
    }

    /// The content of its file.
    pub const fn source(self) -> &'static str {
        match self {
            Self::English => include_str!("../locales/en.ftl"),
            Self::Chinese => include_str!("../locales/zh.ftl"),
            Self::Russian => include_str!("../locales/ru.ftl"),
        }
    }
}

/// The name of a message, which exists in every language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(&'static str);

macro_rules! messages {
    ($($name:ident = $id:literal,)*) => {
        impl Id {
            $(#[doc = concat!("`", $id, "`")] pub const $name: Self = Self($id);)*
            /// All messages.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

messages! {
    MENU_TEXT = "menu-text",
    ACCOUNT_TEXT = "account-text",
    KEY_TITLE = "key-title",
    KEY_WARNING = "key-warning",
    KEY_ONCE = "key-once",
    KEY_HIDES_MINUTES = "key-hides-minutes",
    KEY_HIDES_SECONDS = "key-hides-seconds",
    KEY_NOT_SHOWN = "key-not-shown",
    KEY_DISABLED = "key-disabled",
    KEY_HIDDEN = "key-hidden",
    KEY_GONE = "key-gone",
    KEY_DEAD = "key-dead",
    ASK_TEXT = "ask-text",
    ASK_HINT = "ask-hint",
    REVOKING_TEXT = "revoking-text",
    UNCLEAR_UNCONFIRMED = "unclear-unconfirmed",
    UNCLEAR_UNKNOWN = "unclear-unknown",
    UNAVAILABLE_TEXT = "unavailable-text",
    PRESENT_UNAVAILABLE = "present-unavailable",
    FAULT_TEXT = "fault-text",
    SUPPORT_TEXT = "support-text",
    LIMITED_REVEALS = "limited-reveals",
    LIMITED_REVOKES = "limited-revokes",
    HELP_TEXT = "help-text",
    GROUP_TEXT = "group-text",
    NOTE_REPLACED = "note-replaced",
    NOTE_ALREADY = "note-already",
    NOTE_EXPIRED = "note-expired",
    NOTE_UNKNOWN_KEY = "note-unknown-key",
    NOTE_CHANGED = "note-changed",
    NOTE_CURRENT = "note-current",
    NOTE_CANCELLED = "note-cancelled",
    NOTE_OLD_BUTTON = "note-old-button",
    ANSWER_NOT_YOURS = "answer-not-yours",
    ANSWER_PRIVATE_ONLY = "answer-private-only",
    FAILED_TEXT = "failed-text",
    BUTTON_ACCOUNT = "button-account",
    BUTTON_KEY = "button-key",
    BUTTON_COPY = "button-copy",
    BUTTON_REVOKE = "button-revoke",
    BUTTON_CONFIRM = "button-confirm",
    BUTTON_CANCEL = "button-cancel",
    BUTTON_BACK = "button-back",
    BUTTON_RETRY = "button-retry",
    BUTTON_SHOW_AGAIN = "button-show-again",
    BUTTON_OPEN = "button-open",
    COMMAND_START = "command-start",
    COMMAND_APIKEY = "command-apikey",
    COMMAND_HELP = "command-help",
}

impl Id {
    /// The name in the files.
    pub const fn name(self) -> &'static str {
        self.0
    }
}

/// The messages of all languages.
pub struct Texts {
    bundles: Vec<FluentBundle<FluentResource>>,
}

impl Default for Texts {
    fn default() -> Self {
        Self::new()
    }
}

impl Texts {
    /// Parses the compiled-in files.
    pub fn new() -> Self {
        Self {
            bundles: Language::ALL.map(bundle).into(),
        }
    }

    /// A message without values.
    pub fn plain(&self, language: Language, id: Id) -> String {
        self.get(language, id, &[])
    }

    /// A message with its values. A missing message, which a test rules out, appears in English or
    /// as its name.
    pub fn get(&self, language: Language, id: Id, values: &[(&str, Value)]) -> String {
        let args = values.iter().cloned().collect();
        [language, Language::English]
            .into_iter()
            .find_map(|language| self.format(language, id, &args))
            .unwrap_or_else(|| id.0.to_owned())
    }

    fn format(&self, language: Language, id: Id, args: &FluentArgs<'_>) -> Option<String> {
        let bundle = self.bundles.get(language as usize)?;
        let pattern = bundle.get_message(id.0)?.value()?;
        let mut errors = Vec::new();
        let text = bundle.format_pattern(pattern, Some(args), &mut errors);
        errors.is_empty().then(|| text.into_owned())
    }
}

#[expect(
    clippy::expect_used,
    reason = "the files are compiled in, and a test parses them"
)]
fn bundle(language: Language) -> FluentBundle<FluentResource> {
    let code = language.code().parse().expect("the code is a language");
    let mut bundle = FluentBundle::new_concurrent(vec![code]);
    // Fluent would put invisible marks around values, also around a key that the user copies.
    bundle.set_use_isolating(false);
    let file = FluentResource::try_new(language.source().to_owned());
    let file = file
        .map_err(|(_, errors)| errors)
        .expect("the file is valid Fluent");
    bundle.add_resource(file).expect("each message exists once");
    bundle
}

#[cfg(test)]
mod tests;
