//! The registry of metrics, and what was registered in it.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets_range};
use prometheus_client::registry::{Metric, Registry, Unit};

/// From 50 us to 30 s: 20 buckets, each twice as wide as the one before.
pub(super) fn histogram() -> Histogram {
    Histogram::new(exponential_buckets_range(50e-6, 30.0, 20))
}

pub(super) struct Described {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) labels: &'static str,
    pub(super) help: &'static str,
}

/// The registry, and what was registered, so that the documentation can be held to it.
#[derive(Default)]
pub(super) struct Catalogue {
    pub(super) registry: Registry,
    pub(super) described: Vec<Described>,
}

impl Catalogue {
    pub(super) fn counter(&mut self, name: &str, help: &'static str) -> Counter {
        self.add(name, "counter", "", help, Counter::default())
    }

    pub(super) fn counters<L>(
        &mut self,
        name: &str,
        labels: &'static str,
        help: &'static str,
    ) -> Family<L, Counter>
    where
        Family<L, Counter>: Metric + Clone + Default,
    {
        self.add(name, "counter", labels, help, Family::default())
    }

    pub(super) fn histograms<L>(
        &mut self,
        name: &str,
        labels: &'static str,
        help: &'static str,
    ) -> Family<L, Histogram, fn() -> Histogram>
    where
        L: Clone + std::hash::Hash + Eq,
        Family<L, Histogram, fn() -> Histogram>: Metric,
    {
        self.add(
            name,
            "histogram",
            labels,
            help,
            Family::new_with_constructor(histogram),
        )
    }

    pub(super) fn gauge<G: Metric + Clone + Default>(
        &mut self,
        name: &str,
        help: &'static str,
    ) -> G {
        self.add(name, "gauge", "", help, G::default())
    }

    /// Registers `metric`. Names of times get their unit and those of counters `_total`.
    pub(super) fn add<M: Metric + Clone>(
        &mut self,
        name: &str,
        kind: &'static str,
        labels: &'static str,
        help: &'static str,
        metric: M,
    ) -> M {
        let is_time = kind == "histogram" || name.ends_with("_age");
        let unit = if is_time { "_seconds" } else { "" };
        let suffix = if kind == "counter" { "_total" } else { "" };
        let name_shown = format!("{name}{unit}{suffix}");
        self.described.push(Described {
            name: name_shown,
            kind,
            labels,
            help,
        });
        if is_time {
            self.registry
                .register_with_unit(name, help, Unit::Seconds, metric.clone());
        } else {
            self.registry.register(name, help, metric.clone());
        }
        metric
    }
}
