//! What a failed call says: about the call, never about a key.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// `ErrorInfo.domain` of every error that Keyward itself made.
const DOMAIN: &str = "keyward";

/// What kind of failure it was, which is what a caller acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nobody could answer, or the outcome is not known. The same call again is safe.
    Unavailable,
    /// This client's own token is missing, unknown, or lacks the role. A fault of the deployment,
    /// not of the key that was asked about.
    Unauthorized,
    /// The request is no request, or what it wants cannot be (INVALID_ARGUMENT,
    /// FAILED_PRECONDITION, OUT_OF_RANGE). The same call again fails again.
    Invalid,
    /// There is no such key (`Get`, `Revoke`, `Update`).
    NotFound,
    /// Anything else: a fault of the service, or the endpoint is no Keyward.
    Internal,
}

/// A call that failed. It holds no key material.
#[derive(Clone, Debug)]
pub struct Error {
    /// What kind of failure it was.
    pub kind: ErrorKind,
    /// The reason that Keyward gave, such as `REVOKE_UNCONFIRMED`; the proto lists them. `None` if
    /// the failure did not come from Keyward, but from the way there.
    pub reason: Option<String>,
    /// What happened, for people.
    pub message: String,
    /// What Keyward added for programs, such as `replacement_key_id`.
    pub metadata: HashMap<String, String>,
    /// After which time the service asked to be called again, if it said so.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{reason}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Unavailable,
            reason: None,
            message: message.into(),
            metadata: HashMap::new(),
            retry_after: None,
        }
    }

    /// What `status`, the outcome of a call to `endpoint`, means.
    pub(crate) fn from_status(status: &Status, endpoint: &str) -> Self {
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == DOMAIN);
        let (reason, metadata) = info.map_or((None, HashMap::new()), |info| {
            (Some(info.reason), info.metadata)
        });
        // tonic adds the source to what it made up itself: the call broke on its way.
        let broken = std::error::Error::source(status);
        let kind = match (status.code(), broken) {
            (_, Some(_)) if reason.is_none() => ErrorKind::Unavailable,
            (code, _) => kind_of(code),
        };
        let message = match broken {
            Some(source) => format!("{endpoint}: {}", innermost(source)),
            None if reason.is_some() => status.message().to_owned(),
            None => format!(
                "{endpoint}: {}: {}",
                status.code().description(),
                status.message()
            ),
        };
        Self {
            kind,
            reason,
            message,
            metadata,
            retry_after: status
                .get_details_retry_info()
                .and_then(|info| info.retry_delay),
        }
    }

    /// Whether the failure speaks against the instance that was asked. A change that another
    /// instance has not confirmed yet does not, nor does a request that is none.
    pub(crate) fn speaks_against_endpoint(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Internal)
            && !matches!(
                self.reason.as_deref(),
                Some("REVOKE_UNCONFIRMED" | "OUTCOME_UNKNOWN")
            )
    }
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        // A deadline or a limit on the way says nothing of what became of the call.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::ResourceExhausted
        | Code::Aborted
        // Keyward has no such answer: the call broke on its way.
        | Code::Unknown => ErrorKind::Unavailable,
        Code::Unauthenticated | Code::PermissionDenied => ErrorKind::Unauthorized,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => ErrorKind::Invalid,
        Code::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::Internal,
    }
}

/// The outer errors of the transport say no more than that there was one.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_reason_of_another_domain_is_not_keywards() {
        for (domain, reason) in [("keyward", Some("NOT_FRESH")), ("proxy", None)] {
            let details = ErrorDetails::with_error_info(
                "NOT_FRESH",
                domain,
                [("a".to_owned(), "b".to_owned())],
            );
            let status = Status::with_error_details(Code::Unavailable, "later", details);
            let error = Error::from_status(&status, "http://a");
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
            let error = Error::from_status(&Status::new(code, "x"), "http://a");
            assert_eq!(error.kind, kind, "{code:?}");
        }
    }

    #[test]
    fn what_broke_on_the_way_is_unavailable_whatever_its_code() {
        let broken = std::io::Error::other("connection reset");
        let status = Status::from_error(Box::new(broken));
        assert_eq!(status.code(), Code::Unknown);
        let error = Error::from_status(&status, "http://a");
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(error.to_string(), "http://a: connection reset");
    }
}
