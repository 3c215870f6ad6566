//! The long-lived tasks of a process. A process without one of them would fail some calls for ever
//! and report that it serves. So the first one that ends by itself ends the process, and a supervisor
//! starts it again.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The most characters of a panic's text.
const SHOWN: usize = 200;

/// A task that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task '{name}' {how}")]
pub struct Ended {
    name: String,
    how: String,
}

impl Ended {
    /// The name of the task.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The long-lived tasks of a process.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    is_stopping: Arc<AtomicBool>,
    ended: Arc<watch::Sender<Option<Ended>>>,
}

impl Tasks {
    /// Starts a task on the current runtime. Its handle returns `None` after a panic.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        tokio::spawn(self.supervise(name, work))
    }

    /// The same work, whose end is noticed.
    pub fn supervise<T, W: Future<Output = T>>(
        &self,
        name: &str,
        work: W,
    ) -> impl Future<Output = Option<T>> + use<T, W> {
        let (tasks, name) = (self.clone(), name.to_owned());
        async move {
            let result = AssertUnwindSafe(work).catch_unwind().await;
            let how = match &result {
                Ok(_) => "ended unexpectedly".to_owned(),
                Err(panic) => format!("panicked: {}", text(&**panic)),
            };
            if result.is_err() || !tasks.is_stopping.load(Ordering::Relaxed) {
                // The first one is the cause of the others.
                tasks.ended.send_if_modified(|ended| {
                    let is_first = ended.is_none();
                    ended.get_or_insert(Ended { name, how });
                    is_first
                });
            }
            result.ok()
        }
    }

    /// Allows tasks to end from now on.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether a task has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits until a task has ended by itself.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(ended) = &*ended.borrow_and_update() {
                return ended.clone();
            }
            // The sender lives as long as this.
            let _ = ended.changed().await;
        }
    }
}

/// The first line of a panic's message.
fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let line = text.and_then(|text| text.lines().next());
    line.unwrap_or("no text").chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_task_that_ends_before_a_stop_is_named() {
        let tasks = Tasks::default();
        assert!(!tasks.has_ended());
        assert_eq!(tasks.spawn("first", async { 7 }).await.unwrap(), Some(7));
        let panics = tasks.spawn("second", async { panic!("a\nb") });
        assert_eq!(panics.await.unwrap(), None::<()>);
        let ended = tasks.ended().await;
        assert_eq!(ended.to_string(), "the task 'first' ended unexpectedly");
        assert_eq!(ended.name(), "first");
    }

    #[tokio::test]
    async fn a_task_may_end_at_a_stop_but_not_panic() {
        let tasks = Tasks::default();
        tasks.stop();
        tasks.spawn("ends", async {}).await.unwrap();
        assert!(!tasks.has_ended());
        tasks
            .spawn("panics", async { panic!("late") })
            .await
            .unwrap();
        assert_eq!(
            tasks.ended().await.to_string(),
            "the task 'panics' panicked: late"
        );
    }
}
