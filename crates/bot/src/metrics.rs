//! The metrics of the bot. No label contains text of a user.

use std::time::Duration;

use keyward_ops::{Catalogue, Durations, One, Two};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Buckets from 5 ms to 82 s, each twice as wide as the one before.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 15))
}

/// All metrics of the bot.
pub struct Metrics {
    catalogue: Catalogue,
    updates: Family<Two, Counter>,
    update_duration: Durations<One>,
    telegram: Family<Two, Counter>,
    keyward: Family<Two, Counter>,
    keyward_duration: Durations<One>,
    revokes: Family<One, Counter>,
    limited: Family<One, Counter>,
    hidden: Family<One, Counter>,
    /// Keys that the bot showed to their users.
    pub reveals: Counter,
    /// Taps on forged buttons, and on buttons of other users.
    pub forged: Counter,
    /// Updates that the bot is handling.
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
    /// Registers all metrics.
    pub fn new() -> Self {
        let mut catalogue = Catalogue::default();
        let c = &mut catalogue;
        c.build_info("keyward_bot_build_info");
        Self {
            updates: c.counters(
                "keyward_bot_updates",
                "kind, outcome",
                "Updates from Telegram, by kind and outcome",
            ),
            update_duration: c.durations(
                "keyward_bot_update_duration",
                "kind",
                "Time to handle an update, by kind",
                histogram,
            ),
            telegram: c.counters(
                "keyward_bot_telegram_calls",
                "method, outcome",
                "Calls to Telegram, by method and outcome",
            ),
            keyward: c.counters(
                "keyward_bot_keyward_calls",
                "method, outcome",
                "Calls to Keyward, by method and outcome",
            ),
            keyward_duration: c.durations(
                "keyward_bot_keyward_call_duration",
                "method",
                "Time of a call to Keyward, by method",
                histogram,
            ),
            revokes: c.counters(
                "keyward_bot_revokes",
                "outcome",
                "Revocations that users confirmed, by outcome",
            ),
            limited: c.counters(
                "keyward_bot_limited",
                "limit",
                "Requests beyond a user's limit, by limit",
            ),
            hidden: c.counters(
                "keyward_bot_hidden",
                "cause",
                "Messages whose key the bot hid, by cause",
            ),
            reveals: c.metric(
                "keyward_bot_reveals",
                "Keys that the bot showed to their users",
            ),
            forged: c.metric(
                "keyward_bot_forged_buttons",
                "Taps on forged buttons, and on buttons of other users",
            ),
            in_flight: c.metric(
                "keyward_bot_updates_in_flight",
                "Updates that the bot is handling",
            ),
            showing: c.metric(
                "keyward_bot_messages_showing_a_key",
                "Messages that show a key",
            ),
            catalogue,
        }
    }

    /// Counts a handled update.
    pub fn update(&self, kind: &'static str, outcome: &'static str, elapsed: Duration) {
        let labels = [("kind", kind), ("outcome", outcome)];
        self.updates.get_or_create(&labels).inc();
        self.update_duration
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
        let times = self.keyward_duration.get_or_create(&[("method", method)]);
        times.observe(elapsed.as_secs_f64());
    }

    /// Counts a revocation that a user confirmed.
    pub fn revoke(&self, outcome: &'static str) {
        self.revokes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a request beyond a limit.
    pub fn limited(&self, limit: &'static str) {
        self.limited.get_or_create(&[("limit", limit)]).inc();
    }

    /// Counts a message whose key the bot hid.
    pub fn hidden(&self, cause: &'static str) {
        self.hidden.get_or_create(&[("cause", cause)]).inc();
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        self.catalogue.encode()
    }

    /// The metrics as a Markdown table, for the documentation.
    pub fn table() -> String {
        Self::new().catalogue.table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_text_has_every_count() {
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
    fn readme_has_the_table_of_metrics() {
        let (readme, table) = (include_str!("../README.md"), Metrics::table());
        assert!(
            readme.contains(&table),
            "README.md needs this table:\n{table}"
        );
    }
}
