//! The failures of calls to Telegram, without the token and without message texts.
//!
//! The errors of the libraries print the URL, which contains the token, and unreadable answers, which
//! may contain a key. So this module uses only parts of them.

use std::error::Error;
use std::time::Duration;

use teloxide_core::{ApiError, RequestError};

/// In characters. A longer word of Telegram may be a secret and is replaced by an ellipsis.
const MAX_WORD: usize = 20;
const MAX_WORDS: usize = 16;
/// Texts of errors in Telegram's servers, after which the call may have been executed.
const SERVER_ERRORS: [&str; 4] = [
    "internal server error",
    "bad gateway",
    "service unavailable",
    "gateway timeout",
];

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The message already has this content.
    #[error("same")]
    Same,
    /// The message does not exist, or cannot be edited any more.
    #[error("gone")]
    Gone,
    /// The tap is too old to be answered.
    #[error("stale")]
    Stale,
    /// The user has blocked the bot, has left, or was never there.
    #[error("blocked")]
    Blocked,
    /// Too many calls; Telegram accepts the next one after this time.
    #[error("too many calls; Telegram accepts the next after {0:?}")]
    TooMany(Duration),
    /// Telegram does not know the token.
    #[error("Telegram refuses the token")]
    Unauthorized,
    /// Another process gets the updates of this bot.
    #[error("another process gets the updates of this bot")]
    Conflict,
    /// Telegram was not reached, so the call was not executed.
    #[error("cannot reach Telegram: {0}")]
    Unreachable(String),
    /// There was no readable answer. The call may have been executed.
    #[error("no answer from Telegram: {0}")]
    Lost(String),
    /// Telegram refuses the call.
    #[error("Telegram refuses: {0}")]
    Refused(String),
}

impl Failure {
    /// Its name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Gone => "gone",
            Self::Stale => "stale",
            Self::Blocked => "blocked",
            Self::TooMany(_) => "too_many",
            Self::Unauthorized => "unauthorized",
            Self::Conflict => "conflict",
            Self::Unreachable(_) => "unreachable",
            Self::Lost(_) => "lost",
            Self::Refused(_) => "refused",
        }
    }

    /// A call without an answer in time.
    pub(super) fn timeout() -> Self {
        Self::Lost("there was no answer in time".to_owned())
    }

    pub(super) fn of(error: &RequestError) -> Self {
        match error {
            RequestError::Api(error) => Self::of_api(error),
            RequestError::RetryAfter(wait) => Self::TooMany(wait.duration()),
            RequestError::Network(error) if error.is_connect() => {
                Self::Unreachable(cause(error.as_ref()))
            }
            RequestError::Network(error) if error.is_timeout() => Self::timeout(),
            RequestError::Network(error) => Self::Lost(cause(error.as_ref())),
            RequestError::InvalidJson { .. } => Self::Lost("the answer cannot be read".to_owned()),
            RequestError::Io(error) => Self::Lost(error.to_string()),
            RequestError::MigrateToChatId(_) => Self::Gone,
        }
    }

    fn of_api(error: &ApiError) -> Self {
        match error {
            ApiError::MessageNotModified => Self::Same,
            ApiError::MessageIdInvalid
            | ApiError::MessageCantBeEdited
            | ApiError::MessageToEditNotFound => Self::Gone,
            ApiError::InvalidQueryId => Self::Stale,
            ApiError::BotBlocked
            | ApiError::UserDeactivated
            | ApiError::UserNotFound
            | ApiError::ChatNotFound
            | ApiError::CantInitiateConversation
            | ApiError::CantTalkWithBots
            | ApiError::BotKicked
            | ApiError::BotKickedFromSupergroup => Self::Blocked,
            ApiError::InvalidToken => Self::Unauthorized,
            ApiError::TerminatedByOtherGetUpdates | ApiError::CantGetUpdates => Self::Conflict,
            ApiError::Unknown(text) => Self::of_text(text),
            // All other texts are fixed; this one repeats a part of the message.
            ApiError::CantParseEntities(_) => Self::Refused("can't parse entities".to_owned()),
            other => Self::Refused(words(&other.to_string())),
        }
    }

    /// Telegram changes its texts, but their beginnings have stayed the same.
    fn of_text(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        let starts = |start| lower.starts_with(start);
        let contains = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
        let known = [
            (starts("forbidden"), Self::Blocked),
            (starts("conflict"), Self::Conflict),
            (starts("unauthorized"), Self::Unauthorized),
            (contains(&["message is not modified"]), Self::Same),
            (
                contains(&["message to edit not found", "message can't be edited"]),
                Self::Gone,
            ),
            (contains(&["query is too old"]), Self::Stale),
            (contains(&SERVER_ERRORS), Self::Lost(words(text))),
        ];
        let found = known.into_iter().find(|(matches, _)| *matches);
        found.map_or_else(|| Self::Refused(words(text)), |(_, failure)| failure)
    }
}

/// The innermost cause, from the operating system or TLS. The outer layers print the URL.
pub(crate) fn cause(error: &dyn Error) -> String {
    let Some(mut inner) = error.source() else {
        return "the request failed".to_owned();
    };
    while let Some(source) = inner.source() {
        inner = source;
    }
    words(&inner.to_string())
}

/// The first words of a text, without those that are too long.
pub(super) fn words(text: &str) -> String {
    let words = text.split_whitespace().take(MAX_WORDS);
    let words = words.map(|word| match word.chars().count() > MAX_WORD {
        true => "…",
        false => word,
    });
    words
        .collect::<Vec<_>>()
        .join(" ")
        .escape_debug()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Failure {
        let json = serde_json::to_string(text).unwrap();
        Failure::of_api(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn texts_of_telegram_map_to_failures() {
        for (text, expected) in [
            ("Forbidden: bot was blocked by the user", Failure::Blocked),
            ("Forbidden: user is deactivated", Failure::Blocked),
            ("Forbidden: something new", Failure::Blocked),
            ("Bad Request: chat not found", Failure::Blocked),
            ("Bad Request: message to edit not found", Failure::Gone),
            ("Bad Request: message can't be edited", Failure::Gone),
            (
                "Bad Request: message is not modified: specified new message content and reply \
                 markup are exactly the same as a current content and reply markup of the message",
                Failure::Same,
            ),
            ("Bad Request: message is not modified", Failure::Same),
            (
                "Bad Request: query is too old and response timeout expired or query id is invalid",
                Failure::Stale,
            ),
            ("Unauthorized", Failure::Unauthorized),
            ("Not Found", Failure::Unauthorized),
            (
                "Conflict: terminated by other getUpdates request; make sure that only one bot \
                 instance is running",
                Failure::Conflict,
            ),
            (
                "Conflict: can't use getUpdates method while webhook is active",
                Failure::Conflict,
            ),
            (
                "Internal Server Error",
                Failure::Lost("Internal Server Error".to_owned()),
            ),
            (
                "Bad Request: new",
                Failure::Refused("Bad Request: new".to_owned()),
            ),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_contains_no_secret() {
        let key = format!("kw_{}", "Canary9".repeat(7));
        let text = of(&format!("Bad Request: unexpected {key} in\nthe text")).to_string();
        assert_eq!(
            text,
            "Telegram refuses: Bad Request: unexpected … in the text"
        );
        let text = of(&format!("Bad Request: can't parse entities: {key}")).to_string();
        assert!(!text.contains("Canary9"), "{text}");
    }
}
