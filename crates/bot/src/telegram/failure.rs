//! The failures of calls to Telegram, without the token and without message texts.
//!
//! The errors of the libraries print the URL, which contains the token, and an answer may contain a
//! key. So this module uses only parts of them.

use std::time::Duration;

use keyward_ops::outgoing::{cause, words};

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
    /// Telegram pushes the updates of this bot to a webhook.
    #[error(
        "a webhook is registered for this bot, so Telegram refuses getUpdates: call deleteWebhook, \
         or restart the bot once with delete_webhook = true"
    )]
    Webhook,
    /// Telegram was not reached, so the call was not executed.
    #[error("cannot reach Telegram: {0}")]
    Unreachable(String),
    /// Telegram, or a proxy before it, answered with this status of a server that fails. The call
    /// was probably not executed.
    #[error("Telegram fails with status {0}")]
    Server(u16),
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
            Self::Webhook => "webhook",
            Self::Unreachable(_) => "unreachable",
            Self::Server(_) => "server_error",
            Self::Lost(_) => "lost",
            Self::Refused(_) => "refused",
        }
    }

    /// A call without an answer in time.
    pub(super) fn timeout() -> Self {
        Self::Lost("there was no answer in time".to_owned())
    }

    pub(super) fn of_http(error: &reqwest::Error) -> Self {
        if error.is_connect() {
            Self::Unreachable(cause(error))
        } else if error.is_timeout() {
            Self::timeout()
        } else {
            Self::Lost(cause(error))
        }
    }

    /// The failure of a status from 500 on. With 504 a proxy says that it got no answer.
    pub(super) fn of_server(status: u16) -> Self {
        match status {
            504 => Self::Lost("a proxy got no answer: status 504".to_owned()),
            status => Self::Server(status),
        }
    }

    /// The failure of Telegram's answer. Telegram changes its texts, but these parts have stayed.
    pub(super) fn of_answer(code: u16, text: &str, retry_after: Option<u64>) -> Self {
        let lower = text.to_ascii_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| lower.contains(part));
        match code {
            401 | 404 => Self::Unauthorized,
            403 => Self::Blocked,
            409 if says(&["webhook"]) => Self::Webhook,
            409 => Self::Conflict,
            429 => Self::TooMany(Duration::from_secs(retry_after.unwrap_or(1))),
            500.. => Self::of_server(code),
            _ if says(&["message is not modified"]) => Self::Same,
            _ if says(&[
                "message to edit not found",
                "message can't be edited",
                "message_id_invalid",
            ]) =>
            {
                Self::Gone
            }
            _ if says(&["query is too old", "query_id_invalid"]) => Self::Stale,
            _ if says(&["chat not found", "user not found"]) => Self::Blocked,
            // The rest of this text repeats a part of the message.
            _ if says(&["can't parse entities"]) => {
                Self::Refused("can't parse entities".to_owned())
            }
            _ => Self::Refused(words(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, text: &str) -> Failure {
        Failure::of_answer(code, text, None)
    }

    #[test]
    fn answers_of_telegram_map_to_failures() {
        for (code, text, expected) in [
            (
                403,
                "Forbidden: bot was blocked by the user",
                Failure::Blocked,
            ),
            (403, "Forbidden: something new", Failure::Blocked),
            (400, "Bad Request: chat not found", Failure::Blocked),
            (400, "Bad Request: message to edit not found", Failure::Gone),
            (400, "Bad Request: message can't be edited", Failure::Gone),
            (
                400,
                "Bad Request: message is not modified: specified new message content and reply \
                 markup are exactly the same as a current content and reply markup of the message",
                Failure::Same,
            ),
            (
                400,
                "Bad Request: query is too old and response timeout expired or query id is invalid",
                Failure::Stale,
            ),
            (401, "Unauthorized", Failure::Unauthorized),
            (404, "Not Found", Failure::Unauthorized),
            (
                409,
                "Conflict: terminated by other getUpdates request; make sure that only one bot \
                 instance is running",
                Failure::Conflict,
            ),
            (
                409,
                "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook",
                Failure::Webhook,
            ),
            (
                429,
                "Too Many Requests",
                Failure::TooMany(Duration::from_secs(1)),
            ),
            (502, "Bad Gateway", Failure::Server(502)),
            (
                504,
                "Gateway Timeout",
                Failure::Lost("a proxy got no answer: status 504".to_owned()),
            ),
            (
                400,
                "Bad Request: new",
                Failure::Refused("Bad Request: new".to_owned()),
            ),
        ] {
            assert_eq!(of(code, text), expected, "{text}");
        }
    }

    #[test]
    fn a_refusal_contains_no_secret() {
        let key = format!("kw_{}", "Canary9".repeat(7));
        let text = of(400, &format!("Bad Request: unexpected {key} in\nthe text")).to_string();
        assert_eq!(
            text,
            "Telegram refuses: Bad Request: unexpected … in the text"
        );
        let text = of(400, &format!("Bad Request: can't parse entities: {key}")).to_string();
        assert!(!text.contains("Canary9"), "{text}");
    }
}
