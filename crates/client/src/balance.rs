//! Chooses the endpoint for each attempt: each in turn, and another one after a failure.
//!
//! Each endpoint has its own connections, instead of one balanced channel for all: a retry must reach
//! another instance. An instance that answers UNAVAILABLE is as useless as one that is gone, and no
//! balancer below gRPC can see that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::endpoint::Channels;

/// How long an endpoint gets no calls after its first failure; the time doubles with each failure.
const MIN_COOLDOWN: Duration = Duration::from_millis(500);
/// The longest such time.
const MAX_COOLDOWN: Duration = Duration::from_secs(10);

/// All endpoints.
pub(crate) struct Balance {
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
}

/// One endpoint and its connections.
pub(crate) struct Endpoint {
    /// The URL as the user wrote it.
    pub(crate) url: String,
    channels: Mutex<Channels>,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    /// Failures without an answer between them.
    failures: u32,
    /// `None`: the endpoint is up.
    cooldown_end: Option<Instant>,
    /// Whether one call probes the endpoint after its cooldown.
    is_probed: bool,
    last_answer: Option<Instant>,
}

impl Endpoint {
    pub(crate) fn new(url: String, channels: Channels) -> Self {
        Self {
            url,
            channels: Mutex::new(channels),
            health: Mutex::default(),
        }
    }

    /// The connection of this client's own calls.
    pub(crate) fn channel(&self) -> Channel {
        self.channels.lock().own.clone()
    }

    /// The connection of calls that are passed on.
    pub(crate) fn passed_channel(&self) -> Channel {
        self.channels.lock().passed.clone()
    }

    /// Makes new calls on other connections. The old ones end with their last call.
    pub(crate) fn reconnect(&self, channels: Channels) {
        *self.channels.lock() = channels;
    }

    /// Records an answer.
    pub(crate) fn answered(&self, now: Instant) {
        *self.health.lock() = Health {
            last_answer: Some(now),
            ..Health::default()
        };
    }

    /// Records that a call which began at `start` failed. Calls that fail together count once. A
    /// call that began before the last answer does not count.
    pub(crate) fn failed(&self, start: Instant, now: Instant) {
        let mut health = self.health.lock();
        let is_cooling = health.cooldown_end.is_some_and(|end| now < end);
        let is_old = health.last_answer.is_some_and(|answer| start < answer);
        if is_old || (is_cooling && !health.is_probed) {
            return;
        }
        health.failures = health.failures.saturating_add(1);
        health.cooldown_end = Some(now + cooldown(health.failures));
        health.is_probed = false;
    }

    /// Records that the probing call was dropped, so that the next call probes instead.
    pub(crate) fn probe_dropped(&self, now: Instant) {
        let mut health = self.health.lock();
        if std::mem::take(&mut health.is_probed) {
            health.cooldown_end = Some(now);
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.health.lock().cooldown_end.is_none()
    }

    /// Whether the cooldown is over and no call probes the endpoint yet. The caller must then probe
    /// it; other calls avoid the endpoint until the probe is answered.
    fn start_probe(&self, now: Instant) -> bool {
        let mut health = self.health.lock();
        let is_due = health.cooldown_end.is_some_and(|end| end <= now);
        if is_due {
            health.cooldown_end = Some(now + cooldown(health.failures));
            health.is_probed = true;
        }
        is_due
    }
}

fn cooldown(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    MAX_COOLDOWN.min(MIN_COOLDOWN * 2_u32.pow(doublings))
}

impl Balance {
    /// Clients that start together begin with different endpoints.
    pub(crate) fn new(endpoints: Vec<Endpoint>) -> Self {
        let next = AtomicUsize::new(fastrand::usize(..endpoints.len().max(1)));
        Self { endpoints, next }
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(crate) fn has_untried(&self, tried: &[usize]) -> bool {
        (0..self.endpoints.len()).any(|index| !tried.contains(&index))
    }

    /// Picks an endpoint that this call has not `tried`: first one whose cooldown is over, then the
    /// next in turn of those that are up, then one in its cooldown. If all were tried, picks among
    /// all in the same order.
    pub(crate) fn pick(&self, tried: &[usize], now: Instant) -> usize {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let all = 0..self.endpoints.len();
        let untried = all.clone().filter(|index| !tried.contains(index));
        self.pick_of(untried, turn, now)
            .or_else(|| self.pick_of(all, turn, now))
            .unwrap_or_default()
    }

    fn pick_of(
        &self,
        candidates: impl Iterator<Item = usize> + Clone,
        turn: usize,
        now: Instant,
    ) -> Option<usize> {
        let in_turn = |some: &mut dyn Iterator<Item = usize>| {
            let some: Vec<_> = some.collect();
            let position = turn.checked_rem(some.len())?;
            some.get(position).copied()
        };
        let is_up = |index: &usize| self.endpoints[*index].is_up();
        candidates
            .clone()
            .find(|index| self.endpoints[*index].start_probe(now))
            .or_else(|| in_turn(&mut candidates.clone().filter(is_up)))
            .or_else(|| in_turn(&mut candidates.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(count: usize) -> Balance {
        let endpoint = |index: usize| Endpoint::new(index.to_string(), Channels::nowhere());
        let balance = Balance::new((0..count).map(endpoint).collect());
        balance.next.store(0, Ordering::Relaxed);
        balance
    }

    fn picked(balance: &Balance, times: usize, now: Instant) -> Vec<usize> {
        (0..times).map(|_| balance.pick(&[], now)).collect()
    }

    #[tokio::test]
    async fn each_endpoint_has_its_turn() {
        let picked = picked(&balance(3), 6, Instant::now());
        assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
    }

    #[tokio::test]
    async fn retry_reaches_another_endpoint() {
        let (balance, now) = (balance(2), Instant::now());
        for _ in 0..4 {
            assert_eq!(balance.pick(&[0], now), 1);
            assert_eq!(balance.pick(&[1], now), 0);
        }
        balance.endpoints[1].failed(now, now);
        let index = balance.pick(&[0], now);
        assert_eq!(
            index, 1,
            "an endpoint in its cooldown is better than the same"
        );
    }

    #[tokio::test]
    async fn one_call_probes_an_endpoint_after_its_cooldown() {
        let (balance, now) = (balance(2), Instant::now());
        let ones = |picked: Vec<usize>| picked.iter().filter(|index| **index == 1).count();
        balance.endpoints[1].failed(now, now);
        assert_eq!(ones(picked(&balance, 4, now)), 0);
        let later = now + MIN_COOLDOWN;
        assert_eq!(ones(picked(&balance, 4, later)), 1);
        balance.endpoints[1].probe_dropped(later);
        assert_eq!(ones(picked(&balance, 4, later)), 1);
        balance.endpoints[1].answered(later);
        assert_eq!(ones(picked(&balance, 4, later)), 2);
    }

    #[tokio::test]
    async fn calls_of_a_failed_endpoint_are_shared_by_all_others() {
        let (balance, now) = (balance(3), Instant::now());
        balance.endpoints[0].failed(now, now);
        let picked = picked(&balance, 100, now);
        let count = |index| picked.iter().filter(|picked| **picked == index).count();
        assert_eq!((count(0), count(1), count(2)), (0, 50, 50));
    }

    #[tokio::test]
    async fn calls_that_fail_together_count_once() {
        let (balance, now) = (balance(1), Instant::now());
        let endpoint = &balance.endpoints[0];
        for _ in 0..50 {
            endpoint.failed(now, now);
        }
        let later = now + MIN_COOLDOWN;
        assert!(endpoint.start_probe(later));
        // The probe fails: the cooldown doubles. An older call changes nothing.
        endpoint.failed(later, later);
        endpoint.failed(now, later);
        let much_later = later + MIN_COOLDOWN * 2;
        assert!(!endpoint.start_probe(later + MIN_COOLDOWN));
        assert!(endpoint.start_probe(much_later));
        endpoint.answered(much_later);
        endpoint.failed(later, much_later);
        assert!(
            endpoint.is_up(),
            "a call older than the answer does not count"
        );
    }

    #[tokio::test]
    async fn endpoints_in_their_cooldown_are_used_when_no_other_is_left() {
        let (balance, now) = (balance(2), Instant::now());
        let endpoints = balance.endpoints.iter();
        endpoints.for_each(|endpoint| endpoint.failed(now, now));
        assert_eq!(picked(&balance, 2, now), [0, 1]);
        assert!(balance.pick(&[0, 1], now) < 2);
    }

    #[test]
    fn cooldown_grows_to_its_limit() {
        assert_eq!(cooldown(1), MIN_COOLDOWN);
        assert_eq!(cooldown(2), MIN_COOLDOWN * 2);
        assert_eq!(cooldown(9), MAX_COOLDOWN);
        assert_eq!(cooldown(u32::MAX), MAX_COOLDOWN);
    }
}
