//! What a failed statement means for its connection, for another attempt and for the caller.

use std::time::Duration;

use super::locks::LockedRow;
use keyward_store::StoreError;

/// A failure within the store.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: StoreError,
    pub(super) kind: Kind,
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing changed, and the same transaction may succeed at once, for example after a deadlock.
    Again,
    /// Nothing changed: another session has locked the row. The connection is usable.
    Locked(LockedRow),
    /// The server refused the statement. The connection is usable.
    Refused,
    /// The connection is gone or unusable.
    Broken,
    /// No answer came in time.
    Hung,
}

/// What an error of the server means for a caller.
type Meaning = fn(String) -> StoreError;

/// The meaning of each SQLSTATE: the first row whose text begins the code applies. A refusal that
/// time does not end is never `Unavailable`, which tells callers to ask again; an unknown code counts
/// as such a refusal.
const MEANINGS: [(&str, Meaning, Kind); 24] = [
    // A serialisation failure or a deadlock: the server rolled the transaction back.
    ("40001", StoreError::Unavailable, Kind::Again),
    ("40P01", StoreError::Unavailable, Kind::Again),
    ("40", StoreError::Unavailable, Kind::Broken),
    // The connection, or a pooler's connection to the server, failed.
    ("08", StoreError::Unavailable, Kind::Broken),
    // Another program has damaged the session, or a standby replaced the primary (25006).
    ("25", StoreError::Unavailable, Kind::Broken),
    // Disk, memory or connections are used up.
    ("53", StoreError::Unavailable, Kind::Refused),
    // A trigger refused an instance whose keyring is not up to date yet.
    ("55000", StoreError::Unavailable, Kind::Refused),
    // A lock was not free in time, or another session changes the object now.
    ("55P03", StoreError::Locked, Kind::Refused),
    ("55006", StoreError::Unavailable, Kind::Refused),
    // The statement ran into its time limit.
    ("57014", StoreError::Unavailable, Kind::Refused),
    // The server stops or starts, or an administrator ended the session.
    ("57", StoreError::Unavailable, Kind::Broken),
    // The server's disk or files failed.
    ("58", StoreError::Unavailable, Kind::Refused),
    // An internal error of the server; a new session may not meet it.
    ("XX000", StoreError::Unavailable, Kind::Broken),
    // A corrupted table or index.
    ("XX", StoreError::Damaged, Kind::Refused),
    // A value, constraint, limit or trigger refused what the service must not send.
    ("22", StoreError::Damaged, Kind::Refused),
    ("23", StoreError::Damaged, Kind::Refused),
    ("54", StoreError::Damaged, Kind::Refused),
    ("P0", StoreError::Damaged, Kind::Refused),
    // The login, or the database, is refused.
    ("28", StoreError::Refused, Kind::Broken),
    ("3D", StoreError::Refused, Kind::Broken),
    // The session lacks its prepared statements: a pooler gives each transaction another session.
    ("26", StoreError::Refused, Kind::Broken),
    ("42P05", StoreError::Refused, Kind::Broken),
    // The server does not have what the statement needs.
    ("0A", StoreError::Refused, Kind::Broken),
    // A right, a table or a function is missing (42), and all other codes.
    ("", StoreError::Refused, Kind::Refused),
];

/// What an operator does about a refusal, by the beginning of its SQLSTATE.
const REMEDIES: [(&str, &str); 9] = [
    ("22021", WRONG_ENCODING),
    ("22P05", WRONG_ENCODING),
    (
        "25006",
        "The server or the role is read-only: look for default_transaction_read_only in ALTER \
         SYSTEM, ALTER DATABASE and ALTER ROLE, and whether this server is still the primary",
    ),
    ("26", NO_SESSION),
    ("42P05", NO_SESSION),
    (
        "28",
        "Check the user and the password in `store` or `store_password_file`, and pg_hba.conf",
    ),
    ("3D", "Create the database, or correct its name in `store`"),
    (
        "42501",
        "Run `keyward migrate --service-role ROLE` with the owner's URL in `store`",
    ),
    (
        "53300",
        "Raise max_connections of Postgres: each instance needs 14",
    ),
];
const WRONG_ENCODING: &str = "The database cannot store this text: its encoding must be UTF8";
const WRONG_CERTIFICATE: &str = "Check the host name, `sslmode` and `sslrootcert` in `store`, and the \
     server's certificate";
const NO_SESSION: &str = "Connect directly, or through a pooler in session mode";

impl Failure {
    pub(super) fn hung(limit: Duration) -> Self {
        Self {
            error: StoreError::Unavailable(format!("no answer within {limit:?}")),
            kind: Kind::Hung,
        }
    }

    pub(super) fn locked(row: LockedRow) -> Self {
        Self {
            error: StoreError::Locked("another session has locked the row".to_owned()),
            kind: Kind::Locked(row),
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
        let mut text = words(&error);
        let (meaning, kind): (Meaning, _) = match (code(&error), &error) {
            (Some(code), _) => {
                if let Some((_, remedy)) =
                    REMEDIES.iter().find(|(start, _)| code.starts_with(start))
                {
                    text = format!("{text}. {remedy}");
                }
                let mut rows = MEANINGS.iter();
                let row = rows.find(|(start, ..)| code.starts_with(start));
                row.map_or(
                    (StoreError::Refused, Kind::Refused),
                    |(_, meaning, kind)| (*meaning, *kind),
                )
            }
            (None, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
                (StoreError::Damaged, Kind::Refused)
            }
            (None, error) if is_tls_refusal(error) => {
                text = format!("{text}. {WRONG_CERTIFICATE}");
                (StoreError::Refused, Kind::Broken)
            }
            (None, _) => (StoreError::Unavailable, Kind::Broken),
        };
        Self {
            error: meaning(text),
            kind,
        }
    }
}

/// Whether TLS cannot be agreed on, most often because the server's certificate is not trusted.
fn is_tls_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // The driver passes on the handshake's own error as that of the connection.
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Why a call fails after the store was closed.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is being closed".to_owned())
}

/// The server's own words, or the driver's if the server has said nothing.
pub(super) fn words(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(refused) => refused.message().to_owned(),
        None => error.to_string(),
    }
}

/// The SQLSTATE of an error of the server.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}
