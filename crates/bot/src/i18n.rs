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
        Self::with_code(primary).unwrap_or(Self::English)
    }

    /// The language with this two-letter code.
    pub fn with_code(code: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|language| language.code().eq_ignore_ascii_case(code))
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

/// A message, which exists in every language. `MENU_TEXT` is `menu-text` in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(&'static str);

macro_rules! messages {
    ($($name:ident)*) => {
        impl Id {
            $(#[doc = stringify!($name)] pub const $name: Self = Self(stringify!($name));)*
            /// All messages.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

messages! {
    MENU_TEXT ACCOUNT_TEXT NOT_REGISTERED ACCOUNT_UNKNOWN KEY_TITLE KEY_WARNING KEY_ONCE KEY_HIDES_MINUTES KEY_HIDES_SECONDS
    KEY_NOT_SHOWN KEY_DISABLED KEY_HIDDEN KEY_GONE KEY_DEAD KEY_DEAD_GRACE ASK_TEXT ASK_GRACE ASK_HINT ASK_USED_NOW ASK_USED_MINUTES
    ASK_USED_HOURS ASK_USED_DAYS OLD_KEY_TRIED REVOKING_TEXT
    UNCLEAR_UNCONFIRMED UNCLEAR_UNKNOWN UNCLEAR_BUSY UNCLEAR_FAULT BUSY_TEXT UNAVAILABLE_TEXT PRESENT_UNAVAILABLE FAULT_TEXT SUPPORT_TEXT
    LIMITED_REVEALS LIMITED_REVOKES HELP_TEXT GROUP_TEXT NOTE_REPLACED NOTE_REPLACED_GRACE NOTE_ALREADY NOTE_ALREADY_GRACE NOTE_EXPIRED
    NOTE_UNKNOWN_KEY NOTE_CHANGED NOTE_CURRENT NOTE_CANCELLED NOTE_LATE NOTE_OLD_BUTTON NOTE_OTHER_PLACE
    ANSWER_NOT_YOURS ANSWER_PRIVATE_ONLY FAILED_TEXT BUTTON_ACCOUNT BUTTON_KEY BUTTON_COPY
    BUTTON_REVOKE BUTTON_CONFIRM BUTTON_GRACE BUTTON_CANCEL BUTTON_BACK BUTTON_RETRY BUTTON_SHOW_AGAIN
    BUTTON_OPEN COMMAND_START COMMAND_APIKEY COMMAND_HELP
}

impl Id {
    /// The name in the files.
    pub fn name(self) -> String {
        self.0.to_lowercase().replace('_', "-")
    }
}

/// The messages of all languages.
pub struct Texts {
    bundles: Vec<FluentBundle<FluentResource>>,
}

impl Default for Texts {
    /// Parses the compiled-in files.
    fn default() -> Self {
        Self {
            bundles: Language::ALL.map(bundle).into(),
        }
    }
}

impl Texts {
    /// A message without values.
    pub fn plain(&self, language: Language, id: Id) -> String {
        self.get(language, id, &[])
    }

    /// A message with its values. A missing message, which a test rules out, appears as its name.
    pub fn get(&self, language: Language, id: Id, values: &[(&str, Value)]) -> String {
        let text = self.format(language, id, &values.iter().cloned().collect());
        text.unwrap_or_else(|| id.name())
    }

    fn format(&self, language: Language, id: Id, args: &FluentArgs<'_>) -> Option<String> {
        let bundle = self.bundles.get(language as usize)?;
        let pattern = bundle.get_message(&id.name())?.value()?;
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
