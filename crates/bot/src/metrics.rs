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
    /// Questions to the host product, by outcome.
    pub host: Family<One, Counter>,
    /// Revocations that users confirmed, by outcome.
    pub revokes: Family<One, Counter>,
    /// Requests beyond a user's limit, by limit.
    pub limited: Family<One, Counter>,
    /// Messages whose key the bot hid, by cause.
    pub hidden: Family<One, Counter>,
    /// Keys that the bot showed to their users.
    pub reveals: Counter,
    /// Taps on forged buttons, and on buttons of other users.
    pub forged: Counter,
    /// Updates that the bot is handling.
    pub in_flight: Gauge,
    /// Messages that show a key.
    pub showing: Gauge,
    /// Bots whose updates Telegram does not deliver.
    pub unserved: Gauge,
}

impl Default for Metrics {
    /// Registers all metrics.
    fn default() -> Self {
        let mut catalogue = Catalogue::default();
        let (c, name) = (&mut catalogue, |name: &str| format!("keyward_bot_{name}"));
        c.build_info(&name("build_info"));
        Self {
            updates: c.counters(&name("updates"), "kind, outcome", "Updates from Telegram"),
            update_duration: c.durations(
                &name("update_duration"),
                "kind",
                "Time to handle an update",
                histogram,
            ),
            telegram: c.counters(
                &name("telegram_calls"),
                "method, outcome",
                "Attempts of calls to Telegram",
            ),
            keyward: c.counters(
                &name("keyward_calls"),
                "method, outcome",
                "Calls to Keyward",
            ),
            keyward_duration: c.durations(
                &name("keyward_call_duration"),
                "method",
                "Time of a call to Keyward",
                histogram,
            ),
            host: c.counters(
                &name("account_lookups"),
                "outcome",
                "Questions to `account_url`",
            ),
            revokes: c.counters(
                &name("revokes"),
                "outcome",
                "Revocations that users confirmed",
            ),
            limited: c.counters(&name("limited"), "limit", "Requests beyond a user's limit"),
            hidden: c.counters(&name("hidden"), "cause", "Messages whose key the bot hid"),
            reveals: c.metric(&name("reveals"), "Keys that the bot showed to their users"),
            forged: c.metric(
                &name("forged_buttons"),
                "Taps on forged buttons, and on buttons of other users",
            ),
            in_flight: c.metric(
                &name("updates_in_flight"),
                "Updates that the bot is handling",
            ),
            showing: c.metric(&name("messages_showing_a_key"), "Messages that show a key"),
            unserved: c.metric(
                &name("bots_unserved"),
                "Bots of the process whose users are not served; `/readyz` names them",
            ),
            catalogue,
        }
    }
}

/// Counts one, with this value of the only label.
pub fn count(counters: &Family<One, Counter>, label: &'static str, value: &'static str) {
    counters.get_or_create(&[(label, value)]).inc();
}

impl Metrics {
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

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        self.catalogue.encode()
    }

    /// The metrics as a Markdown table, for the documentation.
    pub fn table() -> String {
        Self::default().catalogue.table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_has_the_table_of_metrics() {
        let (readme, table) = (include_str!("../README.md"), Metrics::table());
        assert!(
            readme.contains(&table),
            "README.md needs this table:\n{table}"
        );
    }
}
