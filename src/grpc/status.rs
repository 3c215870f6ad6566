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
pub(crate) struct Reason {
    /// `ErrorInfo.reason`.
    pub(crate) name: &'static str,
    code: Code,
    /// What happened and what to do, for the documentation.
    meaning: &'static str,
}

/// Makes a static of each reason, and the list of all.
macro_rules! reasons {
    ($($name:ident $code:ident $meaning:literal)*) => {
        $(pub(crate) static $name: Reason = Reason {
            name: stringify!($name),
            code: Code::$code,
            meaning: $meaning,
        };)*

        /// All reasons, in the order of the documentation.
        static REASONS: &[&Reason] = &[$(&$name),*];
    };
}

reasons! {
    TOKEN_MISSING Unauthenticated
        "The request has no token. Send `authorization: Bearer <token>`, or open the connection with a client certificate."
    TOKEN_INVALID Unauthenticated
        "The token is unknown, malformed, expired or revoked, or there is more than one. Check the token."
    CERTIFICATE_INVALID Unauthenticated
        "The request has no token, and the client certificate names no caller, names several, or is expired. The message says which."
    ROLE_REQUIRED PermissionDenied
        "The token lacks the required role; the metadata `role` names it. Use a token with that role."
    INVALID_FIELD InvalidArgument
        "A field breaks its limits; `BadRequest` names the field and the limit."
    KEY_NOT_FOUND NotFound
        "The key does not exist."
    TOKEN_NOT_FOUND NotFound
        "The caller token does not exist."
    WEBHOOK_NOT_FOUND NotFound
        "No webhook of the instance has this name. Look at its setting `webhooks`."
    KEY_REVOKED FailedPrecondition
        "The key has a `revoke_time`. A revocation is final: issue another key."
    KEY_EXPIRED FailedPrecondition
        "The key has expired. An expiry is final: issue another key."
    RECOVERABLE_FORBIDDEN FailedPrecondition
        "This deployment does not allow recoverable keys. Leave `recoverable` out."
    NO_FOREIGN_FORMAT FailedPrecondition
        "The deployment could verify no imported key. Set `foreign_formats` on all instances, then retry."
    KEYRING_KEY_NOT_FOUND NotFound
        "No instance has loaded this key of the keyring, or it is retired. Add a new file to the keyring of every instance."
    KEYRING_KEY_NOT_LOADED FailedPrecondition
        "The message names instances that have not loaded this key of the keyring. Copy its file there."
    KEYRING_KEY_IN_USE FailedPrecondition
        "The message says what needs this key of the keyring, and how to find it."
    NOT_FRESH Unavailable
        "The instance cannot prove that it knows every change. Retry, or call another instance."
    STORE_UNAVAILABLE Unavailable
        "The store did not respond. Nothing was changed. Retry."
    STORE_LOCKED Unavailable
        "Another session of the database holds a lock that the change needs. Nothing was changed. Retry; the log of the instance names the session."
    OUTCOME_UNKNOWN Unavailable
        "The connection to the store failed, or the deadline of the call passed (then the status is DEADLINE_EXCEEDED); the change may have been committed. Repeat the same call: this is safe for every RPC except CreateToken."
    REVOKE_UNCONFIRMED Unavailable
        "The change is committed, but not yet proven to hold everywhere. Repeat the same call: this is safe. After a failover of Postgres, `RetryInfo` says when it can be proven again."
    OVERLOADED Unavailable
        "Too many calls wait for the store. Retry later."
    DEADLINE_PASSED DeadlineExceeded
        "The deadline of the call passed. Nothing was changed. Allow more time."
    OVER_LIMIT ResourceExhausted
        "The connection or the instance holds too much unfinished work. Nothing was changed. Retry after the time in `RetryInfo`, or call another instance."
    REVEALS_EXHAUSTED ResourceExhausted
        "This caller has seen too many secrets within a minute. Nothing was changed. Retry after the time in `RetryInfo`, not on another instance."
    NEAR_CACHES_EXHAUSTED ResourceExhausted
        "The instance, or this caller there, has too many near-caches, or this caller's were too slow. Verify by calls. Retry on another instance, or after the time in `RetryInfo`."
    HEADERS_TOO_LARGE ResourceExhausted
        "The headers of the request are larger than 16 KiB. Send fewer or shorter ones."
    REQUEST_UNFINISHED DeadlineExceeded
        "The request did not arrive completely within 10 seconds. Nothing was changed. Retry."
    AGENT_VERIFIES_ONLY PermissionDenied
        "An agent only verifies keys for local programs. Send a token of Keyward for this call."
    AGENT_CUT_OFF Unavailable
        "The agent got no answer from Keyward and cannot answer by itself. Nothing was changed. Retry."
    INTERNAL Internal
        "The service has a fault, or its database refuses it. The log and `/readyz` say what to do."
}

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
            LimitError::HeadersTooLarge => &HEADERS_TOO_LARGE,
            LimitError::Unfinished => &REQUEST_UNFINISHED,
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
