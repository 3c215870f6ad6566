//! The last revocations that this instance answered, for people. They name keys, but no account and no
//! reason.

use std::collections::VecDeque;
use std::time::Duration;

use super::Service;
use keyward_core::fence::Receipt;
use keyward_core::key::{BootTime, KeyId, Timestamp};
use keyward_store::Revoked;
use parking_lot::Mutex;

/// How many are kept.
const KEPT: usize = 20;

/// A revocation that holds on every instance.
#[derive(Clone, Debug)]
pub struct RecentRevoke {
    /// The first of its keys.
    pub key: Option<KeyId>,
    /// How many keys it revoked.
    pub count: u64,
    /// When it was answered.
    pub time: Timestamp,
    /// From the answer of its commit to the proof that it holds everywhere.
    pub waited: Duration,
    /// Which instances it waited for.
    pub receipt: Receipt,
}

impl Service {
    /// Notes a revocation whose commit was answered at `answered_at`.
    pub(super) fn note_revoked(&self, revoked: &Revoked, receipt: Receipt, answered_at: BootTime) {
        let mut kept = self.recent.0.lock();
        kept.truncate(KEPT - 1);
        kept.push_front(RecentRevoke {
            key: revoked.keys.first().map(|key| key.id),
            count: revoked.count,
            time: self.clock.wall(),
            waited: self.clock.boot().since(answered_at),
            receipt,
        });
    }
}

/// The last of them.
#[derive(Debug, Default)]
pub struct RecentRevokes(Mutex<VecDeque<RecentRevoke>>);

impl RecentRevokes {
    /// The latest first.
    pub fn latest(&self) -> Vec<RecentRevoke> {
        self.0.lock().iter().cloned().collect()
    }
}
