//! What a use case can end with, beside its reply. `grpc::status` turns each into a status.

use crate::auth::Denied;
use crate::cache::LookupError;
use crate::replication::Unconfirmed;
use keyward_core::key::{FieldError, KeyId};
use keyward_store::StoreError;

/// Why a call failed. Never carries key material.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The caller is not let in.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A field breaks its limits.
    #[error("{0}")]
    Field(FieldError),
    /// There is no such key.
    #[error("there is no such key")]
    KeyNotFound,
    /// There is no such caller token.
    #[error("there is no such token")]
    TokenNotFound,
    /// The key has a revoke time, which is for good.
    #[error("the key is revoked, or will be at the end of its grace: issue another one")]
    KeyRevoked,
    /// The key has expired, which is for good.
    #[error("the key has expired: issue another one")]
    KeyExpired,
    /// The deployment keeps no copies of secrets.
    #[error("this deployment forbids recoverable keys: leave `recoverable` out")]
    RecoverableForbidden,
    /// This instance cannot prove now that it knows of every change.
    #[error(
        "this instance cannot prove that it knows of every change: ask another one, or again soon"
    )]
    NotFresh,
    /// The store did not answer; nothing was changed.
    #[error("the store does not answer; nothing was changed: ask again")]
    StoreUnavailable,
    /// The store may or may not have made the change.
    #[error("it is not known whether the change was made: the same call again is safe")]
    OutcomeUnknown {
        /// The successor that would have been made.
        replacement: Option<KeyId>,
    },
    /// The change is made, but not proven to hold everywhere.
    #[error(
        "the change is made but not yet proven to hold everywhere: the same call again is safe"
    )]
    Unconfirmed {
        /// The successor that was made.
        replacement: Option<KeyId>,
    },
    /// Too much is under way.
    #[error("too much is under way: ask again later")]
    Overloaded,
    /// A fault of the service.
    #[error("a fault of the service: see its log")]
    Internal,
}

impl ServiceError {
    /// Names the successor whose fate is open, for whoever has to ask again.
    pub(super) fn with_replacement(self, id: Option<KeyId>) -> Self {
        match self {
            Self::OutcomeUnknown { .. } => Self::OutcomeUnknown { replacement: id },
            Self::Unconfirmed { .. } => Self::Unconfirmed { replacement: id },
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
            StoreError::OutcomeUnknown(_) => Self::OutcomeUnknown { replacement: None },
            StoreError::Damaged(_) => Self::Internal,
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
    fn from(_: Unconfirmed) -> Self {
        Self::Unconfirmed { replacement: None }
    }
}
