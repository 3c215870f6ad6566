//! The metrics of what clients connect to: calls, connections and their limits.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::catalogue::{Catalogue, Two};
use super::rpc::RpcDurations;
use super::{LimitMetrics, RpcMetrics};

/// The calls and connections of a process.
#[derive(Clone, Debug)]
pub struct PortMetrics {
    rpc_total: Family<Two, Counter>,
    rpc_duration: RpcDurations,
    connections: Family<[(&'static str, String); 1], Gauge>,
    /// The limits of connections.
    pub limits: LimitMetrics,
}

impl PortMetrics {
    /// Registers the metrics.
    pub fn register(catalogue: &mut Catalogue) -> Self {
        Self {
            rpc_total: catalogue.counters(
                "keyward_rpc",
                "method, code",
                "Answered calls, by RPC and gRPC status code (`OK`, `UNAVAILABLE`, ...)",
            ),
            rpc_duration: RpcDurations::register(catalogue),
            limits: LimitMetrics::register(catalogue),
            connections: catalogue.gauges(
                "keyward_connections",
                "worker",
                "Open gRPC connections, by verifying thread",
            ),
        }
    }

    /// The handles of one RPC: its short name, and its full one without a `/` before it. Keep them: this
    /// looks them up.
    pub fn rpc(&self, name: &'static str, method: &'static str) -> RpcMetrics {
        RpcMetrics::new(
            name,
            method,
            self.rpc_total.clone(),
            self.rpc_duration.clone(),
        )
    }

    /// The gauge of one thread's open connections. Keep it: this looks it up.
    pub fn connections(&self, worker: usize) -> Gauge {
        self.connections
            .get_or_create_owned(&[("worker", worker.to_string())])
    }
}
