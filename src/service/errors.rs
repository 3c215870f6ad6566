//! The errors of the use cases. `grpc::status` maps each to a status.

use std::time::Duration;

use super::KeyringRefusal;
use crate::auth::Denied;
use crate::cache::LookupError;
use crate::replication::{NearRefusal, Unconfirmed, Unsettled};
use keyward_core::key::{FieldError, KeyId};
use keyward_store::StoreError;

/// Why a call failed. Never contains key material.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The caller is not authorized, or its token cannot be checked now.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A field breaks its limits.
    #[error("{0}")]
    Field(FieldError),
    /// None or several of these fields are set.
    #[error("exactly one of {} must be set", .0.join(", "))]
    NotOne(&'static [&'static str]),
    /// The key does not exist.
    #[error("the key does not exist")]
    KeyNotFound,
    /// The caller token does not exist.
    #[error("the token does not exist")]
    TokenNotFound,
    /// No webhook of this instance has the name.
    #[error("no webhook of this instance has this name")]
    WebhookNotFound,
    /// The key has a revoke time. A revocation is final.
    #[error("the key is revoked, or will be at the end of its grace; issue another key")]
    KeyRevoked,
    /// The key has expired. An expiry is final.
    #[error("the key has expired; issue another key")]
    KeyExpired,
    /// The deployment does not allow recoverable keys.
    #[error("this deployment does not allow recoverable keys; leave `recoverable` out")]
    RecoverableForbidden,
    /// The deployment has no format of foreign keys.
    #[error(
        "this deployment has no `foreign_formats`, so it could verify no imported key; set that first"
    )]
    NoForeignFormat,
    /// A key of the keyring was not activated or retired.
    #[error(transparent)]
    Keyring(#[from] KeyringRefusal),
    /// A near-cache is refused.
    #[error("{0}; verify by calls")]
    NearCache(#[from] NearRefusal),
    /// This instance cannot prove that it knows every change.
    #[error(
        "this instance cannot prove that it knows every change; retry, or call another instance"
    )]
    NotFresh,
    /// The store did not respond. Nothing was changed.
    #[error("the store did not respond; nothing was changed; retry")]
    StoreUnavailable,
    /// Another session of the database holds a lock. Nothing was changed.
    #[error(
        "another session of the database holds a lock that the change needs; nothing was changed; retry"
    )]
    StoreLocked,
    /// The store may have committed the change.
    #[error("the change may have been committed; repeat the same call to find out")]
    OutcomeUnknown {
        /// The successor that may have been created.
        replacement: Option<KeyId>,
    },
    /// The change is committed, but not proven to hold everywhere.
    #[error(
        "the change is committed, but not yet proven to hold everywhere{}; repeating the same call is \
         safe",
        unsettled.map(|why| format!(": {why}")).unwrap_or_default()
    )]
    Unconfirmed {
        /// The successor that was created.
        replacement: Option<KeyId>,
        /// Why it cannot be proven now.
        unsettled: Option<Unsettled>,
    },
    /// The caller has seen too many secrets within a minute.
    #[error(
        "this caller has seen as many secrets within a minute as max_reveals_per_minute allows; keys and \
         revocations stay as they are; retry later"
    )]
    TooManyReveals {
        /// When the caller may see the next one.
        retry_after: Duration,
    },
    /// Too many calls wait for the store.
    #[error("too many calls wait for the store; retry later")]
    Overloaded,
    /// The deadline of the call passed before it changed anything.
    #[error("the deadline of the call passed; nothing was changed; allow more time")]
    DeadlinePassed,
    /// The service has a fault.
    #[error("the service has a fault; its log has the details")]
    Internal,
}

impl ServiceError {
    /// Adds the successor, so that the caller can find it before it repeats the call.
    pub(super) fn with_replacement(self, id: Option<KeyId>) -> Self {
        match self {
            Self::OutcomeUnknown { .. } => Self::OutcomeUnknown { replacement: id },
            Self::Unconfirmed { unsettled, .. } => Self::Unconfirmed {
                replacement: id,
                unsettled,
            },
            other => other,
        }
    }
}

impl From<FieldError> for ServiceError {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        (&error).into()
    }
}

impl From<&StoreError> for ServiceError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::StoreUnavailable,
            StoreError::Locked(_) => Self::StoreLocked,
            StoreError::OutcomeUnknown(_) => Self::OutcomeUnknown { replacement: None },
            StoreError::Damaged(_) | StoreError::Refused(_) => Self::Internal,
        }
    }
}

impl From<LookupError> for ServiceError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotFresh => Self::NotFresh,
            LookupError::Overloaded => Self::Overloaded,
            LookupError::Store(error) => (&*error).into(),
        }
    }
}

impl From<Unconfirmed> for ServiceError {
    fn from(unconfirmed: Unconfirmed) -> Self {
        Self::Unconfirmed {
            replacement: None,
            unsettled: match unconfirmed {
                Unconfirmed::Unproven => None,
                Unconfirmed::Unsettled(why) => Some(why),
            },
        }
    }
}
