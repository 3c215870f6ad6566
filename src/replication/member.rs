//! This instance as one of those that share a store: it joins, it leaves, and it registers again
//! when its row is gone or a beat of it hangs.
//!
//! Upholds the owner's half of I9: a row of its own goes only after its freshness is off.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use keyward_core::fence::BootId;
use keyward_core::key::Entropy;
use keyward_ops::MemberMetrics;
use keyward_store::{NewInstance, Store};

/// What this instance says of itself, and its present registration.
pub struct Member {
    name: String,
    max_staleness: Duration,
    generations: Vec<u32>,
    entropy: Arc<dyn Entropy>,
    metrics: MemberMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    boot: Option<BootId>,
    /// A statement about the row may still be under way: register anew before the next beat.
    doubted: bool,
    /// Rows of earlier registrations, freshness from which is off.
    left_behind: Vec<BootId>,
}

impl Member {
    /// An instance that is not registered yet. `name` is for people.
    pub fn new(
        name: String,
        max_staleness: Duration,
        generations: Vec<u32>,
        entropy: Arc<dyn Entropy>,
        metrics: MemberMetrics,
    ) -> Self {
        Self {
            name,
            max_staleness,
            generations,
            entropy,
            metrics,
            state: Mutex::default(),
        }
    }

    pub(super) fn boot(&self) -> Option<BootId> {
        self.state.lock().boot
    }

    /// The registration, if a beat may be sent under it.
    pub(super) fn sure(&self) -> Option<BootId> {
        let state = self.state.lock();
        state.boot.filter(|_| !state.doubted)
    }

    /// The row is gone.
    pub(super) fn forget(&self) {
        self.state.lock().boot = None;
    }

    /// The row may be held by a statement that was given up, or speaks of an earlier life.
    pub(super) fn doubt(&self) {
        self.state.lock().doubted = true;
    }

    /// Registers under a new boot id. Freshness that came from an earlier registration ends, by
    /// `end_freshness`, before that one's row may go.
    pub(super) async fn join(
        &self,
        store: &dyn Store,
        end_freshness: impl FnOnce() + Send,
    ) -> Result<BootId, String> {
        let boot = BootId::draw(&*self.entropy);
        let instance = NewInstance {
            boot,
            name: self.name.clone(),
            max_staleness: self.max_staleness,
            generations: self.generations.clone(),
        };
        // While this fails what is cached goes on, until it is too old.
        let registered = store.register(&instance).await;
        registered.map_err(|error| error.to_string())?;
        self.metrics.registrations.inc();
        end_freshness();
        let before = {
            let mut state = self.state.lock();
            let before = state.boot.replace(boot);
            state.doubted = false;
            state.left_behind.extend(before);
            before
        };
        match before {
            None => tracing::debug!(%boot, "registered"),
            Some(before) => tracing::info!(%boot, %before, "registered anew"),
        }
        Ok(boot)
    }

    /// Deletes the rows of earlier registrations. Those that cannot be deleted now are tried again;
    /// others reap them, too.
    pub(super) async fn clean_up(&self, store: &dyn Store) {
        let rows = std::mem::take(&mut self.state.lock().left_behind);
        for boot in rows {
            if let Err(error) = store.leave(boot).await {
                tracing::debug!(%error, %boot, "a row stays behind for now");
                self.state.lock().left_behind.push(boot);
            }
        }
    }

    /// Deletes the row; freshness is off.
    pub(super) async fn leave(&self, store: &dyn Store) {
        {
            let mut state = self.state.lock();
            let boot = state.boot.take();
            state.left_behind.extend(boot);
        }
        self.clean_up(store).await;
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Member({}, {:?})", self.name, self.boot())
    }
}
