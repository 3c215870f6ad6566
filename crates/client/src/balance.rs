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
    pub(crate) fn answered(&self) {
        *self.health.lock() = Health::default();
    }

    /// It did not answer, or said that it cannot.
    pub(crate) fn failed(&self, now: Instant) {
        let mut health = self.health.lock();
        health.failures = health.failures.saturating_add(1);
        health.rests_until = Some(now + rest(health.failures));
    }

    /// Whether it may be asked. After a rest one call tries it, while the others stay away until
    /// that one is answered.
    fn admits(&self, now: Instant) -> bool {
        let mut health = self.health.lock();
        match health.rests_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                health.rests_until = Some(now + rest(health.failures));
                true
            }
        }
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

    /// The endpoint to ask: the next in turn that neither was `tried` in this call nor rests;
    /// failing that one that rests; failing that one again. So an endpoint that rests is still
    /// asked when there is no better one.
    pub(crate) fn pick(&self, tried: &[usize], now: Instant) -> usize {
        let count = self.nodes.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % count;
        let order = || (0..count).map(|step| (first + step) % count);
        let fresh = || order().filter(|at| !tried.contains(at));
        fresh()
            .find(|at| self.nodes[*at].admits(now))
            .or_else(|| fresh().next())
            .or_else(|| order().find(|at| self.nodes[*at].admits(now)))
            .unwrap_or(first)
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
        balance.nodes[1].failed(now);
        let at = balance.pick(&[0], now);
        assert_eq!(at, 1, "rather one that rests than the same");
    }

    #[tokio::test]
    async fn one_that_failed_rests_and_is_then_tried_by_one_call() {
        let (balance, now) = (balance(2), Instant::now());
        let ones = |picked: Vec<usize>| picked.iter().filter(|at| **at == 1).count();
        balance.nodes[1].failed(now);
        assert_eq!(ones(picked(&balance, 4, now)), 0);
        let later = now + REST.0;
        assert_eq!(ones(picked(&balance, 4, later)), 1);
        balance.nodes[1].answered();
        assert_eq!(ones(picked(&balance, 4, later)), 2);
    }

    #[tokio::test]
    async fn when_all_rest_one_is_asked_all_the_same() {
        let (balance, now) = (balance(2), Instant::now());
        balance.nodes.iter().for_each(|node| node.failed(now));
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
