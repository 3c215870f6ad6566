//! Metrics for the collector, read from the text that the side port shows: one truth for both.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use tokio::runtime::Handle;

use super::collector::Sender;
use super::wait;
use crate::metrics::conventional_name;
use crate::samples::{Sample, Samples};

/// How often metrics are sent.
const INTERVAL: Duration = Duration::from_secs(30);

/// The text of all metrics, in the OpenMetrics format.
type Source = Box<dyn Fn() -> String + Send + Sync>;

/// Sends metrics. It sends nothing until it has a source.
#[derive(Clone)]
pub struct MetricsExport(Arc<Inner>);

struct Inner {
    sender: Sender,
    resource: v1::Resource,
    runtime: Handle,
    /// In nanoseconds since 1970.
    start: u64,
    source: OnceLock<Source>,
}

impl MetricsExport {
    /// Sends every 30 seconds, on `runtime`.
    pub(super) fn start(sender: Sender, resource: &Resource, runtime: &Handle) -> Self {
        let attributes = ResourceAttributesWithSchema::from(resource).attributes.0;
        let export = Self(Arc::new(Inner {
            sender,
            resource: v1::Resource {
                attributes,
                ..Default::default()
            },
            runtime: runtime.clone(),
            start: now(),
            source: OnceLock::new(),
        }));
        let regular = export.clone();
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                regular.send().await;
            }
        });
        export
    }

    /// Sends what `source` returns. Only the first source counts.
    pub fn of(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        // A program has one catalogue of metrics.
        let _ = self.0.source.set(Box::new(source));
    }

    /// Sends once more and waits for that, for at most `limit`.
    pub(super) fn send_last(&self, limit: Duration) {
        let export = self.clone();
        wait(limit, &self.0.runtime, async move { export.send().await });
    }

    async fn send(&self) {
        let Inner {
            sender,
            resource,
            start,
            source,
            ..
        } = &*self.0;
        let Some(text) = source.get().map(|source| source()) else {
            return;
        };
        let metrics = read(&text, [*start, now()]);
        let scope = InstrumentationScope {
            name: "keyward".to_owned(),
            ..Default::default()
        };
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope),
                    metrics,
                    ..Default::default()
                }],
                ..Default::default()
            }],
        };
        let mut client = MetricsServiceClient::new(sender.transport());
        // The sender has logged an outage.
        let _ = sender
            .send(async move { client.export(request).await.map(drop) })
            .await;
    }
}

impl std::fmt::Debug for MetricsExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MetricsExport({:?})", self.0.sender)
    }
}

/// The time in nanoseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "the time of a sample decides nothing"
)]
fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The metrics in a text of the OpenMetrics format, counted from the first time to the second.
fn read(text: &str, [start, now]: [u64; 2]) -> Vec<Metric> {
    let samples = Samples::read(text);
    let comment = |kind: &str, name: &str| {
        let prefix = format!("# {kind} {name} ");
        let mut found = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        found.next().unwrap_or_default().to_owned()
    };
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let types = types.filter_map(|line| line.split_once(' '));
    types
        .map(|(name, kind)| {
            // A counter keeps the name that the side port shows.
            let (suffix, sampled) = match kind {
                "counter" => ("_total", "_total"),
                "histogram" => ("", "_count"),
                _ => ("", ""),
            };
            let sampled = format!("{name}{sampled}");
            let points = samples.of(&sampled);
            let number = |sample: &Sample| NumberDataPoint {
                attributes: attributes(name, sample),
                start_time_unix_nano: start,
                time_unix_nano: now,
                value: Some(Value::AsDouble(sample.value)),
                ..Default::default()
            };
            let histogram = |sample: &Sample| HistogramDataPoint {
                start_time_unix_nano: start,
                time_unix_nano: now,
                ..histogram(name, sample, &samples)
            };
            let aggregation_temporality = AggregationTemporality::Cumulative.into();
            let data = match kind {
                "counter" => Data::Sum(Sum {
                    data_points: points.map(number).collect(),
                    aggregation_temporality,
                    is_monotonic: true,
                }),
                "histogram" => Data::Histogram(Histogram {
                    data_points: points.map(histogram).collect(),
                    aggregation_temporality,
                }),
                _ => Data::Gauge(Gauge {
                    data_points: points.map(number).collect(),
                }),
            };
            let name_here = format!("{name}{suffix}");
            Metric {
                name: conventional_name(name).map_or(name_here, str::to_owned),
                description: comment("HELP", name),
                unit: if comment("UNIT", name) == "seconds" {
                    "s"
                } else {
                    ""
                }
                .to_owned(),
                data: Some(data),
                ..Default::default()
            }
        })
        .collect()
}

/// The histogram `name` with the labels of its sample `count`.
fn histogram(name: &str, count: &Sample, samples: &Samples) -> HistogramDataPoint {
    let has_labels = |sample: &&Sample| {
        count
            .labels
            .iter()
            .all(|(label, value)| sample.label(label) == Some(value))
    };
    let (bucket, sum) = (format!("{name}_bucket"), format!("{name}_sum"));
    let mut point = HistogramDataPoint {
        attributes: attributes(name, count),
        count: whole(count.value),
        sum: samples.of(&sum).find(has_labels).map(|sample| sample.value),
        ..Default::default()
    };
    let mut below = 0;
    for sample in samples.of(&bucket).filter(has_labels) {
        // The side port counts all up to a bound, OTLP those of each bucket.
        let up_to = whole(sample.value);
        point.bucket_counts.push(up_to.saturating_sub(below));
        below = up_to;
        let bound = sample.label("le").and_then(|le| le.parse::<f64>().ok());
        point
            .explicit_bounds
            .extend(bound.filter(|bound| bound.is_finite()));
    }
    point
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count is whole and not negative"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

/// The labels of a sample, without the bound of a bucket.
fn attributes(metric: &str, sample: &Sample) -> Vec<KeyValue> {
    let labels = sample.labels.iter().filter(|(label, _)| label != "le");
    let is_conventional = conventional_name(metric).is_some();
    let attribute = |(label, value): &(String, String)| KeyValue {
        key: match conventional_name(label) {
            Some(name) if is_conventional => name.to_owned(),
            _ => label.clone(),
        },
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.clone())),
        }),
        ..Default::default()
    };
    labels.map(attribute).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::Metrics;

    /// The metrics that a program with one failed and two answered calls sends.
    fn sent() -> Vec<Metric> {
        let metrics = Metrics::new(&["VALID"]);
        let rpc = metrics
            .ports
            .rpc("Verify", "keyward.v1.ApiKeyService/Verify");
        rpc.observe(Code::Ok, Duration::from_micros(60));
        rpc.observe(Code::Ok, Duration::from_secs(60));
        rpc.observe(Code::Unavailable, Duration::from_millis(1));
        metrics.verdict(0);
        metrics.fence.freshness_age.set(0.25);
        read(&metrics.encode(), [1, 2])
    }

    fn texts(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
        attributes
            .iter()
            .map(
                |attribute| match attribute.value.as_ref().unwrap().value.as_ref().unwrap() {
                    any_value::Value::StringValue(text) => (attribute.key.as_str(), text.as_str()),
                    other => panic!("{other:?}"),
                },
            )
            .collect()
    }

    #[test]
    fn each_metric_of_the_side_port_is_sent() {
        let sent = sent();
        let data = |name: &str| {
            let found: Vec<_> = sent.iter().filter(|metric| metric.name == name).collect();
            let [metric] = found[..] else {
                panic!("{name}: {found:?}");
            };
            assert!(!metric.description.is_empty());
            (metric.unit.as_str(), metric.data.clone().unwrap())
        };
        let (_, Data::Sum(verdicts)) = data("keyward_verify_total") else {
            panic!();
        };
        assert!(verdicts.is_monotonic);
        let [point] = &verdicts.data_points[..] else {
            panic!("{verdicts:?}");
        };
        assert_eq!(texts(&point.attributes), [("verdict", "VALID")]);
        assert_eq!(point.value, Some(Value::AsDouble(1.0)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
        let ("s", Data::Gauge(age)) = data("keyward_freshness_age_seconds") else {
            panic!();
        };
        assert_eq!(age.data_points[0].value, Some(Value::AsDouble(0.25)));
        let ("s", Data::Histogram(calls)) = data("rpc.server.call.duration") else {
            panic!();
        };
        let [ok, failed] = &calls.data_points[..] else {
            panic!("{calls:?}");
        };
        let conventional = |code| {
            [
                ("rpc.system.name", "grpc"),
                ("rpc.method", "keyward.v1.ApiKeyService/Verify"),
                ("rpc.response.status_code", code),
            ]
        };
        assert_eq!(texts(&ok.attributes), conventional("OK"));
        assert_eq!(texts(&failed.attributes), conventional("UNAVAILABLE"));
        assert_eq!((ok.count, failed.count), (2, 1));
        assert_eq!(ok.bucket_counts.len(), ok.explicit_bounds.len() + 1);
        assert_eq!(ok.bucket_counts.iter().sum::<u64>(), 2);
        // 60 us lie in the second bucket, 60 s above the last bound.
        assert_eq!(
            (ok.bucket_counts[1], ok.bucket_counts.last()),
            (1, Some(&1))
        );
        assert!(ok.sum.is_some_and(|sum| (sum - 60.00006).abs() < 1e-6));
        let (_, Data::Histogram(own)) = data("keyward_rpc_duration_seconds") else {
            panic!();
        };
        let labels = texts(&own.data_points[0].attributes);
        assert_eq!(labels, [("method", "Verify"), ("code", "OK")]);
    }
}
