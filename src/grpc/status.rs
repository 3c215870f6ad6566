//! The one place where an error becomes a `tonic::Status`: code, text, reason.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::auth::Denied;
use crate::cache::LookupError;
use crate::service::ServiceError;
use keyward_core::key::KeyId;
use keyward_store::StoreError;

/// `ErrorInfo.domain` of every error.
const DOMAIN: &str = "keyward";

/// What callers can act on: reason, code, and what it means and what to do, for the README.
const REASONS: &[(Reason, Code, &str)] = &[
    (
        Reason::TokenMissing,
        Code::Unauthenticated,
        "Send `authorization: Bearer <token>`.",
    ),
    (
        Reason::TokenInvalid,
        Code::Unauthenticated,
        "The token is unknown, malformed or revoked, or more than one was sent.",
    ),
    (
        Reason::RoleRequired,
        Code::PermissionDenied,
        "The token lacks the role; metadata `role` names it.",
    ),
    (
        Reason::InvalidField,
        Code::InvalidArgument,
        "A field breaks its limits; `BadRequest` names it.",
    ),
    (Reason::KeyNotFound, Code::NotFound, "There is no such key."),
    (
        Reason::TokenNotFound,
        Code::NotFound,
        "There is no such caller token.",
    ),
    (
        Reason::KeyRevoked,
        Code::FailedPrecondition,
        "The key has a `revoke_time`, which is for good: Issue another.",
    ),
    (
        Reason::KeyExpired,
        Code::FailedPrecondition,
        "The key has expired, which is for good: Issue another.",
    ),
    (
        Reason::RecoverableForbidden,
        Code::FailedPrecondition,
        "This deployment keeps no copies of secrets.",
    ),
    (
        Reason::NotFresh,
        Code::Unavailable,
        "The instance cannot prove that it knows of every change. Ask another one, or again soon.",
    ),
    (
        Reason::StoreUnavailable,
        Code::Unavailable,
        "The store did not answer; nothing was changed.",
    ),
    (
        Reason::OutcomeUnknown,
        Code::Unavailable,
        "The change may or may not be made. The same call again is safe.",
    ),
    (
        Reason::RevokeUnconfirmed,
        Code::Unavailable,
        "The change is made, but not yet proven to hold everywhere. The same call again is safe.",
    ),
    (
        Reason::Overloaded,
        Code::Unavailable,
        "Too many reads wait for the store.",
    ),
    (
        Reason::Internal,
        Code::Internal,
        "A fault of the service; its log says more.",
    ),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    TokenMissing,
    TokenInvalid,
    RoleRequired,
    InvalidField,
    KeyNotFound,
    TokenNotFound,
    KeyRevoked,
    KeyExpired,
    RecoverableForbidden,
    NotFresh,
    StoreUnavailable,
    OutcomeUnknown,
    RevokeUnconfirmed,
    Overloaded,
    Internal,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::TokenMissing => "TOKEN_MISSING",
            Self::TokenInvalid => "TOKEN_INVALID",
            Self::RoleRequired => "ROLE_REQUIRED",
            Self::InvalidField => "INVALID_FIELD",
            Self::KeyNotFound => "KEY_NOT_FOUND",
            Self::TokenNotFound => "TOKEN_NOT_FOUND",
            Self::KeyRevoked => "KEY_REVOKED",
            Self::KeyExpired => "KEY_EXPIRED",
            Self::RecoverableForbidden => "RECOVERABLE_FORBIDDEN",
            Self::NotFresh => "NOT_FRESH",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::OutcomeUnknown => "OUTCOME_UNKNOWN",
            Self::RevokeUnconfirmed => "REVOKE_UNCONFIRMED",
            Self::Overloaded => "OVERLOADED",
            Self::Internal => "INTERNAL",
        }
    }

    fn code(self) -> Code {
        REASONS
            .iter()
            .find(|(reason, ..)| *reason == self)
            .map_or(Code::Internal, |(_, code, _)| *code)
    }
}

/// The errors as the README shows them.
pub fn reasons_table() -> String {
    let mut table =
        String::from("| reason | status | what it means, and what to do |\n|---|---|---|\n");
    for (reason, code, meaning) in REASONS {
        let code = code_name(*code);
        table.push_str(&format!("| `{}` | {code} | {meaning} |\n", reason.name()));
    }
    table
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Unavailable => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}

fn reason_of(error: &ServiceError) -> Reason {
    match error {
        ServiceError::Denied(Denied::Missing) => Reason::TokenMissing,
        ServiceError::Denied(Denied::Invalid(_)) => Reason::TokenInvalid,
        ServiceError::Denied(Denied::RoleRequired { .. }) => Reason::RoleRequired,
        ServiceError::Denied(Denied::Lookup(error)) => match error {
            LookupError::NotFresh => Reason::NotFresh,
            LookupError::Overloaded => Reason::Overloaded,
            LookupError::Store(error) => match **error {
                StoreError::Damaged(_) => Reason::Internal,
                _ => Reason::StoreUnavailable,
            },
        },
        ServiceError::Field(_) => Reason::InvalidField,
        ServiceError::KeyNotFound => Reason::KeyNotFound,
        ServiceError::TokenNotFound => Reason::TokenNotFound,
        ServiceError::KeyRevoked => Reason::KeyRevoked,
        ServiceError::KeyExpired => Reason::KeyExpired,
        ServiceError::RecoverableForbidden => Reason::RecoverableForbidden,
        ServiceError::NotFresh => Reason::NotFresh,
        ServiceError::StoreUnavailable => Reason::StoreUnavailable,
        ServiceError::OutcomeUnknown { .. } => Reason::OutcomeUnknown,
        ServiceError::Unconfirmed { .. } => Reason::RevokeUnconfirmed,
        ServiceError::Overloaded => Reason::Overloaded,
        ServiceError::Internal => Reason::Internal,
    }
}

/// What a client's code may want to read: never key material.
fn metadata_of(error: &ServiceError) -> HashMap<String, String> {
    let replacement = |id: &Option<KeyId>| {
        id.iter()
            .map(|id| ("replacement_key_id".to_owned(), id.to_string()))
            .collect()
    };
    match error {
        ServiceError::OutcomeUnknown { replacement: id }
        | ServiceError::Unconfirmed { replacement: id } => replacement(id),
        ServiceError::Denied(Denied::RoleRequired { role, .. }) => {
            HashMap::from([("role".to_owned(), role.name().to_owned())])
        }
        _ => HashMap::new(),
    }
}

/// The text of a status. What the store said stays in the log.
fn text_of(error: &ServiceError) -> String {
    match error {
        ServiceError::Denied(Denied::Lookup(_)) if reason_of(error) == Reason::Internal => {
            ServiceError::Internal.to_string()
        }
        ServiceError::Denied(Denied::Lookup(_)) => {
            "the token cannot be judged now: ask another instance, or again soon".to_owned()
        }
        other => other.to_string(),
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let reason = reason_of(&error);
        let mut details = ErrorDetails::with_error_info(reason.name(), DOMAIN, metadata_of(&error));
        if let ServiceError::Field(field) = &error {
            details.add_bad_request_violation(field.field.clone(), field.reason.clone());
        }
        Self::with_error_details(reason.code(), text_of(&error), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_in_the_proto_with_its_status() {
        let proto = include_str!("../../proto/keyward/v1/api_key_service.proto");
        for (reason, code, _) in REASONS {
            let (name, code) = (format!("| `{}`", reason.name()), code_name(*code));
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
