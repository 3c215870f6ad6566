//! The ends of a store, and what opens it again.

use std::sync::Arc;

use keyward_store::Store;

use super::World;

impl World {
    /// Ends the store with `end`, and opens it again.
    async fn reopened_after(self, end: impl AsyncFnOnce(Arc<dyn Store>)) -> Self {
        end(self.store).await;
        let opened = self.backend.open(self.clock.clone(), &self.entropy).await;
        Self {
            store: opened.unwrap(),
            ..self
        }
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopened(self) -> Self {
        self.reopened_after(async |store| store.close().await).await
    }

    /// Drops the store without closing it, and opens it again.
    pub(crate) async fn abandoned_and_reopened(self) -> Self {
        self.reopened_after(async |store| drop(store)).await
    }

    /// Closes the store, lowers its time to the clock, revokes what has expired by then, and opens it again.
    pub(crate) async fn lowered(self) -> Self {
        self.store.close().await;
        drop(self.store);
        let (backend, clock) = (&self.backend, &self.clock);
        let mut repair = backend.time_repair(clock.clone(), &self.entropy).await;
        let survey = repair.survey().await.unwrap();
        while repair.end_all_graces(&survey).await.unwrap() > 0 {}
        while repair.revoke_expired(&survey).await.unwrap() > 0 {}
        repair.lower(&survey, "a test").await.unwrap();
        drop(repair);
        let opened = backend.open(clock.clone(), &self.entropy).await;
        Self {
            store: opened.unwrap(),
            ..self
        }
    }

    /// One more instance on the same data, which only a shared store has.
    pub(crate) async fn another(&self) -> Arc<dyn Store> {
        let opened = self.backend.open(self.clock.clone(), &self.entropy).await;
        opened.unwrap()
    }
}
