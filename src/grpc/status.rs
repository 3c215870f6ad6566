//! Maps each error to a `tonic::Status`: code, message, reason and details.

mod agent;

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub(super) use agent::AgentError;

use super::peer::LimitError;
use crate::auth::Denied;
use crate::cache::LookupError;
use crate::service::{KeyringRefusal, NearRefusal, ServiceError, Unsettled};
use keyward_core::key::shown;
use keyward_ops::code_name;
use keyward_store::StoreError;

/// When a client may repeat a call that a limit refused.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// `ErrorInfo.domain` of every error.
const DOMAIN: &str = "keyward";

/// A reason that a client's code can act on.
struct Reason {
    /// `ErrorInfo.reason`.
    name: &'static str,
    code: Code,
    /// What happened and what to do, for the documentation.
    meaning: &'static str,
}

impl Reason {
    const fn new(name: &'static str, code: Code, meaning: &'static str) -> Self {
        Self {
            name,
            code,
            meaning,
        }
    }
}

static TOKEN_MISSING: Reason = Reason::new(
    "TOKEN_MISSING",
    Code::Unauthenticated,
    "The request has no token. Send `authorization: Bearer <token>`, or open the connection with a client certificate.",
);
static TOKEN_INVALID: Reason = Reason::new(
    "TOKEN_INVALID",
    Code::Unauthenticated,
    "The token is unknown, malformed, expired or revoked, or there is more than one. Check the token.",
);
static CERTIFICATE_INVALID: Reason = Reason::new(
    "CERTIFICATE_INVALID",
    Code::Unauthenticated,
    "The request has no token, and the client certificate names no caller, names several, or is expired. The message says which.",
);
static ROLE_REQUIRED: Reason = Reason::new(
    "ROLE_REQUIRED",
    Code::PermissionDenied,
    "The token lacks the required role; the metadata `role` names it. Use a token with that role.",
);
static INVALID_FIELD: Reason = Reason::new(
    "INVALID_FIELD",
    Code::InvalidArgument,
    "A field breaks its limits; `BadRequest` names the field and the limit.",
);
static KEY_NOT_FOUND: Reason =
    Reason::new("KEY_NOT_FOUND", Code::NotFound, "The key does not exist.");
static TOKEN_NOT_FOUND: Reason = Reason::new(
    "TOKEN_NOT_FOUND",
    Code::NotFound,
    "The caller token does not exist.",
);
static WEBHOOK_NOT_FOUND: Reason = Reason::new(
    "WEBHOOK_NOT_FOUND",
    Code::NotFound,
    "No webhook of the instance has this name. Look at its setting `webhooks`.",
);
static KEY_REVOKED: Reason = Reason::new(
    "KEY_REVOKED",
    Code::FailedPrecondition,
    "The key has a `revoke_time`. A revocation is final: issue another key.",
);
static KEY_EXPIRED: Reason = Reason::new(
    "KEY_EXPIRED",
    Code::FailedPrecondition,
    "The key has expired. An expiry is final: issue another key.",
);
static RECOVERABLE_FORBIDDEN: Reason = Reason::new(
    "RECOVERABLE_FORBIDDEN",
    Code::FailedPrecondition,
    "This deployment does not allow recoverable keys. Leave `recoverable` out.",
);
static NO_FOREIGN_FORMAT: Reason = Reason::new(
    "NO_FOREIGN_FORMAT",
    Code::FailedPrecondition,
    "The deployment could verify no imported key. Set `foreign_formats` on all instances, then retry.",
);
static KEYRING_KEY_NOT_FOUND: Reason = Reason::new(
    "KEYRING_KEY_NOT_FOUND",
    Code::NotFound,
    "No instance has loaded this key of the keyring, or it is retired. Add a new file to the keyring of every instance.",
);
static KEYRING_KEY_NOT_LOADED: Reason = Reason::new(
    "KEYRING_KEY_NOT_LOADED",
    Code::FailedPrecondition,
    "The message names instances that have not loaded this key of the keyring. Copy its file there.",
);
static KEYRING_KEY_IN_USE: Reason = Reason::new(
    "KEYRING_KEY_IN_USE",
    Code::FailedPrecondition,
    "The message says what needs this key of the keyring, and how to find it.",
);
static NOT_FRESH: Reason = Reason::new(
    "NOT_FRESH",
    Code::Unavailable,
    "The instance cannot prove that it knows every change. Retry, or call another instance.",
);
static STORE_UNAVAILABLE: Reason = Reason::new(
    "STORE_UNAVAILABLE",
    Code::Unavailable,
    "The store did not respond. Nothing was changed. Retry.",
);
static STORE_LOCKED: Reason = Reason::new(
    "STORE_LOCKED",
    Code::Unavailable,
    "Another session of the database holds a lock that the change needs. Nothing was changed. Retry; the log of the instance names the session.",
);
static OUTCOME_UNKNOWN: Reason = Reason::new(
    "OUTCOME_UNKNOWN",
    Code::Unavailable,
    "The connection to the store failed, or the deadline of the call passed (then the status is DEADLINE_EXCEEDED); the change may have been committed. Repeat the same call: this is safe for every RPC except CreateToken.",
);
static REVOKE_UNCONFIRMED: Reason = Reason::new(
    "REVOKE_UNCONFIRMED",
    Code::Unavailable,
    "The change is committed, but not yet proven to hold everywhere. Repeat the same call: this is safe. After a failover of Postgres, `RetryInfo` says when it can be proven again.",
);
static OVERLOADED: Reason = Reason::new(
    "OVERLOADED",
    Code::Unavailable,
    "Too many calls wait for the store. Retry later.",
);
static DEADLINE_PASSED: Reason = Reason::new(
    "DEADLINE_PASSED",
    Code::DeadlineExceeded,
    "The deadline of the call passed. Nothing was changed. Allow more time.",
);
static OVER_LIMIT: Reason = Reason::new(
    "OVER_LIMIT",
    Code::ResourceExhausted,
    "The connection or the instance holds too much unfinished work. Nothing was changed. Retry after the time in `RetryInfo`, or call another instance.",
);
static REVEALS_EXHAUSTED: Reason = Reason::new(
    "REVEALS_EXHAUSTED",
    Code::ResourceExhausted,
    "This caller has seen too many secrets within a minute. Nothing was changed. Retry after the time in `RetryInfo`, not on another instance.",
);
static NEAR_CACHES_EXHAUSTED: Reason = Reason::new(
    "NEAR_CACHES_EXHAUSTED",
    Code::ResourceExhausted,
    "The instance, or this caller there, has too many near-caches, or this caller's were too slow. Verify by calls. Retry on another instance, or after the time in `RetryInfo`.",
);
static AGENT_VERIFIES_ONLY: Reason = Reason::new(
    "AGENT_VERIFIES_ONLY",
    Code::PermissionDenied,
    "An agent only verifies keys for local programs. Send a token of Keyward for this call.",
);
static AGENT_CUT_OFF: Reason = Reason::new(
    "AGENT_CUT_OFF",
    Code::Unavailable,
    "The agent got no answer from Keyward and cannot answer by itself. Nothing was changed. Retry.",
);
/// The reason of too large headers.
pub const HEADERS_TOO_LARGE: &str = "HEADERS_TOO_LARGE";
/// The reason of a request that did not arrive in time.
pub const REQUEST_UNFINISHED: &str = "REQUEST_UNFINISHED";

static TOO_LARGE_HEADERS: Reason = Reason::new(
    HEADERS_TOO_LARGE,
    Code::ResourceExhausted,
    "The headers of the request are larger than 16 KiB. Send fewer or shorter ones.",
);
static UNFINISHED_REQUEST: Reason = Reason::new(
    REQUEST_UNFINISHED,
    Code::DeadlineExceeded,
    "The request did not arrive completely within 10 seconds. Nothing was changed. Retry.",
);
static INTERNAL: Reason = Reason::new(
    "INTERNAL",
    Code::Internal,
    "The service has a fault, or its database refuses it. The log and `/readyz` say what to do.",
);

/// All reasons, in the order of the documentation.
static REASONS: [&Reason; 30] = [
    &TOKEN_MISSING,
    &TOKEN_INVALID,
    &CERTIFICATE_INVALID,
    &ROLE_REQUIRED,
    &INVALID_FIELD,
    &KEY_NOT_FOUND,
    &TOKEN_NOT_FOUND,
    &WEBHOOK_NOT_FOUND,
    &KEY_REVOKED,
    &KEY_EXPIRED,
    &RECOVERABLE_FORBIDDEN,
    &NO_FOREIGN_FORMAT,
    &KEYRING_KEY_NOT_FOUND,
    &KEYRING_KEY_NOT_LOADED,
    &KEYRING_KEY_IN_USE,
    &NOT_FRESH,
    &STORE_UNAVAILABLE,
    &STORE_LOCKED,
    &OUTCOME_UNKNOWN,
    &REVOKE_UNCONFIRMED,
    &OVERLOADED,
    &DEADLINE_PASSED,
    &OVER_LIMIT,
    &REVEALS_EXHAUSTED,
    &NEAR_CACHES_EXHAUSTED,
    &TOO_LARGE_HEADERS,
    &UNFINISHED_REQUEST,
    &AGENT_VERIFIES_ONLY,
    &AGENT_CUT_OFF,
    &INTERNAL,
];

/// The table of all reasons, for the documentation.
pub fn reasons_table() -> String {
    let mut table =
        String::from("| reason | status | what it means, and what to do |\n|---|---|---|\n");
    for Reason {
        name,
        code,
        meaning,
    } in REASONS
    {
        let code = code_name(*code);
        table.push_str(&format!("| `{name}` | {code} | {meaning} |\n"));
    }
    table
}

fn reason_of(error: &ServiceError) -> &'static Reason {
    match error {
        ServiceError::Denied(Denied::Missing) => &TOKEN_MISSING,
        ServiceError::Denied(Denied::Invalid(_)) => &TOKEN_INVALID,
        ServiceError::Denied(Denied::Certificate(_)) => &CERTIFICATE_INVALID,
        ServiceError::Denied(Denied::RoleRequired { .. }) => &ROLE_REQUIRED,
        ServiceError::Denied(Denied::Lookup(error)) => match error {
            LookupError::NotFresh => &NOT_FRESH,
            LookupError::Overloaded => &OVERLOADED,
            LookupError::Store(error) => match **error {
                StoreError::Damaged(_) | StoreError::Refused(_) => &INTERNAL,
                _ => &STORE_UNAVAILABLE,
            },
        },
        ServiceError::Field(_) | ServiceError::NotOne(_) => &INVALID_FIELD,
        ServiceError::KeyNotFound => &KEY_NOT_FOUND,
        ServiceError::TokenNotFound => &TOKEN_NOT_FOUND,
        ServiceError::WebhookNotFound => &WEBHOOK_NOT_FOUND,
        ServiceError::KeyRevoked => &KEY_REVOKED,
        ServiceError::KeyExpired => &KEY_EXPIRED,
        ServiceError::Keyring(KeyringRefusal::NotFound(..)) => &KEYRING_KEY_NOT_FOUND,
        ServiceError::Keyring(KeyringRefusal::NotLoaded { .. }) => &KEYRING_KEY_NOT_LOADED,
        ServiceError::Keyring(KeyringRefusal::InUse(..)) => &KEYRING_KEY_IN_USE,
        ServiceError::RecoverableForbidden => &RECOVERABLE_FORBIDDEN,
        ServiceError::NoForeignFormat => &NO_FOREIGN_FORMAT,
        ServiceError::NotFresh | ServiceError::NearCache(NearRefusal::Stopping) => &NOT_FRESH,
        ServiceError::NearCache(NearRefusal::Store) => &STORE_UNAVAILABLE,
        ServiceError::NearCache(NearRefusal::Unacknowledged) => &INVALID_FIELD,
        ServiceError::NearCache(_) => &NEAR_CACHES_EXHAUSTED,
        ServiceError::StoreUnavailable => &STORE_UNAVAILABLE,
        ServiceError::StoreLocked => &STORE_LOCKED,
        ServiceError::OutcomeUnknown { .. } => &OUTCOME_UNKNOWN,
        ServiceError::Unconfirmed { .. } => &REVOKE_UNCONFIRMED,
        ServiceError::TooManyReveals { .. } => &REVEALS_EXHAUSTED,
        ServiceError::Overloaded => &OVERLOADED,
        ServiceError::DeadlinePassed => &DEADLINE_PASSED,
        ServiceError::Internal => &INTERNAL,
    }
}

/// `ErrorInfo.metadata`: details for the client's code, never key material.
fn metadata_of(error: &ServiceError) -> HashMap<String, String> {
    let entry = match error {
        ServiceError::OutcomeUnknown { replacement }
        | ServiceError::Unconfirmed { replacement, .. } => {
            replacement.map(|id| ("replacement_key_id", id.to_string()))
        }
        ServiceError::Denied(Denied::RoleRequired { role, .. }) => {
            Some(("role", role.name().to_owned()))
        }
        _ => None,
    };
    entry
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// The message of a status. The store's own error text stays in the log.
fn message_of(error: &ServiceError) -> String {
    match error {
        ServiceError::Denied(Denied::Lookup(LookupError::Store(cause)))
            if matches!(**cause, StoreError::Damaged(_) | StoreError::Refused(_)) =>
        {
            ServiceError::Internal.to_string()
        }
        ServiceError::Denied(Denied::Lookup(_)) => {
            "this instance cannot check the token now; retry, or call another instance".to_owned()
        }
        other => other.to_string(),
    }
}

/// The answer to a call whose deadline passed after it had started a change.
pub(super) fn deadline_passed_in_change() -> Status {
    let error = ServiceError::OutcomeUnknown { replacement: None };
    let message = format!("the deadline of the call passed; {error}");
    let details = ErrorDetails::with_error_info(OUTCOME_UNKNOWN.name, DOMAIN, HashMap::new());
    Status::with_error_details(Code::DeadlineExceeded, message, details)
}

/// The answer to a call whose `grpc-timeout` cannot be read.
pub(super) fn malformed_timeout(value: &HeaderValue) -> Status {
    let value = shown(&String::from_utf8_lossy(value.as_bytes()));
    Status::invalid_argument(format!(
        "the header grpc-timeout is '{value}'; send digits and a unit: H, M, S, m, u or n"
    ))
}

/// The answer to a request that is not a message. `cause` is tonic's explanation.
pub fn undecodable(cause: &str) -> Status {
    Status::invalid_argument(format!("the request cannot be decoded: {cause}"))
}

/// The answer to a request of plain HTTP that is too large.
pub(super) fn too_large() -> Status {
    let max = super::MAX_REQUEST;
    Status::out_of_range(format!("the body has more than {max} bytes; send less"))
}

/// The answer to a request of plain HTTP for which there is no route.
pub fn no_route(path: &str) -> Status {
    let path = shown(path);
    Status::not_found(format!("there is no route {path}; /openapi.json lists all"))
}

/// The answer to a request of plain HTTP whose path has routes for the methods `allowed` alone.
pub fn wrong_method(allowed: &str) -> Status {
    Status::unimplemented(format!("this path takes {allowed}"))
}

/// The answer to a request of plain HTTP whose body is not announced as JSON.
pub fn not_json() -> Status {
    Status::invalid_argument(
        "the body is not plain JSON; send it with `content-type: application/json`, not compressed",
    )
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let reason = reason_of(&error);
        let mut details = ErrorDetails::with_error_info(reason.name, DOMAIN, metadata_of(&error));
        let message = message_of(&error);
        match &error {
            ServiceError::Field(wrong) => {
                details.add_bad_request_violation(wrong.field.clone(), wrong.reason.clone());
            }
            ServiceError::NotOne(fields) => {
                for field in *fields {
                    details.add_bad_request_violation(*field, message.clone());
                }
            }
            ServiceError::Unconfirmed {
                unsettled: Some(Unsettled::TooYoung { remaining }),
                ..
            } => {
                details.set_retry_info(Some(*remaining));
            }
            ServiceError::TooManyReveals { retry_after } => {
                details.set_retry_info(Some(*retry_after));
            }
            ServiceError::NearCache(refusal) => {
                details.set_retry_info(refusal.retry_after());
            }
            _ => {}
        }
        Self::with_error_details(reason.code, message, details)
    }
}

impl From<LimitError> for Status {
    fn from(error: LimitError) -> Self {
        let reason = match error {
            LimitError::OverLimit(_) => &OVER_LIMIT,
            LimitError::HeadersTooLarge => &TOO_LARGE_HEADERS,
            LimitError::Unfinished => &UNFINISHED_REQUEST,
        };
        let mut details = ErrorDetails::with_error_info(reason.name, DOMAIN, HashMap::new());
        if let LimitError::OverLimit(_) = error {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        Self::with_error_details(reason.code, error.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proto_lists_every_reason_with_its_status() {
        let proto = include_str!("../../proto/keyward/v1/api_key_service.proto");
        for reason in REASONS {
            let (name, code) = (format!("| `{}`", reason.name), code_name(reason.code));
            let line = proto.lines().find(|line| line.contains(&name));
            assert!(
                line.is_some_and(|line| line.contains(code)),
                "{name} {code}"
            );
        }
        let listed = proto
            .lines()
            .filter(|line| line.starts_with("// | `"))
            .count();
        assert_eq!(listed, REASONS.len());
    }
}
