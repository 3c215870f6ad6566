//! The repair of a store whose clock was ahead: its time never falls by itself, so an operator lowers
//! it. A dead key must not live again, so no revocation may depend on the time that is taken back.

use async_trait::async_trait;

use super::Result;
use keyward_core::key::{KeyId, Timestamp};

/// A key, or a caller's token, whose expiry depends on the time of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiringKey {
    /// The public name.
    pub id: KeyId,
    /// The account that owns the key; `None` for a token.
    pub account: Option<String>,
    /// The slot of the account, or the caller.
    pub name: String,
    /// When it was created.
    pub create_time: Timestamp,
    /// When it expires.
    pub expire_time: Timestamp,
}

/// Some keys and tokens, and the number of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpiringKeys {
    /// The first ones: at most [`Self::LISTED`].
    pub listed: Vec<ExpiringKey>,
    /// The number of all.
    pub count: u64,
}

impl ExpiringKeys {
    /// The most keys in `listed`.
    pub const LISTED: usize = 100;
}

/// What lowering the time to `clock` changes.
#[derive(Clone, Debug)]
pub struct TimeSurvey {
    /// The store's time.
    pub stored: Timestamp,
    /// The clock that the store's time follows.
    pub clock: Timestamp,
    /// Those that have expired by the store's time and not by the clock.
    pub expired: ExpiringKeys,
    /// The others that were created after the time of the clock and that expire.
    pub issued: ExpiringKeys,
}

/// Lowers the time of a store that no instance uses. The steps are repeated until they return 0.
#[async_trait]
pub trait TimeRepair: Send {
    /// Reads both times, and the keys and tokens whose expiry the operator must check.
    async fn survey(&mut self) -> Result<TimeSurvey>;

    /// Revokes at once keys and tokens that have a grace: its end was computed by a wrong clock, and an
    /// instance may have judged it as passed. Takes one step and returns its number.
    async fn end_all_graces(&mut self, survey: &TimeSurvey) -> Result<u64>;

    /// Revokes what is in `survey.expired`. Takes one step and returns its number.
    async fn revoke_expired(&mut self, survey: &TimeSurvey) -> Result<u64>;

    /// Lowers the store's time to `survey.clock`, with the times of uses and of events for webhooks. Refused while
    /// a grace runs.
    async fn lower(&mut self, survey: &TimeSurvey, reason: &str) -> Result<()>;
}
