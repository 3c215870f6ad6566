//! The revocation of all keys of an account or of an import, in steps: a step is one transaction, so
//! that many keys do not delay the changes of others.

use super::{CommittedChange, RevokeAnswer, Revoked, Selection, StoreError};
use keyward_core::key::{KeyId, KeyRecord};
use keyward_crypto::Digest;

/// The most keys in one step. A step holds what other changes need for some milliseconds.
pub const STEP: usize = 500;
/// The most passes over the keys. Each pass revokes the keys that were issued during
/// the one before.
pub const PASSES: usize = 100;

impl Selection {
    /// The detail of each key's audit entry.
    pub const fn audit_detail(&self) -> &'static str {
        match self {
            Self::Account(_) => "with its account",
            Self::Batch(_) => "with its batch",
        }
    }
}

/// The keys that the steps so far have revoked.
#[derive(Debug, Default)]
pub struct SelectionProgress {
    /// Their number.
    pub count: u64,
    /// The first of them, at most [`Revoked::LISTED`].
    pub listed: Vec<KeyId>,
}

impl SelectionProgress {
    /// Adds the keys of a step.
    pub fn add(&mut self, revoked: &[KeyId]) {
        self.count += u64::try_from(revoked.len()).unwrap_or(u64::MAX);
        let free = Revoked::LISTED.saturating_sub(self.listed.len());
        self.listed.extend(revoked.iter().take(free));
    }

    /// The error of a call that failed now. After a step, the same call again is safe.
    pub fn failed(&self, error: StoreError) -> StoreError {
        match self.count {
            0 => error,
            _ => StoreError::OutcomeUnknown(error.to_string()),
        }
    }

    /// The error of a call that found live keys after each pass.
    pub fn overtaken() -> StoreError {
        let busy = "other calls keep adding keys to the account or import";
        StoreError::Unavailable(busy.to_owned())
    }

    /// The answer, with the current records of the listed keys.
    pub fn done(
        &self,
        keys: Vec<KeyRecord>,
        digests: Vec<Digest>,
        committed: CommittedChange,
    ) -> RevokeAnswer {
        RevokeAnswer::Done(Box::new(Revoked {
            revoke_time: keys.iter().filter_map(|key| key.revoke_time).max(),
            keys,
            digests,
            count: self.count,
            successor: None,
            created: false,
            committed,
        }))
    }
}
