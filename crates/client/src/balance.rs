//! Which endpoint is asked: each in turn, and another one after a failure.
//!
//! There is one connection for each endpoint, and not one balanced channel over all: a retry has to
//! go to another instance, and one that answers UNAVAILABLE is as useless as one that is gone, which
//! no balancer below gRPC can tell.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;

/// How long an endpoint rests after a failure: at first, and at most after many in a row.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// All endpoints.
pub(crate) struct Balance {
    nodes: Vec<Node>,
    next: AtomicUsize,
}

/// One endpoint.
pub(crate) struct Node {
    /// As the user named it.
    pub(crate) name: String,
    pub(crate) channel: Channel,
    health: Mutex<Health>,
}

/// What is known of it.
#[derive(Default)]
struct Health {
    /// How often in a row it failed.
    failures: u32,
    /// Until when it rests.
    rests_until: Option<Instant>,
    /// Whether one call tries it, after a rest.
    is_tried: bool,
    /// When it last answered.
    answered: Option<Instant>,
}

impl Node {
    pub(crate) fn new(name: String, channel: Channel) -> Self {
        Self {
            name,
            channel,
            health: Mutex::default(),
        }
    }

    /// It answered.
    pub(crate) fn answered(&self, now: Instant) {
        *self.health.lock() = Health {
            answered: Some(now),
            ..Health::default()
        };
    }

    /// It did not answer a call that began at `begun`, or said that it cannot. Calls that fail
    /// together count once, and one from before its last answer says nothing new.
    pub(crate) fn failed(&self, begun: Instant, now: Instant) {
        let mut health = self.health.lock();
        let rests = health.rests_until.is_some_and(|until| now < until);
        let is_old = health.answered.is_some_and(|answered| begun < answered);
        if is_old || (rests && !health.is_tried) {
            return;
        }
        health.failures = health.failures.saturating_add(1);
        health.rests_until = Some(now + rest(health.failures));
        health.is_tried = false;
    }

    /// Nobody waits any more for the one call that tries it: the next may.
    pub(crate) fn given_up(&self, now: Instant) {
        let mut health = self.health.lock();
        if std::mem::take(&mut health.is_tried) {
            health.rests_until = Some(now);
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.health.lock().rests_until.is_none()
    }

    /// Whether its rest is over, and nobody tries it yet: then who asks is to do so, while the
    /// others stay away until that is answered.
    fn is_to_be_tried(&self, now: Instant) -> bool {
        let mut health = self.health.lock();
        let is_over = health.rests_until.is_some_and(|until| until <= now);
        if is_over {
            health.rests_until = Some(now + rest(health.failures));
            health.is_tried = true;
        }
        is_over
    }
}

fn rest(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    REST.1.min(REST.0 * 2_u32.pow(doublings))
}

impl Balance {
    /// Callers that start together do not all begin with the same endpoint.
    pub(crate) fn new(nodes: Vec<Node>) -> Self {
        let next = AtomicUsize::new(fastrand::usize(..nodes.len().max(1)));
        Self { nodes, next }
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The endpoint to ask, of those that were not `tried` in this call: one whose rest is over;
    /// failing that the next in turn of those that do not rest; failing that one that rests. When
    /// all were tried, the same among all.
    pub(crate) fn pick(&self, tried: &[usize], now: Instant) -> usize {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let all = 0..self.nodes.len();
        let untried = all.clone().filter(|at| !tried.contains(at));
        self.pick_of(untried, turn, now)
            .or_else(|| self.pick_of(all, turn, now))
            .unwrap_or_default()
    }

    fn pick_of(
        &self,
        from: impl Iterator<Item = usize> + Clone,
        turn: usize,
        now: Instant,
    ) -> Option<usize> {
        let in_turn = |some: &mut dyn Iterator<Item = usize>| {
            let some: Vec<_> = some.collect();
            let at = turn.checked_rem(some.len())?;
            some.get(at).copied()
        };
        from.clone()
            .find(|at| self.nodes[*at].is_to_be_tried(now))
            .or_else(|| in_turn(&mut from.clone().filter(|at| self.nodes[*at].is_up())))
            .or_else(|| in_turn(&mut from.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(count: usize) -> Balance {
        let node = |at: usize| {
            let channel = Channel::from_static("http://127.0.0.1:1").connect_lazy();
            Node::new(at.to_string(), channel)
        };
        let balance = Balance::new((0..count).map(node).collect());
        balance.next.store(0, Ordering::Relaxed);
        balance
    }

    fn picked(balance: &Balance, times: usize, now: Instant) -> Vec<usize> {
        (0..times).map(|_| balance.pick(&[], now)).collect()
    }

    #[tokio::test]
    async fn each_has_its_turn() {
        let picked = picked(&balance(3), 6, Instant::now());
        assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
    }

    #[tokio::test]
    async fn a_retry_goes_to_another() {
        let (balance, now) = (balance(2), Instant::now());
        for _ in 0..4 {
            assert_eq!(balance.pick(&[0], now), 1);
            assert_eq!(balance.pick(&[1], now), 0);
        }
        balance.nodes[1].failed(now, now);
        let at = balance.pick(&[0], now);
        assert_eq!(at, 1, "rather one that rests than the same");
    }

    #[tokio::test]
    async fn one_that_failed_rests_and_is_then_tried_by_one_call() {
        let (balance, now) = (balance(2), Instant::now());
        let ones = |picked: Vec<usize>| picked.iter().filter(|at| **at == 1).count();
        balance.nodes[1].failed(now, now);
        assert_eq!(ones(picked(&balance, 4, now)), 0);
        let later = now + REST.0;
        assert_eq!(ones(picked(&balance, 4, later)), 1);
        // Whoever tried it went away: the next may.
        balance.nodes[1].given_up(later);
        assert_eq!(ones(picked(&balance, 4, later)), 1);
        balance.nodes[1].answered(later);
        assert_eq!(ones(picked(&balance, 4, later)), 2);
    }

    #[tokio::test]
    async fn what_one_that_rests_leaves_is_shared_by_all_others() {
        let (balance, now) = (balance(3), Instant::now());
        balance.nodes[0].failed(now, now);
        let picked = picked(&balance, 100, now);
        let count = |at| picked.iter().filter(|picked| **picked == at).count();
        assert_eq!((count(0), count(1), count(2)), (0, 50, 50));
    }

    #[tokio::test]
    async fn calls_that_fail_together_count_once() {
        let (balance, now) = (balance(1), Instant::now());
        let node = &balance.nodes[0];
        for _ in 0..50 {
            node.failed(now, now);
        }
        let later = now + REST.0;
        assert!(node.is_to_be_tried(later));
        // It still fails: a longer rest; and one that began before says nothing more.
        node.failed(later, later);
        node.failed(now, later);
        let much_later = later + REST.0 * 2;
        assert!(!node.is_to_be_tried(later + REST.0));
        assert!(node.is_to_be_tried(much_later));
        node.answered(much_later);
        node.failed(later, much_later);
        assert!(node.is_up(), "that call is older than the answer");
    }

    #[tokio::test]
    async fn when_all_rest_one_is_asked_all_the_same() {
        let (balance, now) = (balance(2), Instant::now());
        balance.nodes.iter().for_each(|node| node.failed(now, now));
        assert_eq!(picked(&balance, 2, now), [0, 1]);
        assert!(balance.pick(&[0, 1], now) < 2);
    }

    #[test]
    fn a_rest_grows_to_its_limit() {
        assert_eq!(rest(1), REST.0);
        assert_eq!(rest(2), REST.0 * 2);
        assert_eq!(rest(9), REST.1);
        assert_eq!(rest(u32::MAX), REST.1);
    }
}
