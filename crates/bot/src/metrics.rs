//! The metrics, in the OpenMetrics text format. No label holds what a user wrote.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];
type Times = Family<One, Histogram, fn() -> Histogram>;

/// From 5 ms to 82 s, each bucket twice as wide as the one before.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 15))
}

/// All metrics of the bot.
pub struct Metrics {
    registry: Registry,
    updates: Family<Two, Counter>,
    handling: Times,
    telegram: Family<Two, Counter>,
    keyward: Family<Two, Counter>,
    keyward_times: Times,
    revokes: Family<One, Counter>,
    limited: Family<One, Counter>,
    hidden: Family<One, Counter>,
    /// Keys shown to their users.
    pub reveals: Counter,
    /// Taps on buttons that were not made for the user.
    pub forged: Counter,
    /// Updates that are being handled.
    pub in_flight: Gauge,
    /// Messages that show a key.
    pub showing: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers all.
    pub fn new() -> Self {
        let times = || Times::new_with_constructor(histogram);
        let all = Self {
            registry: Registry::default(),
            updates: Family::default(),
            handling: times(),
            telegram: Family::default(),
            keyward: Family::default(),
            keyward_times: times(),
            revokes: Family::default(),
            limited: Family::default(),
            hidden: Family::default(),
            reveals: Counter::default(),
            forged: Counter::default(),
            in_flight: Gauge::default(),
            showing: Gauge::default(),
        };
        let build: Family<One, Gauge> = Family::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        all.register(build)
    }

    fn register(mut self, build: Family<One, Gauge>) -> Self {
        let to = &mut self.registry;
        to.register(
            "keyward_bot_build_info",
            "1, with the running version",
            build,
        );
        let help = "Updates of Telegram, by kind and how they ended";
        to.register("keyward_bot_updates", help, self.updates.clone());
        let help = "Time to handle an update, by kind";
        let seconds = Unit::Seconds;
        to.register_with_unit(
            "keyward_bot_update_duration",
            help,
            seconds,
            self.handling.clone(),
        );
        let help = "Calls to Telegram, by method and outcome";
        to.register("keyward_bot_telegram_calls", help, self.telegram.clone());
        let help = "Calls to Keyward, by method and outcome";
        to.register("keyward_bot_keyward_calls", help, self.keyward.clone());
        let (help, times) = (
            "Time of a call to Keyward, by method",
            self.keyward_times.clone(),
        );
        to.register_with_unit(
            "keyward_bot_keyward_call_duration",
            help,
            Unit::Seconds,
            times,
        );
        let help = "Revocations that users confirmed, by outcome";
        to.register("keyward_bot_revokes", help, self.revokes.clone());
        let help = "Requests beyond a user's limit, by limit";
        to.register("keyward_bot_limited", help, self.limited.clone());
        let help = "Messages whose key was hidden, by cause";
        to.register("keyward_bot_hidden", help, self.hidden.clone());
        let help = "Keys shown to their users";
        to.register("keyward_bot_reveals", help, self.reveals.clone());
        let help = "Taps on buttons that were not made for the user";
        to.register("keyward_bot_forged_buttons", help, self.forged.clone());
        let help = "Updates that are being handled";
        to.register(
            "keyward_bot_updates_in_flight",
            help,
            self.in_flight.clone(),
        );
        let help = "Messages known to show a key";
        to.register(
            "keyward_bot_messages_showing_a_key",
            help,
            self.showing.clone(),
        );
        self
    }

    /// Counts an update that was handled.
    pub fn update(&self, kind: &'static str, outcome: &'static str, elapsed: Duration) {
        let labels = [("kind", kind), ("outcome", outcome)];
        self.updates.get_or_create(&labels).inc();
        self.handling
            .get_or_create(&[("kind", kind)])
            .observe(elapsed.as_secs_f64());
    }

    /// Counts a call to Telegram.
    pub fn telegram(&self, method: &'static str, outcome: &'static str) {
        let labels = [("method", method), ("outcome", outcome)];
        self.telegram.get_or_create(&labels).inc();
    }

    /// Counts a call to Keyward.
    pub fn keyward(&self, method: &'static str, outcome: &'static str, elapsed: Duration) {
        let labels = [("method", method), ("outcome", outcome)];
        self.keyward.get_or_create(&labels).inc();
        let times = self.keyward_times.get_or_create(&[("method", method)]);
        times.observe(elapsed.as_secs_f64());
    }

    /// Counts a revocation that was confirmed.
    pub fn revoke(&self, outcome: &'static str) {
        self.revokes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a request beyond a limit.
    pub fn limited(&self, limit: &'static str) {
        self.limited.get_or_create(&[("limit", limit)]).inc();
    }

    /// Counts a message that was hidden.
    pub fn hidden(&self, cause: &'static str) {
        self.hidden.get_or_create(&[("cause", cause)]).inc();
    }

    /// All as text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, and every label is a plain text.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.update("tap", "ok", Duration::from_millis(20));
        metrics.telegram("editMessageText", "ok");
        metrics.keyward("Revoke", "REVOKE_UNCONFIRMED", Duration::from_secs(15));
        metrics.revoke("replaced");
        metrics.limited("reveals");
        metrics.hidden("time");
        metrics.reveals.inc();
        metrics.in_flight.set(3);
        let text = metrics.encode();
        for line in [
            "keyward_bot_updates_total{kind=\"tap\",outcome=\"ok\"} 1",
            "keyward_bot_update_duration_seconds_count{kind=\"tap\"} 1",
            "keyward_bot_telegram_calls_total{method=\"editMessageText\",outcome=\"ok\"} 1",
            "keyward_bot_keyward_calls_total{method=\"Revoke\",outcome=\"REVOKE_UNCONFIRMED\"} 1",
            "keyward_bot_keyward_call_duration_seconds_count{method=\"Revoke\"} 1",
            "keyward_bot_revokes_total{outcome=\"replaced\"} 1",
            "keyward_bot_limited_total{limit=\"reveals\"} 1",
            "keyward_bot_hidden_total{cause=\"time\"} 1",
            "keyward_bot_reveals_total 1",
            "keyward_bot_forged_buttons_total 0",
            "keyward_bot_updates_in_flight 3",
            "keyward_bot_messages_showing_a_key 0",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|shown| shown == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn the_readme_lists_every_metric() {
        let readme = include_str!("../README.md");
        let text = Metrics::new().encode();
        let mut names = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
        let is_listed = |line: &str| {
            let name = line.split(' ').next().unwrap_or_default();
            let of_counter = format!("| `{name}_total` |");
            readme.contains(&format!("| `{name}` |")) || readme.contains(&of_counter)
        };
        assert_eq!(names.find(|line| !is_listed(line)), None);
    }
}
