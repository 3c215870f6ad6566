//! The error of a failed call. It is about the call, never about a key.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use keyward_guard::InvalidResponse;
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt as _;

/// `ErrorInfo.domain` of every error that comes from Keyward itself.
const DOMAIN: &str = "keyward";

/// The kind of a failure, which decides what a caller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No endpoint could answer, or the outcome is unknown. Repeating the call is safe, except for
    /// CreateToken.
    Unavailable,
    /// This client's own token is missing, unknown, or lacks the role. The deployment is at fault,
    /// not the key in question.
    Unauthorized,
    /// The request is invalid, or what it asks for is impossible (INVALID_ARGUMENT,
    /// FAILED_PRECONDITION, OUT_OF_RANGE). The same call fails again.
    Invalid,
    /// The key or token does not exist.
    NotFound,
    /// Any other failure: a fault of the service, or the endpoint is not Keyward.
    Internal,
}

/// What to check after a failure of the connection. `Display` says it to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// The server presents a CA certificate as its own.
    CaAsServer,
    /// The server's certificate is not trusted, or does not name the endpoint's host.
    Certificate,
    /// The URL is https://, and the server does not speak TLS.
    WithoutTls,
    /// The URL is http://, and the server may use TLS.
    WithTls,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CaAsServer => {
                "The server presents a CA certificate as its own: create a certificate with \
                 basicConstraints=critical,CA:FALSE."
            }
            Self::Certificate => {
                "Check that the CA file holds the authority that signed the server's certificate, and \
                 that the certificate names the endpoint's host."
            }
            Self::WithoutTls => {
                "The server does not speak TLS: use http:// if it is meant to be reached without TLS."
            }
            Self::WithTls => "The server may use TLS: try https://.",
        })
    }
}

/// A failed call. It holds no key material.
#[derive(Clone, Debug)]
pub struct Error {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// The reason that Keyward gave, such as `REVOKE_UNCONFIRMED` (the proto lists them), or its
    /// health, such as `NOT_SERVING`. `None` if the failure came from the connection.
    pub reason: Option<String>,
    /// What happened, for people.
    pub message: String,
    /// What to check, if the failure of the connection shows its cause.
    pub advice: Option<Advice>,
    /// What Keyward added for programs, such as `replacement_key_id`.
    pub metadata: HashMap<String, String>,
    /// The time after which the service asked to be called again.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.reason {
            write!(f, "{reason}: ")?;
        }
        f.write_str(&self.message)?;
        match self.advice {
            Some(advice) => write!(f, ". {advice}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {}

impl From<InvalidResponse> for Error {
    fn from(error: InvalidResponse) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl Error {
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            reason: None,
            message: message.into(),
            advice: None,
            metadata: HashMap::new(),
            retry_after: None,
        }
    }

    /// The endpoint did not answer within `limit`.
    pub(crate) fn no_response(url: &str, limit: Duration) -> Self {
        // What is left of a limit is a little less than the limit.
        let millis = u64::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let limit = Duration::from_millis(millis);
        Self::unavailable(format!("{url}: no response within {limit:?}"))
    }

    /// The meaning of `status`, the outcome of a call to the endpoint `url` within `limit`.
    pub(crate) fn from_status(status: &Status, url: &str, limit: Duration) -> Self {
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == DOMAIN);
        let (reason, metadata) = info.map_or((None, HashMap::new()), |info| {
            (Some(info.reason), info.metadata)
        });
        // tonic adds a source to the statuses that it makes itself: the connection failed.
        let transport = StdError::source(status).filter(|_| reason.is_none());
        if status.message() == TimeoutExpired(()).to_string() && reason.is_none() {
            return Self::no_response(url, limit);
        }
        let message = match transport {
            Some(source) => transport_message(source, url),
            None if reason.is_some() => with_violations(status),
            None => format!(
                "{url}: {}: {}",
                status.code().description(),
                status.message()
            ),
        };
        Self {
            kind: match transport {
                Some(_) => ErrorKind::Unavailable,
                None => kind_of(status.code()),
            },
            reason,
            message,
            advice: transport.and_then(|source| advice(source, url)),
            metadata,
            retry_after: status
                .get_details_retry_info()
                .and_then(|info| info.retry_delay),
        }
    }

    /// Whether the failure is the instance's own. An unconfirmed change is not: it waits for another
    /// instance. Neither is an invalid request, a near-cache that is one too many, or a used-up allowance.
    pub(crate) fn is_endpoint_failure(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Internal)
            && !matches!(
                self.reason.as_deref(),
                Some("REVOKE_UNCONFIRMED" | "OUTCOME_UNKNOWN" | "NEAR_CACHES_EXHAUSTED")
            )
            && !self.is_over_allowance()
    }

    /// Whether this caller has seen too many secrets on the instance. A repetition on the next one would make
    /// the limit as many times as large as there are instances.
    pub(crate) fn is_over_allowance(&self) -> bool {
        self.reason.as_deref() == Some("REVEALS_EXHAUSTED")
    }
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        // After a deadline, or a limit of a proxy, the outcome is unknown.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::ResourceExhausted
        | Code::Aborted
        // Keyward never answers this: the call failed on its way.
        | Code::Unknown => ErrorKind::Unavailable,
        Code::Unauthenticated | Code::PermissionDenied => ErrorKind::Unauthorized,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Internal,
    }
}

/// The message of Keyward, with those violations that it does not mention.
fn with_violations(status: &Status) -> String {
    let mut message = status.message().to_owned();
    let details = status.get_details_bad_request();
    for violation in details.iter().flat_map(|details| &details.field_violations) {
        if !message.contains(&violation.description) {
            message.push_str(&format!("; {}: {}", violation.field, violation.description));
        }
    }
    message
}

/// What failed in the transport.
fn transport_message(error: Cause<'_>, url: &str) -> String {
    let cause = innermost(error);
    match is_connect_error(error) {
        true => format!("cannot connect to {url}: {cause}"),
        false => format!("{url}: {cause}"),
    }
}

/// What `error` of the transport shows about its cause.
fn advice(error: Cause<'_>, url: &str) -> Option<Advice> {
    let cause = innermost(error);
    let holds = |part| cause.contains(part);
    Some(if holds("CaUsedAsEndEntity") {
        Advice::CaAsServer
    } else if holds("certificate") {
        Advice::Certificate
    } else if holds("InvalidContentType") {
        Advice::WithoutTls
    // A server with TLS answers HTTP/2 with a TLS alert, and closes the connection.
    } else if url.starts_with("http://") && (holds("invalid size") || holds("broken pipe")) {
        Advice::WithTls
    } else {
        return None;
    })
}

/// Whether no connection was made, so that the call was never sent.
pub(crate) fn is_connect_failure(status: &Status) -> bool {
    StdError::source(status).is_some_and(is_connect_error)
}

fn is_connect_error(error: Cause<'_>) -> bool {
    chain(error).any(|error| error.is::<ConnectError>())
}

type Cause<'a> = &'a (dyn StdError + 'static);

/// The error and all its sources.
fn chain(error: Cause<'_>) -> impl Iterator<Item = Cause<'_>> {
    std::iter::successors(Some(error), |error| StdError::source(*error))
}

/// The text of the innermost error: the outer errors of the transport only say that one occurred.
pub(crate) fn innermost(error: Cause<'_>) -> String {
    let error = chain(error).last().unwrap_or(error);
    if error.is::<tokio::time::error::Elapsed>() {
        return "no response in time".to_owned();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[test]
    fn reason_of_another_domain_is_ignored() {
        for (domain, reason) in [("keyward", Some("NOT_FRESH")), ("proxy", None)] {
            let details = ErrorDetails::with_error_info(
                "NOT_FRESH",
                domain,
                [("a".to_owned(), "b".to_owned())],
            );
            let status = Status::with_error_details(Code::Unavailable, "later", details);
            let error = Error::from_status(&status, "http://a", LIMIT);
            assert_eq!(error.kind, ErrorKind::Unavailable);
            assert_eq!(error.reason.as_deref(), reason);
            assert_eq!(error.metadata.contains_key("a"), reason.is_some());
        }
    }

    #[test]
    fn each_code_has_its_kind() {
        for (code, kind) in [
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::DeadlineExceeded, ErrorKind::Unavailable),
            (Code::Cancelled, ErrorKind::Unavailable),
            (Code::ResourceExhausted, ErrorKind::Unavailable),
            (Code::Unauthenticated, ErrorKind::Unauthorized),
            (Code::PermissionDenied, ErrorKind::Unauthorized),
            (Code::InvalidArgument, ErrorKind::Invalid),
            (Code::FailedPrecondition, ErrorKind::Invalid),
            (Code::OutOfRange, ErrorKind::Invalid),
            (Code::NotFound, ErrorKind::NotFound),
            (Code::Internal, ErrorKind::Internal),
            (Code::Unimplemented, ErrorKind::Internal),
            (Code::Unknown, ErrorKind::Unavailable),
        ] {
            let error = Error::from_status(&Status::new(code, "x"), "http://a", LIMIT);
            assert_eq!(error.kind, kind, "{code:?}");
        }
    }

    #[test]
    fn transport_failure_is_unavailable_with_any_code() {
        let broken = std::io::Error::other("connection reset");
        let status = Status::from_error(Box::new(broken));
        assert_eq!(status.code(), Code::Unknown);
        let error = Error::from_status(&status, "http://a", LIMIT);
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(error.to_string(), "http://a: connection reset");
    }

    #[test]
    fn invalid_fields_are_named_once() {
        let mut details = ErrorDetails::with_error_info("INVALID_FIELD", "keyward", HashMap::new());
        details.add_bad_request_violation("name", "is empty");
        for message in ["name: is empty", "refused"] {
            let status =
                Status::with_error_details(Code::InvalidArgument, message, details.clone());
            let error = Error::from_status(&status, "http://a", LIMIT);
            assert_eq!(error.to_string().matches("name: is empty").count(), 1);
        }
    }

    #[test]
    fn expired_deadline_names_the_limit() {
        let left = LIMIT - Duration::from_nanos(1);
        let status = Status::cancelled("Timeout expired");
        for error in [
            Error::from_status(&status, "http://a", left),
            Error::no_response("http://a", left),
        ] {
            assert_eq!(error.kind, ErrorKind::Unavailable);
            assert_eq!(error.to_string(), "http://a: no response within 1s");
        }
    }
}
