//! Work in lanes: what belongs to one user is done in order, that of different users at the same
//! time, up to a bound.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

type Run<J> = Box<dyn Fn(J) -> BoxFuture<'static, ()> + Send + Sync>;

/// Lanes by number.
pub struct Lanes<J> {
    run: Run<J>,
    /// A lane is here while it has a worker.
    queues: Mutex<HashMap<u64, VecDeque<J>>>,
    permits: Semaphore,
}

impl<J: Send + 'static> Lanes<J> {
    /// Lanes whose jobs `run` does, at most `at_once` at the same time.
    pub fn new(at_once: usize, run: Run<J>) -> Arc<Self> {
        Arc::new(Self {
            run,
            queues: Mutex::default(),
            permits: Semaphore::new(at_once),
        })
    }

    /// Puts a job at the end of a lane.
    pub fn push(self: &Arc<Self>, lane: u64, job: J) {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(&lane) {
            queue.push_back(job);
        } else {
            self.start(&mut queues, lane, job);
        }
    }

    /// Puts a job into a lane that has none; otherwise does nothing.
    pub fn push_if_idle(self: &Arc<Self>, lane: u64, job: impl FnOnce() -> J) {
        let mut queues = self.queues.lock();
        if !queues.contains_key(&lane) {
            self.start(&mut queues, lane, job());
        }
    }

    fn start(self: &Arc<Self>, queues: &mut HashMap<u64, VecDeque<J>>, lane: u64, job: J) {
        queues.insert(lane, VecDeque::new());
        let lanes = Arc::clone(self);
        tokio::spawn(async move { lanes.work(lane, job).await });
    }

    /// Whether nothing is being done.
    pub fn is_idle(&self) -> bool {
        self.queues.lock().is_empty()
    }

    /// How many jobs wait in a lane behind the one that is being done.
    pub fn waiting(&self, lane: u64) -> usize {
        self.queues.lock().get(&lane).map_or(0, VecDeque::len)
    }

    async fn work(&self, lane: u64, first: J) {
        let mut next = Some(first);
        while let Some(job) = next {
            // The semaphore is never closed.
            let permit = self.permits.acquire().await;
            // A panic ends its job, and not its lane.
            let run = AssertUnwindSafe(async { (self.run)(job).await });
            if run.catch_unwind().await.is_err() {
                tracing::error!("a job panicked");
            }
            drop(permit);
            let mut queues = self.queues.lock();
            next = queues.get_mut(&lane).and_then(VecDeque::pop_front);
            if next.is_none() {
                queues.remove(&lane);
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
    async fn a_panic_does_not_block_its_lane() {
        let (done, mut finished) = mpsc::unbounded_channel();
        let lanes = Lanes::new(
            1,
            Box::new(move |job: u32| {
                assert_ne!(job, 1, "before there is a future");
                let done = done.clone();
                Box::pin(async move {
                    assert_ne!(job, 2, "within it");
                    done.send(job).unwrap();
                })
            }),
        );
        for job in 1..=3 {
            lanes.push(7, job);
        }
        assert_eq!(finished.recv().await, Some(3));
        lanes.push(7, 4);
        assert_eq!(finished.recv().await, Some(4));
    }

    #[tokio::test]
    async fn a_lane_keeps_its_order_and_lanes_do_not_wait_for_each_other() {
        let (done, mut finished) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let at_gate = Arc::clone(&gate);
        let lanes = Lanes::new(
            4,
            Box::new(move |(lane, job): (u64, u32)| {
                let (done, gate) = (done.clone(), Arc::clone(&at_gate));
                Box::pin(async move {
                    if lane == 1 {
                        gate.acquire().await.unwrap().forget();
                    }
                    done.send((lane, job)).unwrap();
                })
            }),
        );
        for job in 0..20 {
            lanes.push(1, (1, job));
        }
        assert_eq!(lanes.waiting(1), 19);
        lanes.push(2, (2, 0));
        assert_eq!(finished.recv().await, Some((2, 0)));
        lanes.push_if_idle(1, || panic!("the lane is busy"));
        gate.add_permits(20);
        for job in 0..20 {
            assert_eq!(finished.recv().await, Some((1, job)));
        }
    }

    #[tokio::test]
    async fn no_more_than_the_bound_at_once_and_nothing_is_kept() {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (at, peak) = (Arc::clone(&now), Arc::clone(&most));
        let lanes = Lanes::new(
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
        for lane in 0..10 {
            lanes.push(lane, ());
        }
        while !lanes.queues.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }
}
