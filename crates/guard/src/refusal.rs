//! The reasons for refusing a request, in HTTP and in gRPC.
//!
//! A caller learns whether its key is revoked, expired or disabled. That is safe: such a verdict
//! needs the exact text of a key, which nobody can guess, and it tells an honest user what to do next.
//! A malformed key and an unknown key give the same refusal.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{Identity, Verdict};

/// The reason for refusing a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The request holds no key.
    KeyMissing {
        /// The headers in which it may send one.
        headers: Vec<HeaderName>,
    },
    /// The request holds two different keys.
    KeyAmbiguous,
    /// A header for the key is not ASCII text.
    KeyUnreadable,
    /// The key does not exist.
    KeyUnknown,
    /// The key is revoked for good.
    KeyRevoked,
    /// The key has expired for good.
    KeyExpired,
    /// The key is disabled; it can be enabled again.
    KeyDisabled,
    /// The key is live, but lacks a required scope.
    ScopeMissing,
    /// The key is live, but may not be used from this address.
    AddressNotAllowed,
    /// Keyward gave no verdict. Nothing is known about the key.
    Unavailable {
        /// The time after which to try again.
        retry_after: Duration,
    },
}

/// The time after which to try again, if Keyward gave none.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

impl Refusal {
    /// The content type of [`Self::problem`].
    pub const PROBLEM_TYPE: &str = "application/problem+json";

    /// No verdict, with the time after which to try again, if Keyward gave one.
    pub fn unavailable(retry_after: Option<Duration>) -> Self {
        Self::Unavailable {
            retry_after: retry_after.unwrap_or(RETRY_AFTER_DEFAULT),
        }
    }

    /// The identity of a valid key.
    ///
    /// # Errors
    ///
    /// The refusal for any other verdict.
    pub fn check(verdict: Verdict) -> Result<Identity, Self> {
        match verdict {
            Verdict::Valid(identity) => Ok(identity),
            Verdict::NotFound | Verdict::Malformed => Err(Self::KeyUnknown),
            Verdict::Revoked(_) => Err(Self::KeyRevoked),
            Verdict::Expired(_) => Err(Self::KeyExpired),
            Verdict::Disabled(_) => Err(Self::KeyDisabled),
            Verdict::InsufficientScope => Err(Self::ScopeMissing),
            Verdict::IpNotAllowed => Err(Self::AddressNotAllowed),
        }
    }

    /// The HTTP status: 401, 403 or 503. Proxies such as nginx understand no other refusal.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::KeyMissing { .. }
            | Self::KeyAmbiguous
            | Self::KeyUnreadable
            | Self::KeyUnknown
            | Self::KeyRevoked
            | Self::KeyExpired
            | Self::KeyDisabled => StatusCode::UNAUTHORIZED,
            Self::ScopeMissing | Self::AddressNotAllowed => StatusCode::FORBIDDEN,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::KeyMissing { .. } => "API_KEY_REQUIRED",
            Self::KeyAmbiguous => "AMBIGUOUS_API_KEY",
            Self::KeyUnreadable => "UNREADABLE_API_KEY",
            Self::KeyUnknown => "INVALID_API_KEY",
            Self::KeyRevoked => "API_KEY_REVOKED",
            Self::KeyExpired => "API_KEY_EXPIRED",
            Self::KeyDisabled => "API_KEY_DISABLED",
            Self::ScopeMissing => "INSUFFICIENT_SCOPE",
            Self::AddressNotAllowed => "IP_NOT_ALLOWED",
            Self::Unavailable { .. } => "SERVICE_UNAVAILABLE",
        }
    }

    /// The sentence for people.
    pub fn detail(&self) -> Cow<'static, str> {
        let detail = match self {
            Self::KeyMissing { headers } => {
                let names: Vec<_> = headers.iter().map(HeaderName::as_str).collect();
                return format!("Send an API key in the header {}.", names.join(" or ")).into();
            }
            Self::KeyAmbiguous => "The request holds two different API keys. Send one.",
            Self::KeyUnreadable => "The header with the API key is not ASCII text.",
            Self::KeyUnknown => "There is no such API key.",
            Self::KeyRevoked => "The API key has been revoked.",
            Self::KeyExpired => "The API key has expired.",
            Self::KeyDisabled => "The API key is disabled.",
            Self::ScopeMissing => "The API key lacks a scope that this request takes.",
            Self::AddressNotAllowed => "The API key may not be used from this address.",
            Self::Unavailable { .. } => "API keys cannot be checked now. Try again soon.",
        };
        detail.into()
    }

    /// The body for people and programs: a problem of RFC 9457, with [`Self::code`] as `code`.
    pub fn problem(&self) -> String {
        let status = self.status();
        let problem = serde_json::json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.detail(),
            "code": self.code(),
        });
        problem.to_string()
    }

    /// Adds the headers of the status: the challenge (RFC 9110, 11.6.1; RFC 6750, 3), or the time
    /// after which to try again. `names` are the headers that may hold a key, and `scopes` those that
    /// the request needs. The schemes of `authorization` are announced only if it may hold a key.
    pub fn add_headers(
        &self,
        headers: &mut HeaderMap,
        names: &[HeaderName],
        realm: &str,
        scopes: &[String],
    ) {
        if let Self::Unavailable { retry_after } = self {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(*retry_after)));
        }
        let is_for_scope = *self == Self::ScopeMissing;
        if !is_for_scope && self.status() != StatusCode::UNAUTHORIZED {
            return;
        }
        let realm = quoted(realm);
        let challenges = if names.contains(&AUTHORIZATION) {
            let problem = match self {
                Self::KeyMissing { .. } => String::new(),
                Self::ScopeMissing => {
                    let scopes = quoted(&scopes.join(" "));
                    format!(", error=\"insufficient_scope\", scope={scopes}")
                }
                Self::KeyAmbiguous => ", error=\"invalid_request\"".to_owned(),
                _ => ", error=\"invalid_token\"".to_owned(),
            };
            let bearer = format!("Bearer realm={realm}{problem}");
            vec![format!("ApiKey realm={realm}"), bearer]
        } else if is_for_scope {
            Vec::new()
        } else {
            let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
            vec![format!(
                "ApiKey realm={realm}, headers={}",
                quoted(&names.join(" "))
            )]
        };
        for challenge in challenges {
            // Quoted text is always a valid header.
            if let Ok(value) = HeaderValue::try_from(challenge) {
                headers.append(WWW_AUTHENTICATE, value);
            }
        }
    }

    /// The refusal as a gRPC status.
    pub fn grpc(&self) -> Status {
        let code = match self.status() {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            _ => Code::Unavailable,
        };
        let text = format!("{}: {}", self.code(), self.detail());
        match self {
            Self::Unavailable { retry_after } => {
                let details = ErrorDetails::with_retry_info(Some(*retry_after));
                Status::with_error_details(code, text, details)
            }
            _ => Status::new(code, text),
        }
    }
}

/// Rounded up, so that nobody comes too early; at least 1.
pub fn whole_seconds(time: Duration) -> u64 {
    let more = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(more).max(1)
}

/// A quoted string of RFC 9110, without characters that it cannot hold.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text
        .chars()
        .filter(|character| matches!(character, ' '..='~'))
    {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::DEFAULT_HEADERS;

    #[test]
    fn quoted_string_is_always_valid() {
        assert_eq!(quoted(r#"a "b" \ "#), r#""a \"b\" \\ ""#);
        assert_eq!(quoted("é\r\nx"), r#""x""#);
    }

    #[test]
    fn seconds_are_rounded_up() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }

    #[test]
    fn challenges_name_the_problem() {
        let challenges = |refusal: Refusal| {
            let mut headers = HeaderMap::new();
            let scopes = ["a:b".to_owned(), "c".to_owned()];
            refusal.add_headers(&mut headers, &DEFAULT_HEADERS, "orders", &scopes);
            let values = headers.get_all(WWW_AUTHENTICATE);
            let texts = values
                .iter()
                .map(|value| value.to_str().unwrap().to_owned());
            texts.collect::<Vec<_>>()
        };
        let ours = r#"ApiKey realm="orders""#;
        assert_eq!(
            challenges(Refusal::KeyMissing {
                headers: Vec::new()
            }),
            [ours, r#"Bearer realm="orders""#]
        );
        assert_eq!(
            challenges(Refusal::KeyRevoked),
            [ours, r#"Bearer realm="orders", error="invalid_token""#]
        );
        assert_eq!(
            challenges(Refusal::KeyAmbiguous),
            [ours, r#"Bearer realm="orders", error="invalid_request""#]
        );
        assert_eq!(
            challenges(Refusal::ScopeMissing),
            [
                ours,
                r#"Bearer realm="orders", error="insufficient_scope", scope="a:b c""#
            ]
        );
        assert!(challenges(Refusal::AddressNotAllowed).is_empty());
        assert!(challenges(Refusal::unavailable(None)).is_empty());
    }

    #[test]
    fn problem_has_the_members_of_the_rfc() {
        let problem: serde_json::Value =
            serde_json::from_str(&Refusal::KeyRevoked.problem()).unwrap();
        let expected = serde_json::json!({
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": "The API key has been revoked.",
            "code": "API_KEY_REVOKED",
        });
        assert_eq!(problem, expected);
    }
}
