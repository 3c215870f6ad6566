//! The registry of a program's metrics, and their description for the documentation.

use std::fmt::Write as _;
use std::hash::Hash;

use prometheus_client::collector::Collector;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets_range};
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::VERSION;

/// Label names and values of a metric with one label.
pub type One = [(&'static str, &'static str); 1];
/// Label names and values of a metric with two labels.
pub type Two = [(&'static str, &'static str); 2];
/// Histograms of durations in seconds, by labels.
pub type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Buckets from 50 us to 30 s: 20 of them, each twice as wide as the one before.
pub(super) fn histogram() -> Histogram {
    Histogram::new(exponential_buckets_range(50e-6, 30.0, 20))
}

/// A type of metric without labels.
pub trait Kind: Metric + Clone {
    /// Its name in OpenMetrics.
    const NAME: &'static str;

    /// A new metric.
    fn create() -> Self;
}

impl Kind for Counter {
    const NAME: &'static str = "counter";

    fn create() -> Self {
        Self::default()
    }
}

impl<N, A: Default> Kind for Gauge<N, A>
where
    Self: Metric + Clone,
{
    const NAME: &'static str = "gauge";

    fn create() -> Self {
        Self::default()
    }
}

impl Kind for Histogram {
    const NAME: &'static str = "histogram";

    fn create() -> Self {
        histogram()
    }
}

/// All metrics of one program, each with its description.
#[derive(Default)]
pub struct Catalogue {
    registry: Registry,
    described: Vec<Described>,
}

struct Described {
    name: String,
    kind: &'static str,
    labels: &'static str,
    help: &'static str,
}

impl Catalogue {
    /// Registers a metric without labels.
    pub fn metric<K: Kind>(&mut self, name: &str, help: &'static str) -> K {
        self.add(name, K::NAME, "", help, K::create())
    }

    /// Registers counters by `labels`.
    pub fn counters<L>(
        &mut self,
        name: &str,
        labels: &'static str,
        help: &'static str,
    ) -> Family<L, Counter>
    where
        Family<L, Counter>: Metric + Clone + Default,
    {
        self.add(name, Counter::NAME, labels, help, Family::default())
    }

    /// Registers gauges by `labels`.
    pub fn gauges<L>(
        &mut self,
        name: &str,
        labels: &'static str,
        help: &'static str,
    ) -> Family<L, Gauge>
    where
        Family<L, Gauge>: Metric + Clone + Default,
    {
        self.add(name, Gauge::<i64>::NAME, labels, help, Family::default())
    }

    /// Registers histograms of durations by `labels`; `create` sets their buckets.
    pub fn durations<L>(
        &mut self,
        name: &str,
        labels: &'static str,
        help: &'static str,
        create: fn() -> Histogram,
    ) -> Durations<L>
    where
        L: Clone + Hash + Eq,
        Durations<L>: Metric,
    {
        let family = Family::new_with_constructor(create);
        self.add(name, Histogram::NAME, labels, help, family)
    }

    /// Registers a gauge `name` with the value 1 and the running version as its label.
    pub fn build_info(&mut self, name: &str) {
        let build: Family<One, Gauge> = self.gauges(name, "version", "1, with the running version");
        build.get_or_create(&[("version", VERSION)]).set(1);
    }

    /// Registers `metric`. Durations and ages get the unit seconds, counters the suffix `_total`.
    fn add<M: Metric + Clone>(
        &mut self,
        name: &str,
        kind: &'static str,
        labels: &'static str,
        help: &'static str,
        metric: M,
    ) -> M {
        let is_time = kind == Histogram::NAME || name.ends_with("_age");
        let unit = if is_time { "_seconds" } else { "" };
        let suffix = if kind == Counter::NAME { "_total" } else { "" };
        self.described.push(Described {
            name: format!("{name}{unit}{suffix}"),
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

    /// Registers a collector of metrics with these names, labels and meanings.
    pub(super) fn collector(
        &mut self,
        collector: impl Collector,
        metrics: &[(&'static str, &'static str, &'static str)],
    ) {
        self.registry.register_collector(Box::new(collector));
        let described = metrics.iter().map(|(name, labels, help)| Described {
            name: (*name).to_owned(),
            kind: Histogram::NAME,
            labels,
            help,
        });
        self.described.extend(described);
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, and all labels are plain text.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    /// The metrics as a Markdown table, for the documentation.
    pub fn table(&self) -> String {
        let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
        for Described {
            name,
            kind,
            labels,
            help,
        } in &self.described
        {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {help}. |");
        }
        text
    }
}
