//! The metrics of the service. The hot path counts with handles that were resolved beforehand,
//! without a lookup. A counter or a gauge costs one atomic operation; a histogram takes a short lock.

mod catalogue;
mod groups;
mod ports;
mod rpc;

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use catalogue::histogram;
pub use catalogue::{Catalogue, Durations, Kind, One, Two};
pub use groups::{
    AuditMetrics, CacheMetrics, CallerMetrics, FenceMetrics, GarbageMetrics, HeartbeatMetrics,
    KeyringMetrics, L2Metrics, LimitMetrics, MemberMetrics, NearMetrics, RevealMetrics,
    RevokeMetrics, TlsMetrics, UseMetrics, WebhookMetrics, WebhooksMetrics,
};
pub use ports::PortMetrics;
pub(crate) use rpc::conventional_name;
pub use rpc::{RpcMetrics, code_name};

/// All metrics of an instance. The fields are handles: a clone is the same metric.
pub struct Metrics {
    catalogue: Catalogue,
    store_calls: Durations<Two>,
    verdicts: Vec<Counter>,
    /// Keys refused without I/O.
    pub garbage: GarbageMetrics,
    /// The keyring.
    pub keyring: KeyringMetrics,
    /// The seals of the audit.
    pub audit: AuditMetrics,
    /// The cache of keys.
    pub key_cache: CacheMetrics,
    /// The cache of callers' tokens.
    pub token_cache: CacheMetrics,
    /// The cache of foreign keys.
    pub foreign_cache: CacheMetrics,
    /// Store calls refused because too many were open.
    pub store_permits_refused: Counter,
    /// The fence.
    pub fence: FenceMetrics,
    /// Changes that must hold on every instance.
    pub revoke: RevokeMetrics,
    /// The use of keys.
    pub uses: UseMetrics,
    /// What is sent to webhooks.
    pub webhooks: WebhooksMetrics,
    /// Heartbeats of the tail.
    pub beats: HeartbeatMetrics,
    /// The other instances.
    pub members: MemberMetrics,
    /// The near-caches in callers' processes.
    pub near: NearMetrics,
    /// The cache in Redis.
    pub l2: L2Metrics,
    /// The listener's TLS.
    pub tls: TlsMetrics,
    /// The callers.
    pub callers: CallerMetrics,
    /// Secrets that callers see again.
    pub reveals: RevealMetrics,
    /// The calls and connections.
    pub ports: PortMetrics,
}

impl Metrics {
    /// Registers all metrics. `verdicts` are the names of the verdicts, by the index that `verdict`
    /// takes.
    pub fn new(verdicts: &[&'static str]) -> Self {
        let mut catalogue = Catalogue::default();
        let c = &mut catalogue;
        c.build_info("keyward_build_info");
        let verdict: Family<One, Counter> =
            c.counters("keyward_verify", "verdict", "Verified keys, by verdict");
        let count = |name: &&'static str| verdict.get_or_create_owned(&[("verdict", *name)]);
        let [key_cache, token_cache, foreign_cache] = CacheMetrics::register(c);
        let metrics = Self {
            ports: PortMetrics::register(c),
            verdicts: verdicts.iter().map(count).collect(),
            garbage: GarbageMetrics::register(c),
            keyring: KeyringMetrics::register(c),
            audit: AuditMetrics::register(c),
            key_cache,
            token_cache,
            foreign_cache,
            store_calls: c.durations(
                "keyward_store_call_duration",
                "call, outcome",
                "Time of a store call, by call and outcome",
                histogram,
            ),
            store_permits_refused: c.metric(
                "keyward_store_permits_refused",
                "Store calls refused because too many were open",
            ),
            fence: FenceMetrics::register(c),
            revoke: RevokeMetrics::register(c),
            uses: UseMetrics::register(c),
            webhooks: WebhooksMetrics::register(c),
            beats: HeartbeatMetrics::register(c),
            members: MemberMetrics::register(c),
            near: NearMetrics::register(c),
            l2: L2Metrics::register(c),
            tls: TlsMetrics::register(c),
            callers: CallerMetrics::register(c),
            reveals: RevealMetrics::register(c),
            catalogue,
        };
        metrics.fence.freshness_age.set(-1.0);
        metrics
    }

    /// Counts a verdict by its index in the names of `new`; other indexes count nothing.
    pub fn verdict(&self, index: usize) {
        if let Some(counter) = self.verdicts.get(index) {
            counter.inc();
        }
    }

    /// Counts a store call that ended with `outcome` (`ok`, `unavailable`, `locked`, `unknown`, `refused` or `damaged`)
    /// after `elapsed`.
    pub fn store_call(&self, call: &'static str, outcome: &'static str, elapsed: Duration) {
        let labels = [("call", call), ("outcome", outcome)];
        self.store_calls
            .get_or_create(&labels)
            .observe(elapsed.as_secs_f64());
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        self.catalogue.encode()
    }

    /// The metrics as a Markdown table, for the documentation.
    pub fn table() -> String {
        Self::new(&[]).catalogue.table()
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::VERSION;

    #[test]
    fn encoded_text_has_every_count() {
        let metrics = Metrics::new(&["VALID", "NOT_FOUND"]);
        metrics.verdict(1);
        metrics.verdict(99);
        let rpc = metrics
            .ports
            .rpc("Verify", "keyward.v1.ApiKeyService/Verify");
        rpc.observe(Code::Ok, Duration::from_micros(40));
        rpc.observe(Code::Unavailable, Duration::from_secs(1));
        metrics.store_call("find", "ok", Duration::from_millis(1));
        metrics.ports.connections(3).inc();
        metrics.key_cache.hit.inc();
        metrics.fence.freshness_age.set(0.25);
        metrics.fence.applied_revision.set(7);
        let text = metrics.encode();
        for line in [
            "keyward_verify_total{verdict=\"VALID\"} 0",
            "keyward_verify_total{verdict=\"NOT_FOUND\"} 1",
            "keyward_rpc_total{method=\"Verify\",code=\"OK\"} 1",
            "keyward_rpc_total{method=\"Verify\",code=\"UNAVAILABLE\"} 1",
            "keyward_rpc_duration_seconds_count{method=\"Verify\",code=\"OK\"} 1",
            "rpc_server_call_duration_seconds_count{rpc_system_name=\"grpc\",\
             rpc_method=\"keyward.v1.ApiKeyService/Verify\",rpc_response_status_code=\"UNAVAILABLE\"} 1",
            "keyward_store_call_duration_seconds_count{call=\"find\",outcome=\"ok\"} 1",
            "keyward_connections{worker=\"3\"} 1",
            "keyward_cache_total{cache=\"key\",outcome=\"hit\"} 1",
            "keyward_freshness_age_seconds 0.25",
            "keyward_applied_revision 7",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|shown| shown == line),
                "{line} is not in\n{text}"
            );
        }
        assert!(text.contains(&format!("keyward_build_info{{version=\"{VERSION}\"}} 1")));
    }

    #[test]
    fn table_lists_every_encoded_metric() {
        let table = Metrics::table();
        let metrics = Metrics::new(&["VALID"]);
        let (_, _) = (
            metrics.ports.rpc("Get", "x.Y/Get"),
            metrics.ports.connections(0),
        );
        metrics.store_call("find", "ok", Duration::ZERO);
        for line in metrics
            .encode()
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            let name = line.split(['{', ' ']).next().unwrap();
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|s| name.strip_suffix(s))
                .unwrap_or(name);
            assert!(
                table.contains(&format!("| `{name}` |")),
                "{name} is not in\n{table}"
            );
        }
    }
}
