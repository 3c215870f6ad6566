//! The metrics of an agent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use keyward_client::near::NearCacheStats;
use keyward_ops::{Catalogue, One, PortMetrics};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// All metrics of an agent. The fields are handles: a clone is the same metric.
pub struct AgentMetrics {
    catalogue: Catalogue,
    hits: Counter,
    misses: Counter,
    not_fresh: Counter,
    resets: Counter,
    keys: Gauge<u64, AtomicU64>,
    fresh_for: Gauge<f64, AtomicU64>,
    /// The calls and connections.
    pub(super) ports: PortMetrics,
}

impl AgentMetrics {
    /// Registers all metrics.
    pub(super) fn new() -> Self {
        let mut catalogue = Catalogue::default();
        let c = &mut catalogue;
        c.build_info("keyward_agent_build_info");
        let verified: Family<One, Counter> = c.counters(
            "keyward_agent_verify",
            "outcome",
            "Keys that callers of the agent asked about: `hit` (answered without a call), `miss`, `not_fresh` \
             (took a call, or got no verdict, because the agent was not fresh)",
        );
        let verified = |outcome| verified.get_or_create_owned(&[("outcome", outcome)]);
        Self {
            hits: verified("hit"),
            misses: verified("miss"),
            not_fresh: verified("not_fresh"),
            resets: c.metric(
                "keyward_agent_resets",
                "How often the agent has forgotten all keys, because it had missed too many changes",
            ),
            keys: c.metric("keyward_agent_keys", "Keys that the agent holds"),
            fresh_for: c.metric(
                "keyward_agent_fresh_for_seconds",
                "For how long the agent may answer by itself without news from Keyward; 0 while it is not fresh",
            ),
            ports: PortMetrics::register(c),
            catalogue,
        }
    }

    /// All metrics in the OpenMetrics text format, with these numbers of the near-cache.
    pub(super) fn encode(&self, near: NearCacheStats) -> String {
        for (counter, count) in [
            (&self.hits, near.hits),
            (&self.misses, near.misses),
            (&self.not_fresh, near.not_fresh),
            (&self.resets, near.resets),
        ] {
            counter.inner().store(count, Relaxed);
        }
        self.keys.set(near.keys);
        let fresh_for = near.fresh_for.unwrap_or_default();
        self.fresh_for.set(fresh_for.as_secs_f64());
        self.catalogue.encode()
    }

    /// The metrics as a Markdown table, for the documentation.
    pub fn table() -> String {
        Self::new().catalogue.table()
    }
}
