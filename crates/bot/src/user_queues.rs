//! One queue of jobs for each user: the jobs of a user run one after the other, those of different
//! users concurrently, up to a bound. A job that pauses does not count.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument as _, Span};

/// The work for one event of a user.
pub type Job = BoxFuture<'static, ()>;

tokio::task_local! {
    /// The permit of the running job.
    static PERMIT: Arc<JobPermit>;
}

/// What a job needs to run.
struct JobPermit {
    permits: Arc<Semaphore>,
    /// `None` during a pause.
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

/// Pauses the job that calls it. Meanwhile, the job of another user can run. To be awaited to its
/// end: the job would go on without a permit.
pub async fn pause(time: Duration) {
    let job = PERMIT.try_with(Arc::clone).ok();
    // Of two parts of a job, the first one gives the permit back.
    let paused = job.and_then(|job| job.held.lock().take().map(|_| Arc::clone(&job)));
    tokio::time::sleep(time).await;
    if let Some(job) = paused {
        // The semaphore is never closed.
        let permit = Arc::clone(&job.permits).acquire_owned().await.ok();
        *job.held.lock() = permit;
    }
}

/// The queues of all users.
pub struct UserQueues {
    /// A user has an entry while a job of theirs runs.
    queues: Mutex<HashMap<u64, VecDeque<Job>>>,
    permits: Arc<Semaphore>,
    /// Names the bot in the log.
    span: Span,
}

impl UserQueues {
    /// Empty queues, whose jobs run at most `max_concurrent` at a time.
    pub fn new(max_concurrent: usize, span: Span) -> Arc<Self> {
        Arc::new(Self {
            queues: Mutex::default(),
            permits: Arc::new(Semaphore::new(max_concurrent)),
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
            let permits = Arc::clone(&self.permits);
            // The semaphore is never closed.
            let held = Mutex::new(Arc::clone(&permits).acquire_owned().await.ok());
            let permit = Arc::new(JobPermit { permits, held });
            // A panic ends the job, but not the queue.
            let job = AssertUnwindSafe(PERMIT.scope(permit, job));
            if job.catch_unwind().await.is_err() {
                tracing::error!("a job panicked");
            }
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

    #[tokio::test(start_paused = true)]
    async fn a_job_that_pauses_lets_others_run_and_then_waits_for_its_turn() {
        let (done, mut finished) = mpsc::unbounded_channel();
        let (gate, queues) = (
            Arc::new(Semaphore::new(0)),
            UserQueues::new(1, Span::none()),
        );
        let sender = done.clone();
        let pauses = async move {
            // Two parts of one job have one permit.
            tokio::join!(
                pause(Duration::from_secs(30)),
                pause(Duration::from_secs(5))
            );
            sender.send("paused").unwrap();
        };
        queues.push(1, Box::pin(pauses));
        let (sender, opened) = (done.clone(), Arc::clone(&gate));
        let runs = async move {
            sender.send("runs").unwrap();
            opened.acquire().await.unwrap().forget();
            sender.send("ran").unwrap();
        };
        queues.push(2, Box::pin(runs));
        assert_eq!(finished.recv().await, Some("runs"));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(
            finished.try_recv().is_err(),
            "the pause is over, but the other job runs"
        );
        gate.add_permits(1);
        assert_eq!(finished.recv().await, Some("ran"));
        assert_eq!(finished.recv().await, Some("paused"));
        while !queues.is_idle() {
            tokio::task::yield_now().await;
        }
        assert_eq!(queues.permits.available_permits(), 1);
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
