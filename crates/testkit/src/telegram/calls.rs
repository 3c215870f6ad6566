//! What the bot has asked for.

use std::time::Instant;

use serde_json::{Map, Value, json};

/// One call of the Bot API.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it came.
    pub at: Instant,
    /// The method, as Telegram spells it: `sendMessage`.
    pub method: &'static str,
    /// Its arguments.
    pub arguments: Map<String, Value>,
    /// What it was answered with: a status such as 200; `None` while it is under way, and for one
    /// that was never answered.
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
    /// 400, with what Telegram says after `Bad Request: `.
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

    /// 429: come again in so many seconds.
    pub(super) fn too_many(retry_after: u32) -> Self {
        Self {
            code: 429,
            description: format!("Too Many Requests: retry after {retry_after}"),
            retry_after: Some(retry_after),
        }
    }

    /// The body that says so.
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
