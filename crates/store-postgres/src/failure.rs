//! What a failed statement means for its connection, for another attempt and for the caller.

use std::future::Future;
use std::time::Duration;

use super::ATTEMPTS;
use keyward_store::StoreError;

/// A failure within the store.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    pub(super) kind: Kind,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing changed, and the same transaction may succeed at once, for example after a deadlock.
    Again,
    /// The server refused the statement. The connection is usable.
    Refused,
    /// The connection is gone or unusable.
    Broken,
    /// No answer came in time.
    Hung,
}

impl Failure {
    pub(super) fn hung(limit: Duration) -> Self {
        Self {
            error: StoreError::Unavailable(format!("no answer within {limit:?}")),
            kind: Kind::Hung,
        }
    }

    /// The failure of the first statement of a call: after a broken connection, another connection
    /// may serve it.
    pub(super) fn before_anything(self) -> Self {
        let kind = match self.kind {
            Kind::Broken => Kind::Again,
            kind => kind,
        };
        Self { kind, ..self }
    }

    /// The failure of a statement after the call has committed a change.
    pub(super) fn after_a_write(self) -> Self {
        Self {
            error: StoreError::OutcomeUnknown(self.error.to_string()),
            kind: Kind::Broken,
        }
    }

    /// The failure of a statement that commits.
    pub(super) fn of_a_commit(self) -> Self {
        match (self.kind, self.error) {
            (Kind::Broken | Kind::Hung, StoreError::Unavailable(why)) => Self {
                error: StoreError::OutcomeUnknown(why),
                kind: self.kind,
            },
            (kind, error) => Self { error, kind },
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self {
            error,
            kind: Kind::Refused,
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        let code = error.as_database_error().and_then(|refused| refused.code());
        let (error, kind) = match (&error, code.as_deref()) {
            // A deadlock or a serialisation failure: the server rolled the transaction back.
            (_, Some("40P01" | "40001")) => (StoreError::Unavailable(text), Kind::Again),
            // A constraint or a trigger of the schema refused a statement that the service must
            // not send.
            (_, Some(code)) if code.starts_with("23") => (StoreError::Damaged(text), Kind::Refused),
            // The server is shutting down, the backend was terminated, or a standby replaced it.
            (_, Some("57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25006")) => {
                (StoreError::Unavailable(text), Kind::Broken)
            }
            (_, Some(_)) => (StoreError::Unavailable(text), Kind::Refused),
            (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
                (StoreError::Damaged(text), Kind::Refused)
            }
            _ => (StoreError::Unavailable(text), Kind::Broken),
        };
        Self { error, kind }
    }
}

/// Runs a transaction, and runs it again while it is the victim of a deadlock.
pub(super) async fn retry<T, F>(attempt: impl Fn() -> F) -> keyward_store::Result<T>
where
    F: Future<Output = Result<T, Failure>>,
{
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(failure) if failure.kind == Kind::Again => {}
            outcome => return Ok(outcome?),
        }
    }
    Ok(attempt().await?)
}
