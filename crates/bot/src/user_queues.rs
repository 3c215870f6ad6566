//! One queue of jobs for each user: the jobs of a user run one after the other, those of different
//! users concurrently, up to a bound.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::{Instrument as _, Span};

/// The work for one event of a user.
pub type Job = BoxFuture<'static, ()>;

/// The queues of all users.
pub struct UserQueues {
    /// A user has an entry while a job of theirs runs.
    queues: Mutex<HashMap<u64, VecDeque<Job>>>,
    permits: Semaphore,
    /// Names the bot in the log.
    span: Span,
}

impl UserQueues {
    /// Empty queues, whose jobs run at most `max_concurrent` at a time.
    pub fn new(max_concurrent: usize, span: Span) -> Arc<Self> {
        Arc::new(Self {
            queues: Mutex::default(),
            permits: Semaphore::new(max_concurrent),
            span,
        })
    }

    /// Puts a job at the end of a user's queue.
    pub fn push(self: &Arc<Self>, user: u64, job: Job) {
        let mut queues = self.queues.lock();
        match queues.get_mut(&user) {
            Some(queue) => queue.push_back(job),
            None => {
                queues.insert(user, VecDeque::new());
                let all = Arc::clone(self);
                let span = self.span.clone();
                let work = async move { all.work(user, job).await };
                tokio::spawn(work.instrument(span));
            }
        }
    }

    /// Whether no job of any user runs.
    pub fn is_idle(&self) -> bool {
        self.queues.lock().is_empty()
    }

    /// Whether a job of this user runs.
    pub fn is_busy(&self, user: u64) -> bool {
        self.queues.lock().contains_key(&user)
    }

    /// The number of jobs of a user that wait behind the running one.
    pub fn waiting(&self, user: u64) -> usize {
        self.queues.lock().get(&user).map_or(0, VecDeque::len)
    }

    async fn work(&self, user: u64, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            // The semaphore is never closed.
            let permit = self.permits.acquire().await;
            // A panic ends the job, but not the queue.
            if AssertUnwindSafe(job).catch_unwind().await.is_err() {
                tracing::error!("a job panicked");
            }
            drop(permit);
            let mut queues = self.queues.lock();
            next = queues.get_mut(&user).and_then(VecDeque::pop_front);
            if next.is_none() {
                queues.remove(&user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn jobs_of_a_user_keep_their_order_and_users_do_not_wait_for_each_other() {
        let (done, mut finished) = mpsc::unbounded_channel();
        let (gate, queues) = (
            Arc::new(Semaphore::new(0)),
            UserQueues::new(4, Span::none()),
        );
        let push = |user, job| {
            let (done, gate) = (done.clone(), Arc::clone(&gate));
            let run = async move {
                if user == 1 {
                    gate.acquire().await.unwrap().forget();
                }
                done.send((user, job)).unwrap();
            };
            queues.push(user, Box::pin(run));
        };
        for job in 0..20 {
            push(1, job);
        }
        assert_eq!(queues.waiting(1), 19);
        push(2, 0);
        assert_eq!(finished.recv().await, Some((2, 0)));
        assert!(queues.is_busy(1) && !queues.is_idle());
        gate.add_permits(20);
        for job in 0..20 {
            assert_eq!(finished.recv().await, Some((1, job)));
        }
    }

    #[tokio::test]
    async fn concurrent_jobs_are_bounded_and_a_panic_does_not_block_the_queue() {
        const MAX: usize = 3;
        let (now, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let queues = UserQueues::new(MAX, Span::none());
        for user in 0..10 {
            queues.push(user, Box::pin(async { panic!("on purpose") }));
            let (now, done) = (Arc::clone(&now), Arc::clone(&done));
            let run = async move {
                assert!(now.fetch_add(1, Ordering::SeqCst) < MAX);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Ordering::SeqCst);
                done.add_permits(1);
            };
            queues.push(user, Box::pin(run));
        }
        done.acquire_many(10).await.unwrap().forget();
        while !queues.is_idle() {
            tokio::task::yield_now().await;
        }
    }
}
