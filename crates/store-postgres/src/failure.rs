//! What a statement that failed says about its connection, about a second try, and to the caller.

use std::time::Duration;

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
    /// Nothing was changed, and the same transaction may succeed at once: a deadlock was broken.
    Again,
    /// The server refused the statement; the connection is whole.
    Refused,
    /// The connection is gone, or of no more use.
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

    /// The same failure of a statement before which nothing was done: a broken connection is no
    /// reason not to try another one.
    pub(super) fn before_anything(self) -> Self {
        let kind = match self.kind {
            Kind::Broken => Kind::Again,
            kind => kind,
        };
        Self { kind, ..self }
    }

    /// The same failure of a statement after which something was done.
    pub(super) fn after_a_write(self) -> Self {
        Self {
            error: StoreError::OutcomeUnknown(self.error.to_string()),
            kind: Kind::Broken,
        }
    }

    /// The same failure of a statement that may have changed something.
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

/// Tells what a driver's error means.
pub(super) fn failed(error: sqlx::Error) -> Failure {
    let text = error.to_string();
    let code = error.as_database_error().and_then(|refused| refused.code());
    let (error, kind) = match (&error, code.as_deref()) {
        // Deadlock, serialisation: the transaction was rolled back whole.
        (_, Some("40P01" | "40001")) => (StoreError::Unavailable(text), Kind::Again),
        // A constraint or a trigger of the schema refused: the service asked for the impossible.
        (_, Some(code)) if code.starts_with("23") => (StoreError::Damaged(text), Kind::Refused),
        // The server is going down or the backend was ended; a standby took its place.
        (_, Some("57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25006")) => {
            (StoreError::Unavailable(text), Kind::Broken)
        }
        (_, Some(_)) => (StoreError::Unavailable(text), Kind::Refused),
        (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => {
            (StoreError::Damaged(text), Kind::Refused)
        }
        _ => (StoreError::Unavailable(text), Kind::Broken),
    };
    Failure { error, kind }
}
