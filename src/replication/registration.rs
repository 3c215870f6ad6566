//! This instance's registration, its row in the membership. The instance registers at start, and
//! again if the row is gone or a heartbeat hangs.
//!
//! Upholds the owner's half of I9: an instance deletes its row only after its freshness has ended.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::NearCaches;
use keyward_core::fence::RegistrationId;
use keyward_core::key::{BootTime, Entropy};
use keyward_crypto::CurrentKeyring;
use keyward_ops::MemberMetrics;
use keyward_store::{Cluster, NewInstance};

/// This instance's data and its current registration.
pub struct Registration {
    cluster: Arc<dyn Cluster>,
    name: String,
    max_staleness: Duration,
    keyring: Arc<CurrentKeyring>,
    entropy: Arc<dyn Entropy>,
    near: Arc<NearCaches>,
    metrics: MemberMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    id: Option<RegistrationId>,
    /// The instance must register again before its next heartbeat.
    is_doubtful: bool,
    /// Earlier registrations whose rows are still to be deleted. Freshness from them has ended here; that of
    /// near-caches ends at the time beside it.
    left_behind: Vec<(RegistrationId, Option<BootTime>)>,
}

impl Registration {
    /// An instance that has not registered yet. `name` is for operators.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        name: String,
        max_staleness: Duration,
        keyring: Arc<CurrentKeyring>,
        entropy: Arc<dyn Entropy>,
        near: Arc<NearCaches>,
        metrics: MemberMetrics,
    ) -> Self {
        Self {
            cluster,
            name,
            max_staleness,
            keyring,
            entropy,
            near,
            metrics,
            state: Mutex::default(),
        }
    }

    pub(super) fn cluster(&self) -> &dyn Cluster {
        &*self.cluster
    }

    /// The current id.
    pub(super) fn id(&self) -> Option<RegistrationId> {
        self.state.lock().id
    }

    /// The current id, if heartbeats may be sent under it.
    pub(super) fn usable_id(&self) -> Option<RegistrationId> {
        let state = self.state.lock();
        state.id.filter(|_| !state.is_doubtful)
    }

    /// Notes that the row is gone.
    pub(super) fn forget(&self) {
        self.state.lock().id = None;
    }

    /// Notes that the instance must register again: an abandoned statement may still lock the row.
    pub(super) fn mark_doubtful(&self) {
        self.state.lock().is_doubtful = true;
    }

    /// Registers under a new id. Calls `end_freshness` before the row of an earlier registration may
    /// be deleted (I9).
    pub(super) async fn register(
        &self,
        end_freshness: impl FnOnce() + Send,
    ) -> Result<RegistrationId, String> {
        let id = RegistrationId::draw(&*self.entropy);
        let instance = NewInstance {
            registration: id,
            name: self.name.clone(),
            max_staleness: self.max_staleness,
            loaded: self.keyring.load().names(),
        };
        // While this fails, cached records are used until freshness has run out.
        let registered = self.cluster.register(&instance).await;
        registered.map_err(|error| error.to_string())?;
        self.metrics.registrations.inc();
        end_freshness();
        let leases_end = self.near.leases_end();
        let earlier = {
            let mut state = self.state.lock();
            let earlier = state.id.replace(id);
            state.is_doubtful = false;
            state
                .left_behind
                .extend(earlier.map(|earlier| (earlier, leases_end)));
            earlier
        };
        match earlier {
            None => tracing::debug!(registration = %id, "registered"),
            Some(earlier) => tracing::info!(registration = %id, %earlier, "registered again"),
        }
        Ok(id)
    }

    /// Deletes the rows of earlier registrations from which no near-cache is fresh any more (I9). It retries
    /// failed deletions at the next call; other instances reap these rows as well.
    pub(super) async fn clean_up(&self) {
        let rows = std::mem::take(&mut self.state.lock().left_behind);
        for (id, leases_end) in rows {
            let left = match self.near.is_over(leases_end) {
                true => self
                    .cluster
                    .leave(id)
                    .await
                    .map_err(|error| error.to_string()),
                false => Err("near-caches may be fresh".to_owned()),
            };
            if let Err(error) = left {
                tracing::debug!(error, registration = %id, "an earlier row could not be deleted yet");
                self.state.lock().left_behind.push((id, leases_end));
            }
        }
    }

    /// Deletes the row, if there is one. I9: freshness has ended. Returns whether no row is left; a row
    /// can be locked, for example by a statement of this process that was given up.
    pub(super) async fn leave(&self) -> bool {
        let leases_end = self.near.leases_end();
        {
            let mut state = self.state.lock();
            let id = state.id.take();
            state.left_behind.extend(id.map(|id| (id, leases_end)));
        }
        self.clean_up().await;
        self.state.lock().left_behind.is_empty()
    }
}
