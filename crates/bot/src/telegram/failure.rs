//! What can go wrong with a call to Telegram, told without the token and without any message.
//!
//! The errors of the libraries print the URL, which holds the token, and answers that could not be
//! read, which may hold a key. So their text is never used: only what is taken out here.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use teloxide_core::{ApiError, RequestError};

/// Words of Telegram that are longer are left out of what is logged: they may be a secret.
const LONGEST_WORD: usize = 20;
const MOST_WORDS: usize = 16;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The message is what it should become.
    Same,
    /// There is no such message, or it cannot be edited any more.
    Gone,
    /// The tap is too old to be answered.
    Stale,
    /// The user has blocked the bot, has left, or was never there.
    Blocked,
    /// Too many calls; after this time they are taken again.
    TooMany(Duration),
    /// Telegram does not know the token.
    Unauthorized,
    /// Somebody else takes the updates of this bot.
    Conflict,
    /// Telegram was not reached: nothing was done.
    Unreachable(String),
    /// There was no answer that could be read: it may be done.
    Lost(String),
    /// Telegram refuses the call.
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

    pub(super) fn of(error: &RequestError) -> Self {
        match error {
            RequestError::Api(error) => Self::of_api(error),
            RequestError::RetryAfter(wait) => Self::TooMany(wait.duration()),
            RequestError::Network(error) if error.is_connect() => {
                Self::Unreachable(cause(error.as_ref()))
            }
            RequestError::Network(error) if error.is_timeout() => {
                Self::Lost("there was no answer in time".to_owned())
            }
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
            // These say the same in fixed words; one repeats what was wrong with the markup.
            ApiError::CantParseEntities(_) => Self::Refused("can't parse entities".to_owned()),
            other => Self::Refused(words(&other.to_string())),
        }
    }

    /// Telegram's texts change; their beginnings have stayed.
    fn of_text(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        if lower.starts_with("forbidden") {
            Self::Blocked
        } else if lower.starts_with("conflict") {
            Self::Conflict
        } else if lower.starts_with("unauthorized") {
            Self::Unauthorized
        } else if lower.contains("message is not modified") {
            Self::Same
        } else if lower.contains("message to edit not found")
            || lower.contains("message can't be edited")
        {
            Self::Gone
        } else if lower.contains("query is too old") {
            Self::Stale
        } else if [
            "internal server error",
            "bad gateway",
            "service unavailable",
            "gateway timeout",
        ]
        .iter()
        .any(|known| lower.contains(known))
        {
            Self::Lost(words(text))
        } else {
            Self::Refused(words(text))
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(wait) => write!(f, "too many calls, again in {} s", wait.as_secs()),
            Self::Unreachable(why) => write!(f, "cannot reach Telegram: {why}"),
            Self::Lost(why) => write!(f, "no answer of Telegram: {why}"),
            Self::Refused(why) => write!(f, "Telegram refuses: {why}"),
            Self::Unauthorized => f.write_str("Telegram does not know the token"),
            Self::Conflict => f.write_str("another program takes the updates of this bot"),
            Self::Same | Self::Gone | Self::Stale | Self::Blocked => f.write_str(self.name()),
        }
    }
}

/// The innermost cause: what the operating system or TLS says. The layers around it name the URL.
pub(crate) fn cause(error: &dyn Error) -> String {
    let Some(mut inner) = error.source() else {
        return "the request failed".to_owned();
    };
    while let Some(source) = inner.source() {
        inner = source;
    }
    words(&inner.to_string())
}

/// The first words, those left out that are too long to be words.
pub(super) fn words(text: &str) -> String {
    let words = text.split_whitespace().take(MOST_WORDS);
    let words = words.map(|word| match word.chars().count() > LONGEST_WORD {
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
    fn what_telegram_says_is_told_apart() {
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
    fn a_refusal_does_not_repeat_a_secret() {
        let key = format!("kw_{}", "Canary9".repeat(7));
        let said = of(&format!("Bad Request: unexpected {key} in\nthe text")).to_string();
        assert_eq!(
            said,
            "Telegram refuses: Bad Request: unexpected … in the text"
        );
        let said = of(&format!("Bad Request: can't parse entities: {key}")).to_string();
        assert!(!said.contains("Canary9"), "{said}");
    }
}
