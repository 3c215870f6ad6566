//! This instance as one of those that share a store: it joins, it leaves, and it registers again
//! when its row is gone or a heartbeat of it hangs.
//!
//! Upholds the owner's half of I9: a row of its own goes only after its freshness is off.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use keyward_core::fence::RegistrationId;
use keyward_core::key::Entropy;
use keyward_ops::MemberMetrics;
use keyward_store::{Cluster, NewInstance};

/// What this instance says of itself, and its present registration.
pub struct Member {
    cluster: Arc<dyn Cluster>,
    name: String,
    max_staleness: Duration,
    generations: Vec<u32>,
    entropy: Arc<dyn Entropy>,
    metrics: MemberMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    registration: Option<RegistrationId>,
    /// A statement about the row may still be under way: register anew before the next heartbeat.
    doubted: bool,
    /// Rows of earlier registrations, freshness from which is off.
    left_behind: Vec<RegistrationId>,
}

impl Member {
    /// An instance that is not registered yet. `name` is for people.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        name: String,
        max_staleness: Duration,
        generations: Vec<u32>,
        entropy: Arc<dyn Entropy>,
        metrics: MemberMetrics,
    ) -> Self {
        Self {
            cluster,
            name,
            max_staleness,
            generations,
            entropy,
            metrics,
            state: Mutex::default(),
        }
    }

    pub(super) fn cluster(&self) -> &dyn Cluster {
        &*self.cluster
    }

    pub(super) fn registration(&self) -> Option<RegistrationId> {
        self.state.lock().registration
    }

    /// The registration, if a heartbeat may be sent under it.
    pub(super) fn sure(&self) -> Option<RegistrationId> {
        let state = self.state.lock();
        state.registration.filter(|_| !state.doubted)
    }

    /// The row is gone.
    pub(super) fn forget(&self) {
        self.state.lock().registration = None;
    }

    /// The row may be held by a statement that was given up, or speaks of an earlier life.
    pub(super) fn doubt(&self) {
        self.state.lock().doubted = true;
    }

    /// Registers under a new boot id. Freshness that came from an earlier registration ends, by
    /// `end_freshness`, before that one's row may go.
    pub(super) async fn join(
        &self,
        end_freshness: impl FnOnce() + Send,
    ) -> Result<RegistrationId, String> {
        let registration = RegistrationId::draw(&*self.entropy);
        let instance = NewInstance {
            registration,
            name: self.name.clone(),
            max_staleness: self.max_staleness,
            generations: self.generations.clone(),
        };
        // While this fails what is cached goes on, until it is too old.
        let registered = self.cluster.register(&instance).await;
        registered.map_err(|error| error.to_string())?;
        self.metrics.registrations.inc();
        end_freshness();
        let before = {
            let mut state = self.state.lock();
            let before = state.registration.replace(registration);
            state.doubted = false;
            state.left_behind.extend(before);
            before
        };
        match before {
            None => tracing::debug!(boot = %registration, "registered"),
            Some(before) => tracing::info!(boot = %registration, %before, "registered anew"),
        }
        Ok(registration)
    }

    /// Deletes the rows of earlier registrations. Those that cannot be deleted now are tried again;
    /// others reap them, too.
    pub(super) async fn clean_up(&self) {
        let rows = std::mem::take(&mut self.state.lock().left_behind);
        for registration in rows {
            if let Err(error) = self.cluster.leave(registration).await {
                tracing::debug!(%error, boot = %registration, "a row stays behind for now");
                self.state.lock().left_behind.push(registration);
            }
        }
    }

    /// Deletes the row; freshness is off.
    pub(super) async fn leave(&self) {
        {
            let mut state = self.state.lock();
            let registration = state.registration.take();
            state.left_behind.extend(registration);
        }
        self.clean_up().await;
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Member({}, {:?})", self.name, self.registration())
    }
}
