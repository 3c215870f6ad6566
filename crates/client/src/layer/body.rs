//! The body of a refusal: two presets, or a function.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde_json::Value;

use super::Refusal;

/// Status, content type and body of a refusal. The layer adds `WWW-Authenticate` and `Retry-After`.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The status; usually [`Refusal::status`].
    pub status: StatusCode,
    /// The content type.
    pub content_type: HeaderValue,
    /// The body.
    pub body: Bytes,
}

impl Rendered {
    /// A body with the refusal's own status.
    pub fn new(refusal: &Refusal, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status: refusal.status(),
            content_type: HeaderValue::from_static(content_type),
            body: body.into(),
        }
    }
}

/// Renders refusals. Every function `Fn(&Refusal) -> Rendered` implements it.
pub trait RefusalBody: Send + Sync + 'static {
    /// The response to a refused request.
    fn render(&self, refusal: &Refusal) -> Rendered;
}

impl<F: Fn(&Refusal) -> Rendered + Send + Sync + 'static> RefusalBody for F {
    fn render(&self, refusal: &Refusal) -> Rendered {
        self(refusal)
    }
}

/// [`Refusal::problem`]: `application/problem+json` of RFC 9457. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Problem;

impl RefusalBody for Problem {
    fn render(&self, refusal: &Refusal) -> Rendered {
        Rendered::new(refusal, Refusal::PROBLEM_TYPE, refusal.problem())
    }
}

/// `{"error":true,"message":"API_KEY_REQUIRED","data":null}`.
///
/// The message is [`Refusal::code`], but every unknown, revoked, expired or disabled key is
/// `INVALID_API_KEY`: clients of this format know only that message.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    message: fn(&Refusal) -> String,
}

impl Envelope {
    /// An envelope with custom messages, such as `TSAS:106 API_KEY_REQUIRED`.
    pub const fn with_messages(message: fn(&Refusal) -> String) -> Self {
        Self { message }
    }

    /// The body for any message, so that other errors can have the same format.
    pub fn wrap(message: &str) -> String {
        let message = Value::from(message);
        format!(r#"{{"error":true,"message":{message},"data":null}}"#)
    }

    /// The default message of a refusal.
    pub fn message(refusal: &Refusal) -> String {
        let message = match refusal {
            Refusal::KeyRevoked | Refusal::KeyExpired | Refusal::KeyDisabled => {
                Refusal::KeyUnknown.code()
            }
            other => other.code(),
        };
        message.to_owned()
    }
}

impl Default for Envelope {
    fn default() -> Self {
        Self::with_messages(Self::message)
    }
}

impl RefusalBody for Envelope {
    fn render(&self, refusal: &Refusal) -> Rendered {
        let body = Self::wrap(&(self.message)(refusal));
        Rendered::new(refusal, "application/json", body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_has_its_fixed_format() {
        let missing = || Refusal::KeyMissing {
            headers: Vec::new(),
        };
        let text = |envelope: Envelope, refusal| envelope.render(&refusal).body;
        assert_eq!(
            text(Envelope::default(), missing()),
            r#"{"error":true,"message":"API_KEY_REQUIRED","data":null}"#
        );
        for refusal in [
            Refusal::KeyUnknown,
            Refusal::KeyRevoked,
            Refusal::KeyExpired,
        ] {
            assert_eq!(
                text(Envelope::default(), refusal),
                r#"{"error":true,"message":"INVALID_API_KEY","data":null}"#
            );
        }
        let own = Envelope::with_messages(|refusal| format!("\"7\" {}", refusal.code()));
        assert_eq!(
            text(own, missing()),
            r#"{"error":true,"message":"\"7\" API_KEY_REQUIRED","data":null}"#
        );
    }
}
