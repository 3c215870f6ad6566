//! One queue of jobs for each user: the jobs of a user run one after the other, those of different
//! users concurrently, up to a bound.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

type Run<J> = Box<dyn Fn(J) -> BoxFuture<'static, ()> + Send + Sync>;

/// The queues of all users.
pub struct UserQueues<J> {
    run: Run<J>,
    /// A user has an entry while a job of theirs runs.
    queues: Mutex<HashMap<u64, VecDeque<J>>>,
    permits: Semaphore,
}

impl<J: Send + 'static> UserQueues<J> {
    /// Empty queues, whose jobs `run` executes, at most `max_concurrent` at a time.
    pub fn new(max_concurrent: usize, run: Run<J>) -> Arc<Self> {
        Arc::new(Self {
            run,
            queues: Mutex::default(),
            permits: Semaphore::new(max_concurrent),
        })
    }

    /// Puts a job at the end of a user's queue.
    pub fn push(self: &Arc<Self>, user: u64, job: J) {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(&user) {
            queue.push_back(job);
        } else {
            self.start(&mut queues, user, job);
        }
    }

    /// Starts a job if no job of the user runs; otherwise does nothing.
    pub fn push_if_idle(self: &Arc<Self>, user: u64, job: impl FnOnce() -> J) {
        let mut queues = self.queues.lock();
        if !queues.contains_key(&user) {
            self.start(&mut queues, user, job());
        }
    }

    fn start(self: &Arc<Self>, queues: &mut HashMap<u64, VecDeque<J>>, user: u64, job: J) {
        queues.insert(user, VecDeque::new());
        let all = Arc::clone(self);
        tokio::spawn(async move { all.work(user, job).await });
    }

    /// Whether no job runs.
    pub fn is_idle(&self) -> bool {
        self.queues.lock().is_empty()
    }

    /// The number of jobs of a user that wait behind the running one.
    pub fn waiting(&self, user: u64) -> usize {
        self.queues.lock().get(&user).map_or(0, VecDeque::len)
    }

    async fn work(&self, user: u64, first: J) {
        let mut next = Some(first);
        while let Some(job) = next {
            // The semaphore is never closed.
            let permit = self.permits.acquire().await;
            // A panic ends the job, but not the queue.
            let run = AssertUnwindSafe(async { (self.run)(job).await });
            if run.catch_unwind().await.is_err() {
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
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_panic_does_not_block_the_queue() {
        let (done, mut finished) = mpsc::unbounded_channel();
        let queues = UserQueues::new(
            1,
            Box::new(move |job: u32| {
                assert_ne!(job, 1, "a panic before the future exists");
                let done = done.clone();
                Box::pin(async move {
                    assert_ne!(job, 2, "a panic inside the future");
                    done.send(job).unwrap();
                })
            }),
        );
        for job in 1..=3 {
            queues.push(7, job);
        }
        assert_eq!(finished.recv().await, Some(3));
        queues.push(7, 4);
        assert_eq!(finished.recv().await, Some(4));
    }

    #[tokio::test]
    async fn jobs_of_a_user_keep_their_order_and_users_do_not_wait_for_each_other() {
        let (done, mut finished) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let gate_of_jobs = Arc::clone(&gate);
        let queues = UserQueues::new(
            4,
            Box::new(move |(user, job): (u64, u32)| {
                let (done, gate) = (done.clone(), Arc::clone(&gate_of_jobs));
                Box::pin(async move {
                    if user == 1 {
                        gate.acquire().await.unwrap().forget();
                    }
                    done.send((user, job)).unwrap();
                })
            }),
        );
        for job in 0..20 {
            queues.push(1, (1, job));
        }
        assert_eq!(queues.waiting(1), 19);
        queues.push(2, (2, 0));
        assert_eq!(finished.recv().await, Some((2, 0)));
        queues.push_if_idle(1, || panic!("a job of this user runs"));
        gate.add_permits(20);
        for job in 0..20 {
            assert_eq!(finished.recv().await, Some((1, job)));
        }
    }

    #[tokio::test]
    async fn concurrent_jobs_are_bounded_and_idle_users_have_no_queue() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (at, peak) = (Arc::clone(&now), Arc::clone(&most));
        let queues = UserQueues::new(
            3,
            Box::new(move |(): ()| {
                let (at, peak) = (Arc::clone(&at), Arc::clone(&peak));
                Box::pin(async move {
                    peak.fetch_max(at.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    at.fetch_sub(1, Ordering::SeqCst);
                })
            }),
        );
        for user in 0..10 {
            queues.push(user, ());
        }
        while !queues.queues.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }
}
