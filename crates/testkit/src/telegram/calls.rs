//! The calls of the bot.

use std::time::Instant;

use serde_json::{Map, Value, json};

/// One call of the Bot API.
#[derive(Clone, Debug)]
pub struct Call {
    /// The time of its arrival.
    pub at: Instant,
    /// The method in Telegram's spelling, such as `sendMessage`.
    pub method: &'static str,
    /// The arguments.
    pub arguments: Map<String, Value>,
    /// The status of the response, such as 200. `None` for a call in progress, and for a call that
    /// was never answered.
    pub status: Option<u16>,
}

/// Why a call is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) description: String,
    pub(super) retry_after: Option<u32>,
}

impl Refusal {
    /// 400, with the text after `Bad Request: `.
    pub(super) fn bad(description: impl AsRef<str>) -> Self {
        Self::new(400, format!("Bad Request: {}", description.as_ref()))
    }

    pub(super) fn new(code: u16, description: impl Into<String>) -> Self {
        Self {
            code,
            description: description.into(),
            retry_after: None,
        }
    }

    /// 429: retry after this number of seconds.
    pub(super) fn too_many(retry_after: u32) -> Self {
        Self {
            code: 429,
            description: format!("Too Many Requests: retry after {retry_after}"),
            retry_after: Some(retry_after),
        }
    }

    /// The body of the response.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({
            "ok": false, "error_code": self.code, "description": self.description,
        });
        if let Some(seconds) = self.retry_after {
            body["parameters"] = json!({ "retry_after": seconds });
        }
        body
    }
}
