//! Runs store calls on the control runtime, in tasks that no caller can drop. When a client
//! disconnects or a deadline passes, only the waiting ends; the call itself runs to its end.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The task ended without a result: it panicked, or the runtime is shutting down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the task ended without a result")]
pub struct Lost;

/// A handle on the control runtime.
#[derive(Clone, Debug)]
pub struct Control {
    runtime: Handle,
    tasks: TaskTracker,
}

impl Control {
    /// Runs work on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            tasks: TaskTracker::new(),
        }
    }

    /// Runs `work` to its end, even if the returned future is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Lost> {
        self.spawn(work).await.map_err(|error| {
            if error.is_panic() {
                tracing::error!("a task panicked; the caller gets INTERNAL or UNAVAILABLE");
            }
            Lost
        })
    }

    /// Starts `work` without waiting for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tasks.spawn_on(work.in_current_span(), &self.runtime)
    }

    /// Waits until all tasks have ended.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
